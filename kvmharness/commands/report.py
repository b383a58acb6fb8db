"""kvmharness report."""

from __future__ import annotations

from pathlib import Path

import click

from kvmharness import errors


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="Write the HTML file here.",
)
def report(runs: tuple[Path, ...], output: Path) -> None:
    """Write one HTML file that shows result files, compared with the first of them.

    RUN is a result file, or a folder whose *.json are; an explanation (explain.json) among them
    is shown with its flame graphs.

    Example: kvmharness report before.json after.json -o report.html
    """
    from kvmharness import files
    from kvmharness.analysis import load
    from kvmharness.commands import options
    from kvmharness.model import explanation
    from kvmharness.render.report import page

    target = files.Output(output)
    measured, explained = load.apart(runs)
    if not measured:
        raise errors.UsageError("report: explanations alone make no report; name a run file too")
    shown = [explanation.read(path) for path in explained]
    target.write(page.render(load.summarised(measured), shown).encode())
    options.tell_kept(target)
