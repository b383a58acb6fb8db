"""Progress of machines that run at once: a line each on a terminal, phases in a log."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kvmharness.lab.matrix import Progress, Target


@contextmanager
def watch(targets: Sequence[Target]) -> Iterator[Progress]:
    """Show what each target does, on stderr, until left."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield _log
        return
    doing = dict.fromkeys(targets, "waiting")

    def table() -> Table:
        rows = Table.grid(padding=(0, 2))
        for target, line in doing.items():
            rows.add_row(Text(target.label), Text(line))
        return rows

    with Live(table(), console=console, transient=True, refresh_per_second=4) as live:

        def heard(target: Target, line: str) -> None:
            doing[target] = line
            live.update(table())

        yield heard


def _log(target: Target, line: str) -> None:
    """Write a line a phase: a log needs no line a case."""
    if not line.startswith(("warming", "measuring", "counting")):
        print(f"{target.label}: {line}", file=sys.stderr, flush=True)
