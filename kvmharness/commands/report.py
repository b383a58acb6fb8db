"""kvmharness report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from kvmharness import errors


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["html", "mail"]),
    default="html",
    show_default=True,
    help="mail: plain text of 72 columns, to paste below a patch.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Write the report here; a mail goes to stdout without it.",
)
def report(runs: tuple[Path, ...], form: str, output: Path | None) -> None:
    """Write one HTML file, or a mail, that shows result files, compared with the first of them.

    RUN is a result file, or a folder whose *.json are; an explanation (explain.json) among them
    is shown with its flame graphs.

    Example: kvmharness report before.json after.json -o report.html
    """
    from kvmharness import files
    from kvmharness.analysis import load
    from kvmharness.commands import options

    if output is None and form == "html":
        raise errors.UsageError("report: a page goes into a file; name it: -o report.html")
    target = files.Output(output) if output else None
    measured, explained = load.apart(runs)
    if not measured:
        raise errors.UsageError("report: explanations alone make no report; name a run file too")
    text = _mail(measured, explained) if form == "mail" else _page(measured, explained)
    if target:
        target.write(text.encode())
        options.tell_kept(target)
    else:
        click.echo(text, nl=False)


def _page(measured: Sequence[Path], explained: Sequence[Path]) -> str:
    from kvmharness.analysis import load
    from kvmharness.model import explanation
    from kvmharness.render.report import page

    shown = [explanation.read(path) for path in explained]
    return page.render(load.summarised(measured), shown)


def _mail(measured: Sequence[Path], explained: Sequence[Path]) -> str:
    from kvmharness.analysis import load
    from kvmharness.render import mail

    if explained:
        raise errors.UsageError(
            f"report --format mail: {explained[0]} is an explanation; name run files only"
        )
    return mail.render(load.summarised(measured))
