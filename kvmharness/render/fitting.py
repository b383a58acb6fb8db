"""Tables that fit a terminal: what matters least is shortened, then left out, and named."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kvmharness.text import printable

GAP = 2
# Below this nothing can be read, and a terminal that says so is wrong.
LEAST = 40
# A case's name is broken into lines of no fewer characters.
LEAST_FOLDED = 12


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Where there is no room the column with the highest `goes` gives way first, to its `brief` form
    or, without one, altogether; 0 never does.  `lost` is what a brief form does not say any more.
    Where `wraps`, its cells may take several lines.
    """

    title: str
    cells: Sequence[Text]
    right: bool = True
    goes: int = 0
    brief: Column | None = None
    lost: str = ""
    wraps: bool = False

    @property
    def width(self) -> int:
        lines = [Text(line) for line in self.title.split("\n")]
        return max(cell.cell_len for cell in (*lines, *self.cells))


def numbers(title: str, cells: Sequence[str], goes: int = 0) -> Column:
    """Return a column of figures."""
    return Column(title, [Text(cell) for cell in cells], goes=goes)


def room() -> int | None:
    """Return how many columns stdout shows, None where all fits: it goes to no terminal.

    The variable COLUMNS says it for whatever stdout is.
    """
    asked = os.environ.get("COLUMNS", "")
    if asked.isdecimal() and int(asked):
        return max(LEAST, int(asked))
    try:
        columns = os.get_terminal_size(1).columns
    except OSError:
        return None
    return max(LEAST, columns) if columns else None


def width(columns: Sequence[Column]) -> int:
    """Return how wide a table of these columns is."""
    return sum(column.width for column in columns) + GAP * (len(columns) - 1)


def fit(columns: Sequence[Column], most: int | None) -> tuple[list[Column], list[str]]:
    """Return what of a table fits into `most` columns, and what was left out for it."""
    shown, left_out = list(columns), []
    while most is not None and width(shown) > most:
        at = max(range(len(shown)), key=lambda n: shown[n].goes)
        if not shown[at].goes:
            break
        brief = shown[at].brief
        lost = shown[at].title if brief is None else brief.lost
        left_out += [lost] if lost else []
        shown[at : at + 1] = [] if brief is None else [brief]
    return shown, left_out


def show(columns: Sequence[Column], out: Console, most: int | None, *, hint: bool = True) -> None:
    """Print a table in at most so many columns, and what was left out of it for that.

    `hint` says too how to see it.

    The first column, the names of the rows, is folded where nothing else can give way.
    """
    shown, left_out = fit(columns, most)
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    over = max(0, width(shown) - most) if most else 0
    names = max(LEAST_FOLDED, shown[0].width - over)
    for number, column in enumerate(shown):
        side: Literal["right", "left"] = "right" if column.right else "left"
        if number:
            table.add_column(column.title, justify=side, no_wrap=not column.wraps)
        else:
            table.add_column(column.title, justify=side, overflow="fold", max_width=names)
    for cells in zip(*(column.cells for column in shown), strict=True):
        table.add_row(*cells)
    out.print(table)
    if left_out:
        how = f"; with COLUMNS={width(columns)} before the command all is shown"
        say(
            f"left out to fit {most} columns: {', '.join(left_out)}{how if hint else ''}", out, most
        )


def say(line: str, out: Console, most: int | None, indent: str = "") -> None:
    """Print a line, broken between words where it would be broken anywhere else."""
    line = printable(line)
    lines = [f"{indent}{line}"]
    if most is not None:
        lines = textwrap.wrap(
            line,
            most,
            initial_indent=indent,
            subsequent_indent=f"{indent}  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    for text in lines:
        out.print(Text(text), soft_wrap=True)
