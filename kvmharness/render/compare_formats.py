"""A comparison for programs, as JSON, and for pages, as GitHub's Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from kvmharness.analysis.causes import Account
from kvmharness.analysis.compare import CaseComparison, Comparison
from kvmharness.model.clocks import UNITS
from kvmharness.render import compare_table
from kvmharness.text import figure, printable

SCHEMA = "kvmharness.compare/1"
# What Markdown would take for more than text where a file's names may hold it.
MARKED = re.compile(r"([\\`*\[\]<>|])")

Titled = tuple[str | None, Comparison]


def _account(account: Account) -> dict[str, object]:
    kind = account.class_
    return {
        "class": None if kind is None else {"how": kind.how, "root": kind.root},
        "deferred": account.deferred,
        "counters": dict(account.counters),
    }


def _case(row: CaseComparison) -> dict[str, object]:
    """Return a case as JSON has it; what there is none of is null, and `said` says why."""
    found = row.found
    base, new = row.accounts or (None, None)
    return {
        "case": row.case,
        "verdict": row.verdict,
        "said": row.said + compare_table.climb_said(row),
        "ratio": found and found.ratio,
        "ci95": found and found.ci95,
        "base": {"cost": found and found.base, **(_account(base) if base else {})},
        "new": {"cost": found and found.new, **(_account(new) if new else {})},
    }


def _comparison(machine: str | None, comparison: Comparison) -> dict[str, object]:
    return {
        "machine": machine,
        "base": comparison.base,
        "new": comparison.new,
        "sentence": compare_table.sentence(comparison),
        "exit_code": comparison.exit_code,
        "clock": comparison.clock,
        "unit": f"{UNITS[comparison.clock]}/op",
        "threshold": comparison.threshold,
        "boot_allowance": comparison.boot_allowance,
        "compared": list(comparison.compared),
        "differing": list(comparison.differing),
        "cases": [_case(row) for row in comparison.rows],
        "left_out": dict(comparison.left_out),
        "cost_alone": dict(comparison.cost_alone),
    }


def as_json(found: Sequence[Titled]) -> str:
    """Return comparisons, each with the machine that it was taken on (None: no lab), as JSON."""
    document = {"schema": SCHEMA, "comparisons": [_comparison(*one) for one in found]}
    return msgspec.json.format(msgspec.json.encode(document)).decode()


def _marked(text: str) -> str:
    return MARKED.sub(r"\\\1", printable(text))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _table(comparison: Comparison) -> list[str]:
    unit = UNITS[comparison.clock]
    titles = ("case", f"BASE {unit}/op", f"NEW {unit}/op", "ratio [95 % interval]")
    lines = [_row([*titles, "verdict", "what KVM did"]), "|---|---:|---:|---:|---|---|"]
    for row in comparison.rows:
        found = row.found
        cells = [
            row.case,
            figure(found.base) if found else "-",
            figure(found.new) if found else "-",
            compare_table.with_interval(found),
        ]
        verdict = f"**{row.verdict}**" if row.verdict in compare_table.COLOURS else row.verdict
        said = row.said + compare_table.climb_said(row)
        lines.append(_row([*map(_marked, cells), verdict, _marked(said)]))
    return lines


def as_markdown(found: Sequence[Titled]) -> str:
    """Return comparisons as GitHub's Markdown: what a pull request or an issue shows."""
    lines: list[str] = []
    for machine, comparison in found:
        lines += ["", *([f"## {_marked(machine)}", ""] if machine else [])][0 if lines else 1 :]
        lines += [f"**{_marked(compare_table.sentence(comparison))}**", ""]
        lines += [f"- {_marked(line)}" for line in compare_table.differing(comparison)]
        lines += ["", *_table(comparison)] if comparison.rows else []
        lines += ["", *(f"- {_marked(line)}" for line in compare_table.remarks(comparison))]
    return "".join(f"{line}\n" for line in lines)
