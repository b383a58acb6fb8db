"""linux-perf as a subprocess, attached to one thread and switched at the doorbells.

perf starts with its events disabled (`-D -1`); `enable` and `disable` go through a control
fifo and are acknowledged through another (perf-stat(1), --control), so what attaching costs
lies outside the counted region.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from kvmharness import child, scratch
from kvmharness.child import environment
from kvmharness.counters.source import Watched
from kvmharness.counters.tracefs import NOT_MOUNTED, tracing
from kvmharness.errors import Unavailable

# perf answers within milliseconds; on an emulated machine `perf record` starts in half a minute.
ACK_TIMEOUT_S = 60.0
# Before any thread is pinned.
ALLOWED_CPUS = frozenset(os.sched_getaffinity(0))
# Printing what was recorded takes longer.
TEXT_TIMEOUT_S = 120.0


class PerfError(Unavailable):
    """perf could not count; the message is the reason that stands beside the nulls."""


def _reason(stderr: str) -> str:
    """Return the lines of perf's complaint that say something, as one line."""
    lines = [line.strip() for line in stderr.splitlines()]
    # perf cannot parse the print format of kvm_mmu_get_page, says so, and counts all the same.
    said = [x for x in lines if x and "bad op token" not in x and not x.startswith("Events ")]
    return " ".join(said[:4])[:300] or "no reason given"


def probe(command: str = "perf") -> None:
    """Count one KVM tracepoint over nothing.  Raises PerfError with the reason if it fails.

    perf mounts tracefs where it can and it is not mounted, so this comes before tracing().
    """
    perf_text(["stat", "-j", "-e", "kvm:kvm_exit", "--", "true"], command)


