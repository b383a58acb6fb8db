"""What README and the docs name is there: files, headings, targets of make, commands, options."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tests.cli.test_help import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = [
    page
    for pattern in ("*.md", "docs/**/*.md")
    for page in sorted(ROOT.glob(pattern))
    # What was there once is named there too.
    if page.name != "CHANGELOG.md"
]
FOLDERS = "kvmharness|tests|bench|guests|scripts|docs"
# A word in capitals stands for many, as in guests/MODE.S.
PATH = re.compile(rf"(?<![\w/.~-])((?:{FOLDERS})/[\w./-]*\w)")
# What a page says in place of an argument that the parser looks at, and one that will do.
STANDS_FOR = {"FORMAT": "csv", "PCT": "5", "N": "5"}
# Options of others that a page speaks of, and one of which it says why there is none.
NOT_OURS = {"--force", "--first-parent"}


def by_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """Return how the headings of a page are called in a link."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not link.startswith(("http:", "https:")):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_every_path_of_the_tree_is_there(page: Path) -> None:
    for path in PATH.findall(page.read_text()):
        if not re.search(r"[A-Z]{3}", Path(path).stem):
            there = (ROOT / path).exists() or any(ROOT.glob(f"{path}.*"))
            assert there, path


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_every_target_of_make_is_one(page: Path) -> None:
    made = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)`", page.read_text())) <= made


def first_command(line: str) -> list[str]:
    """Return the words of a shell line's first command, without what follows on it."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&")
    lexer.whitespace_split = True
    return list(itertools.takewhile(lambda word: not set(word) <= set("|;&"), lexer))


def calls(page: Path) -> Iterator[list[str]]:
    """Return the command lines of a page that are whole, as words.

    One in running text may be only a command's name.  What stands for anything, as FILE or
    EXPR..., counts as a word.
    """
    text = page.read_text().replace("\\\n", " ")
    for block in re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            found = re.match(r"(?:\s*\$)?\s*(kvmharness [a-z].*)", line)
            if found:
                yield first_command(found[1])
    for line in re.findall(r"`(kvmharness [a-z][^`]*)`", text):
        # NAME\|FILE in a table is one of either; [OPTIONAL] may be left out.
        whole = re.sub(r"\\\|\S*|\[[^]]*\]|\.\.\.", "", " ".join(line.split()))
        yield shlex.split(whole)


def command_of(words: list[str]) -> tuple[click.Command, list[str]] | None:
    """Return the command that words call and what it is given."""
    for length in (2, 1):
        command = COMMANDS.get(tuple(words[1 : 1 + length]))
        if command:
            return command, words[1 + length :]
    return None


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_every_command_line_parses(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("A", "B"):  # two builds of KVM's modules
        Path(folder).mkdir()
    for words in calls(page):
        found = command_of(words)
        assert found, words
        command, given = found
        if given and not isinstance(command, click.Group):
            given = [STANDS_FOR.get(word, word) for word in given]
            command.make_context(words[1], given)


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_every_option_is_one_of_some_command(page: Path) -> None:
    known = {o for c in COMMANDS.values() for p in c.params for o in p.opts} | {"--help"}
    text = page.read_text()
    for command, option in re.findall(r"`(?:kvmharness )?([a-z]+) [^`]*?(--[a-z-]+)", text):
        if (command,) in COMMANDS:
            mine = {o for p in COMMANDS[command,].params for o in p.opts}
            assert option in mine, f"{command} {option}"
    for option in re.findall(r"`(--[a-z][a-z-]*)", text):
        assert option in known | NOT_OURS, option


def test_the_table_of_commands_names_options_that_they_have() -> None:
    table = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| `kvmharness ([a-z]+)[^|]*(?:\\\|[^|]*)*\|(.*)$", table, re.MULTILINE)
    assert {name for name, _ in rows} == {path[0] for path in COMMANDS if path[0] != "bisect-step"}
    for name, about in rows:
        for option in re.findall(r"`(--?[a-z][a-z-]*)", about):
            own = {o for p, c in COMMANDS.items() if p[0] == name for q in c.params for o in q.opts}
            assert option in own, f"{name} {option}"
