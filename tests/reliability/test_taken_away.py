"""What a run works with is taken away meanwhile: its CPU, /dev/kvm.

Not the machine's own: a cpuset of ours loses a CPU, which takes a pinned thread off it as the
CPU's going offline would, and a mount of ours covers /dev/kvm.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvmharness.model import runfile
from tests.support import cgroups

pytestmark = pytest.mark.kvm

RUN = [sys.executable, "-m", "kvmharness", "run", "long64/empty"]
# Longer than any wait below; it is ended by what is taken away.
LONG = ["--vms", "1000", "--samples", "20000", "--precision", "100"]
TAKEN_AWAY = """
set -e
mount -t tmpfs none "$1"
mknod "$1/kvm" c 10 232
mknod "$1/none" c 10 231
mount --bind "$1/kvm" /dev/kvm
shift
"$@" &
until [ -s "$FIRST" ]; do kill -0 $!; sleep 0.1; done
mount --bind "${FIRST%/*}/../mount/none" /dev/kvm
wait $!
"""


def _cpuset(cpus: str) -> Path | None:
    """Make a cpuset, of either version of cgroups."""
    for root in (Path("/sys/fs/cgroup/cpuset"), Path("/sys/fs/cgroup")):
        made = root / f"kvmharness-test-{os.getpid()}"
        try:
            if (root / "cgroup.subtree_control").exists():
                (root / "cgroup.subtree_control").write_text("+cpuset")
            made.mkdir()
        except OSError:
            continue
        try:
            (made / "cpuset.mems").write_text("0")
            (made / "cpuset.cpus").write_text(cpus)
        except OSError:
            made.rmdir()
            continue
        return made
    return None


@pytest.fixture
def two_cpus() -> Iterator[Path]:
    """A cpuset of our own with two CPUs."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        pytest.skip("needs two CPUs")
    made = _cpuset(f"{cpus[0]},{cpus[1]}")
    if made is None:
        pytest.skip("no cpuset can be had here")
    yield made
    cgroups.remove(made)


def test_a_cpu_that_went_offline_ends_the_run_and_costs_nothing_that_was_measured(
    two_cpus: Path, tmp_path: Path
) -> None:
    lost, stays = (two_cpus / "cpuset.cpus").read_text().strip().replace("-", ",").split(",")
    path = tmp_path / "a.json"
    with subprocess.Popen(
        [*RUN, *LONG, "--pin", lost, "-o", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: (two_cpus / "cgroup.procs").write_text(str(os.getpid())),  # noqa: PLW1509
    ) as process:
        end = time.monotonic() + 60
        while not path.exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        (two_cpus / "cpuset.cpus").write_text(stays)
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 2, err
    assert f"--pin {lost}: " in err
    assert f"this process may use {stays}" in err
    assert "cut short" in out
    assert runfile.read(path).cases[0].samples


def test_kvm_taken_away_between_two_runs_costs_nothing_of_the_first(tmp_path: Path) -> None:
    if os.geteuid() or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare")
    mount, runs = tmp_path / "mount", tmp_path / "runs"
    mount.mkdir()
    if subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("no mounts of our own can be had here")
    first = runs / "run-1.json"
    few = ["--vms", "5", "--samples", "25", "--runs", "40", "-o", str(runs)]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", TAKEN_AWAY, "sh", str(mount), *RUN, *few],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "FIRST": str(first)},
    )
    assert done.returncode == 77, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("kvmharness: open /dev/kvm: ENODEV: no KVM module answers"), last
    assert runfile.read(first).finished
