"""What a person reads of an explanation, against a golden file."""

from __future__ import annotations

import io

from rich.console import Console

from kvmharness.render import explain_table
from tests.support.golden import same_as_golden
from tests.support.made_up_explanation import file


def shown() -> str:
    out = io.StringIO()
    explain_table.show_explanation(file(), 0.02, 4, Console(file=out, width=180, highlight=False))
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def test_explanation_is_shown_as_it_was() -> None:
    same_as_golden("explain.txt", shown())
