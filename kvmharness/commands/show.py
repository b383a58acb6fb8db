"""kvmharness show."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
def show(file: Path) -> None:
    """Print the table of a result file, and the curves of its sweeps.

    Example: kvmharness show here.json
    """
    from kvmharness import curves, results, summary

    record = results.read(file)
    summary.summarise(record)  # a killed run's figures may be older than its samples
    curves.print_run(record)
