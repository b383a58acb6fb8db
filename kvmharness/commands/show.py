"""kvmharness show."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--plot", is_flag=True, help="Draw each case's samples too.")
def show(file: Path, plot: bool) -> None:
    """Print the table of a result file, and the curves of its sweeps.

    Example: kvmharness show here.json --plot
    """
    from kvmharness.analysis import load
    from kvmharness.render import curves, distributions, tables

    record = load.one(file).run
    curves.print_run(record)
    if plot:
        distributions.show_samples(record, tables.console())
