"""The yardstick in C builds and runs the blobs of today."""

from __future__ import annotations

import os
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest

from kvmharness import guest

BARE = Path(__file__).parents[1] / "bench" / "bare.c"


@pytest.mark.kvm
@pytest.mark.parametrize("name", ["real16", "long64"])
def test_bare_c_measures_the_same_blob(tmp_path: Path, name: str) -> None:
    program = tmp_path / "bare"
    compiler = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(BARE)]
    subprocess.run(compiler, check=True)
    blob = Path(str(files("kvmharness"))) / "blobs" / f"{name}.bin"
    entry = guest.blob(name).symbols["op_cr0_wp"]
    cpu = max(os.sched_getaffinity(0))
    arguments = [str(x) for x in (blob, entry, name, cpu, 100, 4, 2)]
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=True, timeout=30
    )
    rows = [[int(x) for x in line.split()] for line in done.stdout.splitlines()]
    assert [len(row) for row in rows] == [6, 6]
    assert min(min(row) for row in rows) > 0
