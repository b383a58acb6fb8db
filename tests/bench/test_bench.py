"""The benchmarks still run: the yardstick in C, and the simulation of compare."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from kvmharness.guest import state

BENCH = Path(__file__).parents[2] / "bench"
BARE = BENCH / "bare.c"
POWER = BENCH / "compare_power.py"


@pytest.mark.kvm
@pytest.mark.parametrize("name", ["real16", "long64"])
def test_bare_c_measures_the_same_blob(tmp_path: Path, name: str) -> None:
    if shutil.which("cc") is None:
        pytest.skip("not installed: cc (no compiler is taken into a lab)")
    program = tmp_path / "bare"
    compiler = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(BARE)]
    subprocess.run(compiler, check=True)
    blob = Path(str(files("kvmharness"))) / "blobs" / f"{name}.bin"
    entry = state.blob(name).symbols["op_cr0_wp"]
    cpu = max(os.sched_getaffinity(0))
    arguments = [str(x) for x in (blob, entry, name, cpu, 100, 4, 2)]
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=True, timeout=30
    )
    rows = [[int(x) for x in line.split()] for line in done.stdout.splitlines()]
    assert [len(row) for row in rows] == [6, 6]
    assert min(min(row) for row in rows) > 0


def test_simulation_of_compare_meets_its_goals() -> None:
    """Fewer comparisons than bench/compare_power.py makes by itself; its seed is fixed."""
    done = subprocess.run(
        [sys.executable, POWER, "60"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("met\n")
