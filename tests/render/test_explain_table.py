"""What a person reads of an explanation, against a golden file."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from kvmharness.render import explain_table
from tests.support.made_up_explanation import file

GOLDEN = Path(__file__).parents[1] / "golden" / "explain.txt"


def shown() -> str:
    out = io.StringIO()
    explain_table.show_explanation(file(), 0.02, 4, Console(file=out, width=180, highlight=False))
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def test_explanation_is_shown_as_it_was() -> None:
    assert shown() == GOLDEN.read_text()
