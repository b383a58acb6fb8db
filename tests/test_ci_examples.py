"""The examples for CIs: their steps are run as the CI would, but for what only that has."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.kernels import need_lab
from tests.test_docs import command_of

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples/ci").glob("*.yml"))
# What prepares the CI's own machine.
PREPARES = re.compile(r"apt-get|python3 -m venv|/opt/kvmharness/bin|GITHUB_PATH")


def steps(example: Path) -> list[str]:
    """Return the shell lines of an example: those of `run: |` blocks, or of a list of steps."""
    text = example.read_text()
    lines = []
    for _, block in re.findall(r"^( *)run: \|\n((?:\1  .*\n)+)", text, re.MULTILINE):
        lines += [line.strip() for line in block.splitlines()]
    for _, block in re.findall(
        r"^( *)(?:script|steps):\n((?:\1  +[-#] .*\n)+)", text, re.MULTILINE
    ):
        lines += re.findall(r"^ *- (.*)", block, re.MULTILINE)
    kept = [line for line in lines if "kvmharness" in line or "results" in line]
    return [line for line in kept if not PREPARES.search(line)]


def test_there_is_an_example_for_each() -> None:
    assert [path.stem for path in EXAMPLES] == ["github", "gitlab", "lava"]
    assert all(len(steps(path)) >= 4 for path in EXAMPLES)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_no_example_has_a_tab_or_names_what_is_not_there(example: Path) -> None:
    text = example.read_text()
    assert "\t" not in text  # YAML has none
    for line in steps(example):
        for command in re.findall(r"kvmharness (?:run|lab|check|export|report)\b", line):
            assert command_of(command.split())


@pytest.mark.lab
@pytest.mark.timeout(600)
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_steps_pass(example: Path, tmp_path: Path) -> None:
    need_lab()
    tools = tmp_path / "tools"
    tools.mkdir()
    # LAVA's own command is on its devices only: this one notes what it was told.
    (tools / "lava-test-case").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/told\n')
    (tools / "lava-test-case").chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "KERNEL": "linux-image-6.1.0-56-amd64",
        "GITHUB_ACTIONS": "true",
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
    }
    script = "\n".join(["set -e", *steps(example)])
    done = subprocess.run(
        ["sh", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
    assert "::" not in done.stdout
    if example.stem == "github":
        assert "long64/cr0_wp" in (tmp_path / "summary.md").read_text()
    if example.stem == "lava":
        assert "long64-cr0_wp --result pass" in (tmp_path / "told").read_text()
