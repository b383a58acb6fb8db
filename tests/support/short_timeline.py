"""The shortest timeline that boots anything: one kernel, two variants, two cases."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from kvmharness.analysis import repeated
from kvmharness.model import runfile
from tests.support.kernels import CURED, newest

SHORT = "--case long64/empty --case long64/cr0_wp --vms 2 --samples 4".split()
JOBS = 2


def command(folder: Path, *more: str) -> list[str]:
    """Return the command that measures it, one machine at a time unless `more` says otherwise."""
    start = [sys.executable, "-m", "kvmharness", "timeline", newest(CURED)]
    variants = ["--variant", "tdp", "--variant", "shadow"]
    return [*start, *variants, *SHORT, "-o", str(folder), *(more or ("-j", "1"))]


def measure(folder: Path, *more: str, timeout: float = 1500) -> subprocess.CompletedProcess[str]:
    """Measure it, to the end."""
    return subprocess.run(
        command(folder, *more), capture_output=True, text=True, check=False, timeout=timeout
    )


def holds_the_same(folder: Path, expected: Path) -> None:
    """Assert that a folder holds the runs of another one, figure by figure, and nothing else."""
    names = sorted(path.name for path in expected.glob("*.json"))
    assert len(names) == JOBS
    assert sorted(p.name for p in folder.iterdir() if p.name != ".lock") == names
    for name in names:
        assert (
            repeated.differences(runfile.read(expected / name), runfile.read(folder / name)) == []
        )
