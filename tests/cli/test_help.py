"""Every command's help has an example, and the example is one."""

from __future__ import annotations

import re
import shlex

import click
import pytest

from kvmharness.cli import main


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
