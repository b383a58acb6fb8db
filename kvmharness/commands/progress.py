"""kvmharness progress."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from kvmharness import errors


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
def progress(runs: tuple[Path, ...]) -> None:
    """Show how much of its work a guest's kernel still does when it protects its writes.

    RUN is a result file of `run` or `lab` with `--suite progress`, or a folder of such. Each figure
    stands beside its rate: one protected write (two CR0.WP toggles) for so much work.

    Example: kvmharness progress runs
    """
    from kvmharness.analysis import load
    from kvmharness.analysis import progress as analysis
    from kvmharness.model import cases
    from kvmharness.render import progress_table, tables

    out = tables.console()
    shown = 0
    for number, (name, run) in enumerate(load.classified(runs)):
        rows, lacking = analysis.of(run)
        if not any(case.op in cases.PROTECTED for case in run.cases):
            raise errors.UsageError(
                f"progress {name}: it has no case of work; measure with --suite progress"
            )
        if number:
            click.echo()
        progress_table.show(run, rows, lacking, out)
        shown += len(rows)
    sys.exit(errors.EXIT_OK if shown else errors.EXIT_NOTHING_RAN)
