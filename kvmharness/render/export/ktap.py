"""KTAP, the kernel's own format of test results (Documentation/dev-tools/ktap.rst)."""

from __future__ import annotations

from kvmharness.model.run import Run
from kvmharness.render import tables
from kvmharness.render.export.outcome import TestOutcome, figures, outcome
from kvmharness.text import printable


def export(run: Run, name: str) -> bytes:
    """Return a result line a case, its figures as diagnostic lines before it."""
    described = [f"run {name}", *(printable(line) for line in tables.head(run))]
    lines = ["KTAP version 1", f"1..{len(run.cases)}", *(f"# {line}" for line in described)]
    for number, result in enumerate(run.cases, start=1):
        # A description ends at the first hash sign.
        description = printable(result.name).replace("#", "\\x23").strip()
        lines += [f"# {description}: {line}" for line in figures(run, result)]
        lines.append(_result_line(number, description, outcome(result)))
    return "\n".join(lines).encode() + b"\n"


def _result_line(number: int, description: str, end: TestOutcome) -> str:
    test = f"{number} {description}".rstrip()
    if end.kind == "passed":
        return f"ok {test}"
    if end.kind == "skipped":
        return f"ok {test} # SKIP {end.reason}"
    directive = "ERROR " if end.kind == "failed" else ""
    return f"not ok {test} # {directive}{end.reason}"
