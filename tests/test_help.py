"""Every command's help has an example, and the example is one."""

from __future__ import annotations

import re
import shlex

import click
import pytest

from kvmharness.cli import main


def examples(command: click.Command) -> list[str]:
    """Return what stands after `Example:`, a line each."""
    return re.findall(r"^\s*Example: (.+)$", command.help or "", re.MULTILINE)


@pytest.mark.parametrize("name", main.commands)
def test_example_is_a_call_of_the_command(name: str) -> None:
    command = main.commands[name]
    found = examples(command)
    assert found
    for example in found:
        program, called, *arguments = shlex.split(example)
        assert (program, called) == ("kvmharness", name)
        command.make_context(name, arguments)  # parses, and runs nothing
