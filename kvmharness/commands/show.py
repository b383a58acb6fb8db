"""kvmharness show."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("file", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--plot", is_flag=True, help="Draw each case's samples too.")
def show(file: tuple[Path, ...], plot: bool) -> None:
    """Print the table of each result file, and the curves of its sweeps.

    FILE may be a folder, which stands for its *.json, in sub-folders too.

    Example: kvmharness show here.json --plot
    """
    from kvmharness.analysis import load
    from kvmharness.render import curves, distributions, tables

    found = load.summarised(file)
    for number, (name, record) in enumerate(found):
        if len(found) > 1:
            click.echo(f"{chr(10) if number else ''}{name}:")
        curves.print_run(record)
        if plot:
            distributions.show_samples(record, tables.console())
