"""What a person reads of an explanation: the sentence, the call tree, functions, a difference."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from kvmharness.analysis.calltree import Node
from kvmharness.analysis.explain import costs, costs_of, tree
from kvmharness.model.explanation import Difference, Explanation, File
from kvmharness.render import fitting
from kvmharness.render.fitting import Column
from kvmharness.render.tables import plain, show_profile
from kvmharness.text import figure

# Names of functions that only one kernel has, before the rest is counted.
MOST_NAMED = 12
COUNT = "{:,.2f}"
# As many callers as fit beside the rest.
CALLERS = 4


def _say(line: str, out: Console) -> None:
    fitting.say(line, out, fitting.room())


def _indented(rows: Sequence[tuple[int, str]], by: str) -> list[Text]:
    return [Text(by * depth) + plain(name) for depth, name in rows]


def _tree(explanation: Explanation, share: float, out: Console) -> None:
    """Print the call tree down to functions that take a share of all."""
    top = tree(explanation.nodes)
    totals, ops = top.totals(), explanation.ops
    least = share * totals[top]

    def order(node: Node) -> tuple[int, str]:
        return -totals[node], node.name

    shown: list[tuple[Node, int]] = []
    waiting = [(node, 0) for node in sorted(top.children.values(), key=order, reverse=True)]
    while waiting:
        node, depth = waiting.pop()
        if totals[node] < least or not totals[node]:
            continue
        shown.append((node, depth))
        below = sorted(node.children.values(), key=order, reverse=True)
        waiting += [(child, depth + 1) for child in below]
    names = [(depth, node.name) for node, depth in shown]
    narrow = Column("call tree", _indented(names, " "), right=False)
    columns = [
        fitting.numbers("insn/op", [COUNT.format(totals[node] / ops) for node, _ in shown]),
        fitting.numbers("own", [figure(n.own / ops) if n.own else "" for n, _ in shown], goes=2),
        fitting.numbers(
            "calls/op", [figure(n.calls / ops) if n.calls else "" for n, _ in shown], goes=1
        ),
        Column("call tree", _indented(names, "  "), right=False, goes=3, brief=narrow),
    ]
    if shown:
        fitting.show(columns, out, fitting.room())
    _say(f"down to {share:.1%} of all; own: without what it called", out)


def _lines(explanation: Explanation, top: int, out: Console) -> None:
    """Print the dearest source lines, or why there are none."""
    if explanation.no_lines:
        _say(f"no source lines: {explanation.no_lines}", out)
    if not explanation.lines:
        return
    lines = explanation.lines[:top]
    columns = [
        fitting.numbers(
            "own insn/op", [COUNT.format(line.own / explanation.ops) for line in lines]
        ),
        Column("source line", [plain(f"{line.file}:{line.line}") for line in lines], right=False),
        Column("function", [plain(line.function) for line in lines], right=False, goes=1),
    ]
    fitting.show(columns, out, fitting.room())


def _deferred(explanation: Explanation, case: str, top: int, out: Console) -> None:
    """Print what was left for later: its functions where it counts, else how little it was."""
    found = explanation.deferred
    if found is None:
        why = explanation.no_deferred or "the version that explained did not follow it"
        _say(f"no deferred work: {why}", out)
        return
    clock = "" if found.measured is None else f"; {figure(found.measured)} by the kernel's clock"
    if not found.counts:
        of = f"{figure(found.figure)} insn/op{clock}"
        _say(f"deferred work: none that counts ({of})", out)
        return
    out.print()
    _say(
        f"deferred: {found.figure:,.2f} instructions per op that others ran after the sample, "
        f"net of what follows a single op{clock}",
        out,
    )
    show_profile(costs_of(found.nodes, found.ops), f"{case}, deferred", top, out)


def _one(explanation: Explanation, case: str, share: float, top: int, out: Console) -> None:
    samples = len(explanation.samples)
    _say(
        f"{case} on {explanation.label}: {explanation.figure:,.2f} instructions per op, each "
        f"accounted for ({samples} sample{'s' * (samples != 1)} of "
        f"{explanation.ops // max(samples, 1):,} ops; the run's median is "
        f"{explanation.median:,.2f})",
        out,
    )
    out.print()
    _tree(explanation, share, out)
    out.print()
    show_profile(costs(explanation), case, top, out)
    _say(
        f"{figure(explanation.thunks / explanation.ops)} insn/op of them in thunks that stand in "
        "for indirect jumps and returns",
        out,
    )
    _lines(explanation, top, out)
    _deferred(explanation, case, top, out)


def _alone(label: str, functions: dict[str, float], out: Console) -> None:
    dear = sorted((n for n in functions if functions[n]), key=lambda name: -functions[name])
    if not dear:
        return
    named = ", ".join(f"{name} {figure(functions[name])}" for name in dear[:MOST_NAMED])
    rest = f", and {len(dear) - MOST_NAMED} more" if len(dear) > MOST_NAMED else ""
    _say(f"only {label} has, charged to who called them: {named}{rest}", out)


def _difference(between: Difference, names: list[str], top: int, out: Console) -> None:
    shown, rest = between.changes[:top], between.changes[top:]
    total = sum(row.change for row in between.changes)
    last = [(sum(row.change for row in rest), f"{len(rest)} functions more")] if rest else []
    last.append((total, "all"))
    empty = [""] * len(last)
    ends = [Text(name) for _, name in last]
    alone = [f" (with {', '.join(row.alone)})" if row.alone else "" for row in shown]
    whole = [plain(row.function + inside) for row, inside in zip(shown, alone, strict=True)]
    function = Column(
        "function",
        [*(plain(row.function) for row in shown), *ends],
        right=False,
        lost="which functions are in it that one kernel only has" if any(alone) else "",
    )
    callers = [row.callers[:CALLERS] for row in shown]
    nobody = [Text() for _ in last]
    nearest = Column(
        "called by",
        [*(plain(names[0] if names else "") for names in callers), *nobody],
        right=False,
        goes=4,
        lost="the callers' callers",
    )
    changes = [row.change for row in shown] + [change for change, _ in last]
    columns = [
        fitting.numbers("change", [f"{change:+,.2f}" for change in changes]),
        fitting.numbers("before", [COUNT.format(row.before) for row in shown] + empty, goes=1),
        fitting.numbers("after", [COUNT.format(row.after) for row in shown] + empty, goes=2),
        Column("function", [*whole, *ends], right=False, goes=3, brief=function),
        Column(
            "called by",
            [*(plain(" < ".join(names)) for names in callers), *nobody],
            right=False,
            goes=5,
            brief=nearest,
            wraps=True,
        ),
    ]
    fitting.show(columns, out, fitting.room())
    _alone(names[0], between.only_before, out)
    _alone(names[1], between.only_after, out)


def show_difference(explained: File, top: int, out: Console) -> None:
    """Print what lies between two kernels, and nothing where there is one."""
    if explained.difference is not None:
        names = [kernel.label for kernel in explained.kernels]
        _say(f"{explained.case}: {explained.difference.sentence}", out)
        out.print()
        _difference(explained.difference, names, top, out)
        late = [kernel.deferred for kernel in explained.kernels]
        if any(work and work.counts for work in late):
            sums = " → ".join(figure(work.figure) if work else "not followed" for work in late)
            _say(f"deferred work, beside it: {sums} insn/op", out)


def show_explanation(explained: File, share: float, top: int, out: Console) -> None:
    """Print an explanation; `share` cuts the call trees, `top` the tables of functions."""
    show_difference(explained, top, out)
    if explained.difference is not None:
        out.print()
    for number, kernel in enumerate(explained.kernels):
        if number:
            out.print()
        _one(kernel, explained.case, share, top, out)
