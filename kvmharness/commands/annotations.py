"""What a CI shows beside a change: lines that GitHub's runner reads out of a step's output."""

from __future__ import annotations

import os

import click

from kvmharness.text import printable

# What would end a value in such a line (GitHub, "Workflow commands"); `printable` leaves no
# line's end.
IN_TEXT = str.maketrans({"%": "%25"})
IN_TITLE = str.maketrans({"%": "%25", ":": "%3A", ",": "%2C"})


def wanted() -> bool:
    """Tell whether a runner of GitHub's reads what we print."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def annotate(unclear: bool, title: str, text: str) -> None:
    """Print the line that annotates the step with an error, or with a warning where `unclear`."""
    kind = "warning" if unclear else "error"
    title = printable(f"kvmharness {title}").translate(IN_TITLE)
    click.echo(f"::{kind} title={title}::{printable(text).translate(IN_TEXT)}")
