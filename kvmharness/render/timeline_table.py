"""What a person reads of a timeline: costs over versions, and the steps with their sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from kvmharness.analysis import causes
from kvmharness.analysis.timeline import Line, Point, Step, Timeline, Way
from kvmharness.model.clocks import UNITS
from kvmharness.model.explanation import Change, File
from kvmharness.model.run import CaseResult
from kvmharness.render.tables import INSTRUCTIONS, by_reason, plain
from kvmharness.text import figure

# Functions named of a step, and callers of the first of them.
FUNCTIONS, CALLERS = 4, 3


def sentence(step: Step) -> str:
    """Return what happened to a case at a step, and what KVM did otherwise."""
    row = step.row
    if row.verdict == "unweighed" or row.found is None or row.accounts is None:
        return f"{row.case}: {row.said}, which instructions do not weigh"
    old, new = row.accounts
    if row.verdict in ("faster", "slower"):
        factor = max(row.found.ratio, 1 / row.found.ratio)
        costs = f"{figure(row.found.base)} → {figure(row.found.new)}"
        unit = UNITS[step.comparison.clock]
        why = causes.cause(old, new, row.verdict)
        told = f"{row.case}: {costs} {unit}/op, {figure(factor)}x {row.verdict}{why}"
    else:
        told = f"{row.case}: the class is {row.verdict} ({old.class_} → {new.class_}), not the cost"
    said = row.said if "→" in row.said and row.said not in told else ""
    return f"{told}; {said}" if said else told


def why(step: Step, explained: Mapping[str, File]) -> str | None:
    """Return by which functions the cost changed, None where nobody has followed it."""
    found = explained.get(step.name)
    if found is None or found.difference is None:
        return None
    changes = found.difference.changes
    if not changes:
        return "every function takes the same"
    most = changes[:FUNCTIONS]
    told = [f"{_signed(row.change)} {row.function}{_called(row, row is most[0])}" for row in most]
    rest = sum(row.change for row in changes[FUNCTIONS:])
    if len(changes) > FUNCTIONS:
        told.append(f"{_signed(rest)} in {len(changes) - FUNCTIONS} others")
    return f"by function: {', '.join(told)}"


def _signed(value: float) -> str:
    return f"{value:+,.0f}" if abs(value) >= 10 else f"{value:+,.2f}".rstrip("0").rstrip(".")


def _called(row: Change, first: bool) -> str:
    return f" < {' < '.join(row.callers[:CALLERS])}" if first and row.callers else ""


def between(step: Step) -> str:
    """Return the two kernels around a step, and the branch that it is on."""
    major, minor = step.after.place.series
    branch = f", on {major}.{minor}.y" if step.on_branch else ""
    return f"{step.before.name} → {step.after.name}{branch}"


def cost(point: Point, case: str) -> str:
    """Return what a case costs a kernel, and what it defers, by its first run."""
    result = first(point, case)
    if result is None or result.per_op is None:
        return "-"
    return figure(result.per_op.median)


def first(point: Point, case: str) -> CaseResult | None:
    """Return what a kernel's first run has of a case."""
    return next(iter(point.results(case)), None)


def _costs(lines: Sequence[Line], kernels: Sequence[Point]) -> Table:
    """Return a table of one way: a kernel a row, a case a column."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("version", no_wrap=True)
    for line in lines:
        table.add_column(plain(line.case), justify="right", no_wrap=True)
        table.add_column("class", no_wrap=True)
    for kernel in kernels:
        cells = []
        for line in lines:
            point = next((p for p in line.points if p.name == kernel.name), None)
            result = point and first(point, line.case)
            cells += [
                cost(point, line.case) if point else "-",
                str((result and result.class_) or "-"),
            ]
        table.add_row(plain(kernel.name), *map(plain, cells))
    return table


def show(found: Timeline, explained: Mapping[str, File], out: Console) -> None:
    """Print the costs of each way, its steps, and what is in no line."""
    ways: dict[Way, list[Line]] = {}
    for line in found.lines:
        ways.setdefault(line.way, []).append(line)
    for way, lines in ways.items():
        here = {point.name for line in lines for point in line.points}
        out.print(plain(f"{way}:"), style="bold")
        out.print(_costs(lines, [k for k in found.kernels() if k.name in here]))
        for line in lines:
            for step in line.steps:
                out.print(plain(f"{between(step)}: {sentence(step)}"), soft_wrap=True)
                functions = why(step, explained)
                if functions:
                    out.print(plain(f"  {functions}"), soft_wrap=True)
        gaps = [(why, f"{name} {line.case}") for line in lines for name, why in line.gaps.items()]
        for text in by_reason("no figure", gaps):
            out.print(plain(text), soft_wrap=True)
        out.print()
    for text in by_reason("left out", [(why, name) for name, why in found.left_out.items()]):
        out.print(plain(text), soft_wrap=True)
    if any(p.runs[0].clock == "insn" for line in found.lines for p in line.points):
        out.print(plain(INSTRUCTIONS), soft_wrap=True)
