"""Is `explain` exact?  Every case of the suite full, in every kind of kernel, in one table.

Boots each kernel with the trace on, follows one sample of every case, and holds the sum over
functions against the sample's own figure.  It ends with 1 where one of them differs.

    python bench/explain_exact.py [FILE]     the table, Markdown; default: docs/explain/exact.md
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from kvmharness.analysis import follow, symbols, tracefile
from kvmharness.analysis.attribution import Attribution
from kvmharness.errors import HarnessError
from kvmharness.kernel import debian, resolve, variants
from kvmharness.lab import machines, matrix, trace
from kvmharness.lab.planning import LabPlan, Result, Target
from kvmharness.lab.workshop import Workshop
from kvmharness.measure.settings import for_lab
from kvmharness.model import suites

WANTED = (
    ("5.10", "tdp"),
    ("5.10", "legacy"),
    ("5.10", "shadow"),
    ("6.1", "tdp"),
    ("6.1", "shadow"),
    ("6.12", "tdp"),
    ("7", "tdp"),
)
VMS, SAMPLES, OPS = 1, 1, 10
# In the cells of a kernel that was lost.
LOST = "lost"
# A boot: a lab that warms up all of them says nothing for too long on a busy machine.
CASES = 25


def newest(series: str) -> str:
    """Return the newest package of a series: of those fetched, else of those on offer."""
    prefix = f"linux-image-{series}."
    found = [name for name in debian.fetched() if name.startswith(prefix)]
    found = found or [offer.name for offer in debian.offers() if offer.name.startswith(prefix)]
    if not found:
        sys.exit(f"explain_exact: no package of {series} to be had")
    return max(found, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])


def followed(result: Result) -> dict[str, str]:
    """Return a cell a case: the sample's figure per op, and by how much the sum differs."""
    if result.run is None or result.traced is None:
        print(f"{result.target.label}: {result.lost or result.skipped}", file=sys.stderr)
        return {}
    known = symbols.parse(result.traced.symbols.read_text())
    found = tracefile.read(result.traced.trace)
    cells = {}
    for place, case in enumerate(result.run.cases):
        if not case.samples:
            cells[case.name] = "-"
            continue
        (sample,) = follow.samples(result.run, place, found)
        attribution = Attribution(found.blocks, known)
        off = attribution.add(sample.stretch.words) - sample.figure
        attribution.settle()
        off = off or sum(node.own for node in attribution.top.walk()) - sample.figure
        per_op = f"{sample.figure / (case.iterations or 1):,.1f}"
        cells[case.name] = f"{per_op} **{off:+,}**" if off else per_op
    return cells


def table(columns: dict[str, dict[str, str]], names: Sequence[str]) -> str:
    """Return the table in Markdown."""
    cells = [cell for column in columns.values() for cell in column.values()]
    followed = sum(cell != "-" for cell in cells)
    wrong = sum("**" in cell for cell in cells)
    lines = [
        "# Exact or not: every case of the suite `full`",
        "",
        f"Made by `python bench/explain_exact.py`: {followed} samples of {OPS} ops followed, "
        f"{followed - wrong} of them with difference 0 between the sum over functions and the "
        "sample's own figure. In instructions per op, the loop and the stamps included; `-`: the "
        "case cannot run there. A difference would stand in bold behind its figure.",
        "",
        f"| case | {' | '.join(columns)} |",
        f"|---|{'---:|' * len(columns)}",
    ]
    for name in names:
        lines.append(f"| {name} | {' | '.join(c.get(name, LOST) for c in columns.values())} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Boot, follow, write the table."""
    output = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/explain/exact.md")
    machine = trace.tracing(machines.TCG_SVM, SAMPLES)
    settings = {machine.clock: for_lab(machine.clock, VMS, SAMPLES, OPS)}
    cases = suites.load("full").cases
    columns: dict[str, dict[str, str]] = {}
    output.parent.mkdir(parents=True, exist_ok=True)
    with Workshop() as workshop:
        folder = workshop.job()
        for series, variant in WANTED:
            kernel = resolve.resolve(newest(series))
            target = Target(kernel, variants.parse(variant), machine)
            column = columns[target.label] = {}
            for first in range(0, len(cases), CASES):
                print(f"{target.label}: case {first + 1} on", file=sys.stderr, flush=True)
                some = cases[first : first + CASES]
                plan = LabPlan(some, settings, "full", None, None, folder, count=False)
                (result,) = matrix.measure([target], plan, 1, lambda _target, _line: None)
                column |= followed(result)
                for file in folder.iterdir():
                    file.unlink()
            output.write_text(table(columns, [case.name for case in cases]))
    text = output.read_text()
    print(text)
    sys.exit(1 if "**" in text or LOST in text else 0)


if __name__ == "__main__":
    try:
        main()
    except HarnessError as error:
        sys.exit(f"explain_exact: {error}")
