"""What one would paste below a patch: plain text of 72 columns."""

from __future__ import annotations

import io
import shlex
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from kvmharness.analysis import compare, repeat
from kvmharness.analysis.load import RunFile
from kvmharness.errors import UsageError
from kvmharness.model.run import Run
from kvmharness.render import compare_table, fitting, tables
from kvmharness.text import printable

COLUMNS = 72
# Remarks on what could not be counted or tried, which the run files have.
LEFT_TO_FILES = ("not counted", "W^X not proved")


def _hosts(file: RunFile, out: Console) -> None:
    fitting.say(f"{file.name}, taken {file.run.started}:", out, COLUMNS)
    for line in (*tables.head(file.run), *_remarks(file.run)):
        fitting.say(line, out, COLUMNS, indent="  ")


def _remarks(run: Run) -> list[str]:
    return [line for line in tables.remarks(run) if not line.startswith(LEFT_TO_FILES)]


def _broken(words: Sequence[str]) -> list[str]:
    """Return a command in lines that a shell takes for one; an option stays with its value."""
    units: list[str] = []
    for number, word in enumerate(words):
        quoted = shlex.quote(printable(word))
        if number and words[number - 1].startswith("-") and not word.startswith("-"):
            units[-1] += f" {quoted}"
        else:
            units.append(quoted)
    lines = [f"  {units[0]} {units[1]}"]
    for unit in units[2:]:
        if len(lines[-1]) + 1 + len(unit) + len(" \\") > COLUMNS:
            lines[-1] += " \\"
            lines.append(f"      {unit}")
        else:
            lines[-1] += f" {unit}"
    return lines


def _repeat(files: Sequence[RunFile], out: Console) -> None:
    commands = repeat.commands(files)
    for before, command in zip([None, *commands], commands, strict=False):
        if before is None or command.where != before.where:
            fitting.say(f"{command.where}:", out, COLUMNS)
        out.print(Text("\n".join(_broken(command.words))), soft_wrap=True)
    if len(commands) > 1:
        fitting.say("and then:", out, COLUMNS)
        compared = ["kvmharness", "compare", *(command.left for command in commands)]
        out.print(Text("\n".join(_broken(compared))), soft_wrap=True)


def render(files: Sequence[RunFile]) -> str:
    """Return the mail of the runs, the first of which is the base of every comparison.

    Raises UsageError for runs of different clocks.
    """
    clocks = {file.run.clock for file in files}
    if len(clocks) > 1:
        raise UsageError(
            f"report: runs of different clocks ({', '.join(sorted(clocks))}) cannot be compared; "
            "make a report for each"
        )
    text = io.StringIO()
    out = Console(file=text, width=tables.WIDTH, highlight=False, color_system=None)
    base, *others = (compare.side(file.name, [file.run]) for file in files)
    for side in others:
        compare_table.show_comparison(compare.compare(base, side), out, COLUMNS, hint=False)
        out.print()
    if not others:
        fitting.show(tables.columns(files[0].run), out, COLUMNS, hint=False)
        out.print()
    for file in files:
        _hosts(file, out)
    out.print()
    version = ", ".join(dict.fromkeys(file.run.tool.version for file in files))
    fitting.say(f"To repeat it with kvmharness {version}:", out, COLUMNS)
    _repeat(files, out)
    return "".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())
