"""What a person reads of an explanation: the sentence, the call tree, functions, a difference."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kvmharness.analysis.calltree import Node
from kvmharness.analysis.explain import costs, costs_of, tree
from kvmharness.model.explanation import Difference, Explanation, File
from kvmharness.render.tables import plain, show_profile
from kvmharness.text import figure

# Names of functions that only one kernel has, before the rest is counted.
MOST_NAMED = 12
COUNT = "{:,.2f}"
CALLED_BY = "called by:"
# As many callers as fit beside the rest.
CALLERS = 4


def _table(*titles: str) -> Table:
    """Return a table whose columns are numbers but for the last ones, named with a colon."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        left = title.endswith(":")
        # What is too long wraps in the callers, never in a figure.
        wraps = title == CALLED_BY
        table.add_column(
            title.removesuffix(":"), justify="left" if left else "right", no_wrap=not wraps
        )
    return table


def _tree(explanation: Explanation, share: float, out: Console) -> None:
    """Print the call tree down to functions that take a share of all."""
    top = tree(explanation.nodes)
    totals, ops = top.totals(), explanation.ops
    least = share * totals[top]
    table = _table("insn/op", "own", "calls/op", "call tree:")

    def order(node: Node) -> tuple[int, str]:
        return -totals[node], node.name

    waiting = [(node, 0) for node in sorted(top.children.values(), key=order, reverse=True)]
    while waiting:
        node, depth = waiting.pop()
        if totals[node] < least or not totals[node]:
            continue
        own, calls = (figure(count / ops) if count else "" for count in (node.own, node.calls))
        name = Text("  " * depth) + plain(node.name)
        table.add_row(COUNT.format(totals[node] / ops), own, calls, name)
        below = sorted(node.children.values(), key=order, reverse=True)
        waiting += [(child, depth + 1) for child in below]
    out.print(table)
    out.print(Text(f"down to {share:.1%} of all; own: without what it called"))


def _lines(explanation: Explanation, top: int, out: Console) -> None:
    """Print the dearest source lines, or why there are none."""
    if explanation.no_lines:
        out.print(plain(f"no source lines: {explanation.no_lines}"), soft_wrap=True)
    if not explanation.lines:
        return
    table = _table("own insn/op", "source line:", "function:")
    for line in explanation.lines[:top]:
        place = plain(f"{line.file}:{line.line}")
        table.add_row(COUNT.format(line.own / explanation.ops), place, plain(line.function))
    out.print(table)


def _deferred(explanation: Explanation, case: str, top: int, out: Console) -> None:
    """Print what was left for later: its functions where it counts, else how little it was."""
    found = explanation.deferred
    if found is None:
        why = explanation.no_deferred or "the version that explained did not follow it"
        out.print(plain(f"no deferred work: {why}"), soft_wrap=True)
        return
    clock = "" if found.measured is None else f"; {figure(found.measured)} by the kernel's clock"
    if not found.counts:
        of = f"{figure(found.figure)} insn/op{clock}"
        out.print(plain(f"deferred work: none that counts ({of})"), soft_wrap=True)
        return
    out.print()
    out.print(
        plain(
            f"deferred: {found.figure:,.2f} instructions per op that others ran after the sample, "
            f"net of what follows a single op{clock}"
        ),
        soft_wrap=True,
    )
    show_profile(costs_of(found.nodes, found.ops), f"{case}, deferred", top, out)


def _one(explanation: Explanation, case: str, share: float, top: int, out: Console) -> None:
    samples = len(explanation.samples)
    out.print(
        plain(
            f"{case} on {explanation.label}: {explanation.figure:,.2f} instructions per op, each "
            f"accounted for ({samples} sample{'s' * (samples != 1)} of "
            f"{explanation.ops // max(samples, 1):,} ops; the run's median is "
            f"{explanation.median:,.2f})"
        ),
        soft_wrap=True,
    )
    out.print()
    _tree(explanation, share, out)
    out.print()
    show_profile(costs(explanation), case, top, out)
    out.print(
        Text(
            f"{figure(explanation.thunks / explanation.ops)} insn/op of them in thunks that "
            "stand in for indirect jumps and returns"
        )
    )
    _lines(explanation, top, out)
    _deferred(explanation, case, top, out)


def _alone(label: str, functions: dict[str, float], out: Console) -> None:
    dear = sorted((n for n in functions if functions[n]), key=lambda name: -functions[name])
    if not dear:
        return
    named = ", ".join(f"{name} {figure(functions[name])}" for name in dear[:MOST_NAMED])
    rest = f", and {len(dear) - MOST_NAMED} more" if len(dear) > MOST_NAMED else ""
    out.print(plain(f"only {label} has, charged to who called them: {named}{rest}"), soft_wrap=True)


def _difference(between: Difference, names: list[str], top: int, out: Console) -> None:
    table = _table("change", "before", "after", "function:", CALLED_BY)
    for row in between.changes[:top]:
        table.add_row(
            f"{row.change:+,.2f}",
            COUNT.format(row.before),
            COUNT.format(row.after),
            plain(row.function + (f" (with {', '.join(row.alone)})" if row.alone else "")),
            plain(" < ".join(row.callers[:CALLERS])),
        )
    rest = between.changes[top:]
    if rest:
        change = f"{sum(row.change for row in rest):+,.2f}"
        table.add_row(change, "", "", f"{len(rest)} functions more", "")
    total = sum(row.change for row in between.changes)
    table.add_row(f"{total:+,.2f}", "", "", "all", "")
    out.print(table)
    _alone(names[0], between.only_before, out)
    _alone(names[1], between.only_after, out)


def show_difference(explained: File, top: int, out: Console) -> None:
    """Print what lies between two kernels, and nothing where there is one."""
    if explained.difference is not None:
        names = [kernel.label for kernel in explained.kernels]
        out.print(plain(f"{explained.case}: {explained.difference.sentence}"), soft_wrap=True)
        out.print()
        _difference(explained.difference, names, top, out)
        late = [kernel.deferred for kernel in explained.kernels]
        if any(work and work.counts for work in late):
            sums = " → ".join(figure(work.figure) if work else "not followed" for work in late)
            out.print(plain(f"deferred work, beside it: {sums} insn/op"), soft_wrap=True)


def show_explanation(explained: File, share: float, top: int, out: Console) -> None:
    """Print an explanation; `share` cuts the call trees, `top` the tables of functions."""
    show_difference(explained, top, out)
    if explained.difference is not None:
        out.print()
    for number, kernel in enumerate(explained.kernels):
        if number:
            out.print()
        _one(kernel, explained.case, share, top, out)
