"""What a cluster gains: one timeline by Dask's workers, on this machine, one and two of them.

    python bench/scale.py [KERNEL]     default: linux-image-6.1.0-56-amd64

Each worker has a cache of its own, as on another machine; "cold" is its first job's, with the
kernel and the capsule on their way.  CPU seconds do not depend on what else this machine does, the
wall clock does: the load before and after is printed with it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

KERNEL = "linux-image-6.1.0-56-amd64"
WAYS = ["--variant", "tdp", "--variant", "shadow"]
SHORT = "--case long64/empty --case long64/cr0_wp --vms 2 --samples 4".split()
TICKS = os.sysconf("SC_CLK_TCK")


class Cpu(NamedTuple):
    """CPU seconds of a process itself, and of its children that have ended."""

    own: float
    children: float


def cpu(process: subprocess.Popen[bytes]) -> Cpu:
    """Return what a process has used so far."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    user, system, of_children, system_of_children = map(int, fields[11:15])
    return Cpu((user + system) / TICKS, (of_children + system_of_children) / TICKS)


def start(stack: ExitStack, log: Path, *arguments: str, **env: str) -> subprocess.Popen[bytes]:
    """Start one of Dask's programs, which ends with the stack."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dask", *arguments, "--no-dashboard"],
        stdout=stack.enter_context(log.open("wb")),
        stderr=subprocess.STDOUT,
        env={**os.environ, **env},
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


def timeline(folder: Path, address: str, kernel: str) -> tuple[float, float]:
    """Measure; return the seconds by the wall clock, and the CPU seconds of the client."""
    command = [sys.executable, "-m", "kvmharness", "timeline", kernel, *WAYS, *SHORT]
    before, began = os.times(), time.monotonic()
    subprocess.run(
        [*command, "-o", str(folder), "--scheduler", address],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    after = os.times()
    used = after.children_user + after.children_system
    return time.monotonic() - began, used - before.children_user - before.children_system


def measure(workers: int, kernel: str, home: Path) -> None:
    """Print a row for a cold and one for a warm timeline by so many workers."""
    with ExitStack() as stack:
        file = home / "scheduler"
        where = ["--host=127.0.0.1", "--port=0", f"--scheduler-file={file}"]
        scheduler = start(stack, home / "scheduler.log", "scheduler", *where)
        while not (file.exists() and file.stat().st_size):
            time.sleep(0.2)
        running = []
        for number in range(workers):
            cache = home / f"cache{number}"
            cache.mkdir()
            options = ["--nthreads=1", "--no-nanny", f"--local-directory={cache}"]
            arguments = ["worker", f"--scheduler-file={file}", *options]
            log = home / f"worker{number}.log"
            running.append(start(stack, log, *arguments, XDG_CACHE_HOME=str(cache)))
        address = json.loads(file.read_text())["address"]
        time.sleep(10)
        for state in ("cold", "warm"):
            all_before, load = [cpu(p) for p in (scheduler, *running)], os.getloadavg()[0]
            wall, client = timeline(home / state, address, kernel)
            all_after = [cpu(p) for p in (scheduler, *running)]
            own = [a.own - b.own for a, b in zip(all_after, all_before, strict=True)]
            emulators = sum(
                a.children - b.children for a, b in zip(all_after, all_before, strict=True)
            )
            print(
                f"{workers} workers, {state}: {wall:.1f} s; CPU s: emulators and tools "
                f"{emulators:.1f}, workers {sum(own[1:]):.1f}, scheduler {own[0]:.1f}, client "
                f"{client:.1f}; load {load:.1f} to {os.getloadavg()[0]:.1f}",
                flush=True,
            )


def main() -> int:
    kernel = sys.argv[1] if len(sys.argv) > 1 else KERNEL
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            measure(workers, kernel, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
