"""The tutorial is run, line by line, and what it prints is what stands there."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.kernels import need_lab
from tests.test_docs import PAGES

ROOT = Path(__file__).parents[1]
TUTORIAL = ROOT / "docs/tutorial.md"
MARKS = {"": (), "kvm": (pytest.mark.kvm,), "lab": (pytest.mark.lab,)}
# What any page may call that needs neither a file nor a kernel, and changes nothing.
HARMLESS = re.compile(r"kvmharness (run --list .*|tune --dry-run|\S+ --help)")


class Block(NamedTuple):
    """A block of commands: what it needs, and each command with what it prints."""

    needs: str
    calls: list[tuple[str, str]]


def blocks() -> list[Block]:
    """Return the tutorial's blocks of commands, in order."""
    found = re.findall(r"^```console ?(\w*)\n(.*?)^```", TUTORIAL.read_text(), re.M | re.S)
    made = []
    for needs, text in found:
        calls = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE)
        assert calls, text
        made.append(Block(needs, calls))
    return made


def call(command: str, folder: Path) -> str:
    """Return what a command prints in a shell whose kvmharness is this one's."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Lay down a folder that has of the checkout what the tutorial looks at, and takes the rest."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/recordings").symlink_to(ROOT / "tests/recordings")
    return tmp_path


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "needs", [pytest.param(n, marks=m, id=n or "any") for n, m in MARKS.items()]
)
def test_the_tutorial_does_what_it_says(needs: str, checkout: Path) -> None:
    if needs == "lab":
        need_lab()
    chosen = [block for block in blocks() if block.needs == needs]
    assert chosen
    for command, expected in (c for block in chosen for c in block.calls):
        printed = call(command, checkout)
        # A line that is an ellipsis may stand for none.
        wanted = expected.replace("\n...\n", "...")
        same = doctest.OutputChecker().check_output(
            wanted, printed, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        )
        assert same, f"$ {command}\n{printed}\ninstead of\n{expected}"


def test_every_block_of_the_tutorial_says_what_it_needs() -> None:
    found = blocks()
    assert {block.needs for block in found} == set(MARKS)
    assert len(re.findall(r"^```\w", TUTORIAL.read_text(), re.MULTILINE)) == len(found)


def harmless() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for command in dict.fromkeys(HARMLESS.findall(text)):
            yield page.name, f"kvmharness {command.partition('`')[0]}"


@pytest.mark.parametrize(("page", "command"), list(harmless()))
def test_what_needs_nothing_runs_as_the_pages_have_it(
    page: str, command: str, checkout: Path
) -> None:
    assert call(command, checkout)


def test_completion_is_set_up_as_the_page_says(checkout: Path) -> None:
    text = (ROOT / "docs/reporting.md").read_text()
    (line,) = re.findall(r"^(eval .*bash_source.*?)\s+#", text, re.MULTILINE)
    assert call(f"bash -c {line!r}' && complete -p kvmharness'", checkout).startswith("complete ")


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text()
    pages = [page for page in PAGES if page.parent == ROOT / "docs" and page.name != "README.md"]
    assert [page.name for page in pages if f"({page.name}" not in index] == []
