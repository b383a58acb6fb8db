"""Progress of builds and machines on stderr: a line for each, on a terminal; in a log, phases."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kvmharness.errors import LabLost
from kvmharness.lab.planning import OnProgress, Target

# A log gets no count of compiled files sooner after the last one.
EVERY_S = 30.0


@contextmanager
def watch(targets: Sequence[Target]) -> Iterator[OnProgress]:
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
    """Write one line per phase; a log needs none per case."""
    if not line.startswith(("warming", "measuring", "counting")):
        print(f"{target.label}: {line}", file=sys.stderr, flush=True)


@contextmanager
def building(what: str) -> Iterator[Callable[[str], None]]:
    """Show on stderr how far the build of `what` is, until left."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield _Log(what).heard
        return
    with console.status(what) as status:

        def heard(line: str) -> None:
            # A count replaces the one before it; any other line stays to be read.
            if _counts(line):
                status.update(f"{what}: {line}")
            else:
                console.print(f"{what}: {line}", markup=False, soft_wrap=True)

        yield heard


def _counts(line: str) -> bool:
    return line.startswith("compiling")


class _Log:
    def __init__(self, what: str) -> None:
        self._what = what
        self._said = 0.0

    def heard(self, line: str) -> None:
        now = time.monotonic()
        if _counts(line):
            if now - self._said < EVERY_S:
                return
            self._said = now
        print(f"{self._what}: {line}", file=sys.stderr, flush=True)


def show_console(lost: LabLost) -> None:
    """Print what a kernel that was lost said last, on stderr."""
    for line in lost.console.splitlines():
        click.echo(f"    {line}", err=True)
