"""Every command's help has an example, and the example is one."""

from __future__ import annotations

import re
import shlex

import click
import pytest

from kvmharness.cli import main
from kvmharness.errors import UsageError
from kvmharness.model import cases


def commands(group: click.Group, *path: str) -> dict[tuple[str, ...], click.Command]:
    """Return every command by the words that call it."""
    found: dict[tuple[str, ...], click.Command] = {}
    for name, command in group.commands.items():
        found[*path, name] = command
        if isinstance(command, click.Group):
            found |= commands(command, *path, name)
    return found


COMMANDS = commands(main)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_example_is_a_call_of_the_command(path: tuple[str, ...]) -> None:
    found = re.findall(r"^\s*Example: (.+)$", COMMANDS[path].help or "", re.MULTILINE)
    assert found
    for example in found:
        words = tuple(shlex.split(example))
        assert words[: len(path) + 1] == ("kvmharness", *path)
        # It parses; nothing is run.
        COMMANDS[path].make_context(path[-1], list(words[len(path) + 1 :]))


def test_what_is_measured_without_a_pattern_is_what_the_help_says() -> None:
    said = " ".join((COMMANDS["run",].help or "").split())
    (ops, guests) = re.findall(r"Without one: (.+?) of (.+?);", said)[0]
    names = [re.split(r", | and ", words) for words in (guests, ops)]
    assert [c.name for c in cases.select([])] == [f"{g}/{o}" for g in names[0] for o in names[1]]
    assert len(cases.select(["*"])) > len(cases.select([]))


def test_who_asks_for_a_case_that_there_is_not_is_sent_to_all_of_them() -> None:
    with pytest.raises(UsageError, match=r"kvmharness run --list '\*'"):
        cases.select(["nosuch"])
