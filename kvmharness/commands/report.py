"""kvmharness report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from kvmharness import errors


@click.command()
@click.argument("runs", metavar="[RUN]...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--timeline",
    "history",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Show what `timeline` keeps here in place of runs.",
)
@click.option("--since", metavar="VERSION", help="With --timeline: no older kernels.")
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
def report(
    runs: tuple[Path, ...], history: Path | None, since: str | None, form: str, output: Path | None
) -> None:
    """Write one HTML file, or a mail, that shows result files, compared with the first of them.

    RUN is a result file, or a folder whose *.json are; an explanation (explain.json) among them
    is shown with its flame graphs.  With --timeline it is the page of many kernels.

    Example: kvmharness report before.json after.json -o report.html
    """
    from kvmharness import files
    from kvmharness.commands import options

    if since and history is None:
        raise errors.UsageError("--since: of which timeline? add --timeline DIR")
    if bool(runs) == bool(history):
        raise errors.UsageError("report: name run files, or a folder by --timeline")
    if history and form == "mail":
        raise errors.UsageError("report --format mail: a timeline is a page; name run files")
    if output is None and form == "html":
        raise errors.UsageError("report: a page goes into a file; name it: -o report.html")
    target = files.Output(output) if output else None
    text = _timeline(history, since) if history else _runs(runs, form)
    if target:
        target.write(text.encode())
        options.tell_kept(target)
    else:
        click.echo(text, nl=False)


def _timeline(folder: Path, since: str | None) -> str:
    """Return the page of a timeline's folder."""
    from kvmharness.analysis import load, timeline
    from kvmharness.kernel import history
    from kvmharness.render.report import timeline_page

    held = load.folder(folder)
    found = timeline.timeline(held.runs, history.since(since) if since else None)
    left_out = dict.fromkeys(held.differing, "other figures than the run of the same job")
    notes = list(held.notes.values())
    return timeline_page.render(found, notes, held.left_out | left_out, held.explained)


def _runs(runs: tuple[Path, ...], form: str) -> str:
    """Return the page, or the mail, of runs and explanations."""
    from kvmharness.analysis import load

    measured, explained = load.apart(runs)
    if not measured:
        raise errors.UsageError("report: explanations alone make no report; name a run file too")
    return _mail(measured, explained) if form == "mail" else _page(measured, explained)


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