def perf_text(arguments: Sequence[str], command: str = "perf") -> str:
    """Return what `perf ARGUMENTS` prints.  Raises PerfError with its complaint.

    That is its stdout, or its stderr where the former is empty: `perf kvm` reports there.
    """
    if shutil.which(command) is None:
        raise PerfError(f"{command} is not installed: apt-get install linux-perf")
    try:
        done = child.run([command, *arguments], timeout=TEXT_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PerfError(f"{command} {arguments[0]}: {error}") from None
    if done.returncode:
        raise PerfError(f"{command} {arguments[0]}: {_why(done.stderr)}")
    return done.stdout or done.stderr


def _why(stderr: str) -> str:
    """Name the usual causes in one line with what to type; else what perf said."""
    paranoid = Path("/proc/sys/kernel/perf_event_paranoid")
    if "unknown option" in stderr.lower() or "unknown switch" in stderr.lower():
        return "this perf has no JSON output: linux-perf 5.19 or later has it"
    if os.geteuid() != 0 and re.search("permi|access|paranoid", stderr, re.IGNORECASE):
        try:
            level = paranoid.read_text().strip()
        except OSError:
            level = "unknown"
        return (
            f"not permitted to this user (perf_event_paranoid is {level}, tracefs "
            f"{'readable' if tracing() else 'not readable'}): run as root, or sysctl "
            "kernel.perf_event_paranoid=-1 and mount -o remount,mode=755 /sys/kernel/tracing"
        )
    if tracing() is None:
        return NOT_MOUNTED
    return _reason(stderr)


class Attached:
    """A perf process on `threads` (the calling one), its counting switched on and off by us.

    `arguments` follow `perf`, e.g. ["stat", "-j", ...]; what it writes to `-o` lies in
    `output`, a file of its own folder.  Raises PerfError.
    """

    def __init__(
        self, arguments: Sequence[str], command: str = "perf", threads: Sequence[int] = ()
    ) -> None:
        self._threads = threads or [threading.get_native_id()]
        try:
            self._folder = scratch.Scratch("kvmharness-perf-")
        except OSError as error:
            raise PerfError(f"temporary folder: {error.strerror}: set TMPDIR") from None
        self.output = self._folder.path / "output"
        self._fds: list[int] = []
        self.process: subprocess.Popen[str] | None = None
        try:
            self._start([command, *arguments, "-o", str(self.output)])
        except OSError as error:
            self.close()
            raise PerfError(f"{command}: {error.strerror}") from None

    def _start(self, command: list[str]) -> None:
        paths = [str(self._folder.path / name) for name in ("control", "ack")]
        for path in paths:
            os.mkfifo(path)
            # Read-write, so that neither side waits for the other to open.
            self._fds.append(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
        control = ["--control", f"fifo:{paths[0]},{paths[1]}", "-D", "-1"]
        thread = ["-t", ",".join(map(str, self._threads))]
        self._log = open(self._folder.path / "log", "w+")  # noqa: SIM115
        # Its own session: Ctrl-C is for us, we end perf.
        self.process = subprocess.Popen(
            [*command, *control, *thread],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            text=True,
            start_new_session=True,
            env=environment(),
        )
        # The vCPU's thread may be pinned: perf, which inherits that, is not to run beside it.
        with suppress(OSError):
            os.sched_setaffinity(self.process.pid, ALLOWED_CPUS)

    def switch(self, word: str) -> None:
        """Send `enable` or `disable` and wait until perf has done it."""
        deadline = time.monotonic() + ACK_TIMEOUT_S
        os.write(self._fds[0], f"{word}\n".encode())
        while time.monotonic() < deadline:
            if select.select([self._fds[1]], [], [], 0.05)[0]:
                os.read(self._fds[1], 64)
                return
            if self.process is None or self.process.poll() is not None:
                raise PerfError(f"perf ended before it counted: {_why(self.stderr())}")
        raise PerfError(f"perf did not acknowledge {word!r} within {ACK_TIMEOUT_S:g} s")

    def stop(self) -> None:
        """End perf as Ctrl-C would, so that it writes what it has."""
        if self.process is None:
            raise PerfError("perf is not running")
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(ACK_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise PerfError(f"perf did not end within {ACK_TIMEOUT_S:g} s") from None

    def stderr(self) -> str:
        """Return what perf has said so far."""
        self._log.flush()
        return Path(self._log.name).read_text(errors="replace")

    def close(self) -> None:
        """End perf by force if need be, and remove its files."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        while self._fds:
            os.close(self._fds.pop())
        if hasattr(self, "_log"):
            self._log.close()
        self._folder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class PerfSource:
    """A perf command on a guest's threads between two doorbells, as a counter source.

    `names` are what it counts; where perf fails, `failure` says why and each of them is absent.
    Subclasses say in collect() what perf's output file holds.
    """

    def __init__(
        self, arguments: Sequence[str], names: Sequence[str], command: str = "perf"
    ) -> None:
        self.absent: dict[str, str] = {}
        self.failure: str | None = None
        self._arguments = arguments
        self._names = names
        self._command = command
        self._perf: Attached | None = None

    def _fail(self, reason: str) -> None:
        self.failure = reason
        self.absent = dict.fromkeys(self._names, reason)

    def attach(self, guest: Watched) -> None:
        """Start perf on the threads that run this guest's vCPUs."""
        self.attach_to(guest.thread_ids)

    def attach_to(self, threads: Sequence[int]) -> None:
        """Start perf on `threads` (none: the calling one)."""
        self.close()
        self.absent, self.failure = {}, None
        try:
            self._perf = Attached(self._arguments, self._command, threads)
        except PerfError as error:
            self._fail(str(error))

    def begin(self) -> None:
        """Start counting; perf has acknowledged when this returns."""
        if self._perf is not None and self.failure is None:
            try:
                self._perf.switch("enable")
            except PerfError as error:
                self._fail(str(error))

    def end(self) -> dict[str, int]:
        """Stop counting and return the counts, {} where perf failed."""
        if self._perf is None or self.failure is not None:
            return {}
        try:
            self._perf.switch("disable")
            self._perf.stop()
            return self.collect(self._perf.output)
        except PerfError as error:
            self._fail(str(error))
        except OSError as error:
            self._fail(f"perf left no counts: {error.strerror}")
        return {}

    def collect(self, output: Path) -> dict[str, int]:
        """Read what perf wrote.  Raises PerfError or OSError."""
        raise NotImplementedError

    def close(self) -> None:
        """End perf and remove its files."""
        if self._perf is not None:
            self._perf.close()
            self._perf = None
