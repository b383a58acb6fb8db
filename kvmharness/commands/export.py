"""kvmharness export."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "pyperf", "junit", "ktap"]),
    required=True,
    help="csv: a row a sample; pyperf: its JSON; junit, ktap: test results for CI.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Write this file, not stdout."
)
def export(run: Path, form: str, output: Path | None) -> None:
    """Print a result file in the format of another program.

    Example: kvmharness export here.json --format csv -o here.csv
    """
    from kvmharness import files
    from kvmharness.analysis import load
    from kvmharness.commands import options
    from kvmharness.render.export import csv, junit, ktap, pyperf

    writers = {"csv": csv, "pyperf": pyperf, "junit": junit, "ktap": ktap}
    found = load.one(run)
    data = writers[form].export(found.run, found.name)
    if output:
        target = files.Output(output)
        target.write(data)
        options.tell_kept(target)
    else:
        click.echo(data, nl=False)
