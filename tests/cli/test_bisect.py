"""The documented recipe: `git bisect run` over kernels that the lab boots."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.kernels import CURED, UNCURED, need_lab, newest

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]
# As if time ran backwards: what is new lost the cure.  One commit has built no kernel at all: the
# folder that it names is there, and holds none.
HISTORY = ("7", "6.12", ".", CURED, UNCURED, UNCURED)
FIRST_BAD = 4


def git(repository: Path, *arguments: str) -> str:
    who = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    done = subprocess.run(
        ["git", *who, *arguments], cwd=repository, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_the_first_bad_kernel_is_found(tmp_path: Path) -> None:
    need_lab(*(series for series in HISTORY if series != "."))
    git(tmp_path, "init", "-q", "-b", "main")
    commits = []
    for number, series in enumerate(HISTORY):
        name = series if series == "." else newest(series)
        (tmp_path / "kernel").write_text(name)
        (tmp_path / "number").write_text(str(number))
        git(tmp_path, "add", ".")
        git(tmp_path, "commit", "-q", "-m", f"{number}: {name}")
        commits.append(git(tmp_path, "rev-parse", "HEAD"))
    check = (
        f'{sys.executable} -m kvmharness check --lab "$(cat kernel)" --variant tdp --bisect '
        "--expect 'long64/cr0_wp < 10000 insn' --expect 'long64/cr0_wp class exit/kept'"
    )
    git(tmp_path, "bisect", "start", commits[-1], commits[0])
    found = git(tmp_path, "bisect", "run", "sh", "-c", check)
    assert f"{commits[FIRST_BAD]} is the first bad commit" in found
