"""What a person reads of a comparison: one sentence, what differs, one line per case."""

from __future__ import annotations

import math
from collections import Counter

from rich.console import Console
from rich.text import Text

from kvmharness.analysis import causes
from kvmharness.analysis.compare import REGRESSIONS, CaseComparison, Comparison
from kvmharness.analysis.ratios import Ratio
from kvmharness.model.clocks import UNITS
from kvmharness.render import fitting
from kvmharness.render.fitting import Column
from kvmharness.render.tables import INSTRUCTIONS, by_reason, plain
from kvmharness.text import figure

UNSEEN = "deferred work not counted"
# Verdicts that say that something is otherwise in NEW.
CHANGED = frozenset({"faster", "slower", "worse", "better"})
COLOURS = {
    "slower": "red",
    "worse": "red",
    "incorrect": "red",
    "faster": "green",
    "better": "green",
    "unweighed": "yellow",
}


def _ratio(value: float) -> str:
    # Near 1 only the digits behind the point tell ratios apart.
    return f"{value:.4f}" if 0.1 <= value < 10 else figure(value)


def with_interval(found: Ratio | None) -> str:
    if found is None:
        return "-"
    if found.ci95 is None:
        return _ratio(found.ratio)
    lo, hi = found.ci95
    return f"{_ratio(found.ratio)} [{_ratio(lo)}, {_ratio(hi)}]"


def _percent(share: float) -> str:
    return f"±{figure(share * 100)} %"


def _first_changed(comparison: Comparison) -> CaseComparison | None:
    """Return the changed case that matters most, and of its like the one that changed most."""

    def place(row: CaseComparison) -> tuple[object, ...]:
        return row.order, -abs(math.log(row.found.ratio)) if row.found else 0.0

    changed = [row for row in comparison.rows if row.verdict in CHANGED]
    return min(changed, key=place, default=None)


def differing(comparison: Comparison) -> list[str]:
    """Return what is compared, then a line for everything else that differs."""
    compared = "; ".join(comparison.compared) or "one kernel with itself"
    return [f"compared: {compared}", *(f"also differs: {line}" for line in comparison.differing)]


def _of_row(comparison: Comparison, row: CaseComparison) -> str:
    """Say what has changed at one case, and why."""
    assert row.found
    assert row.accounts
    if row.verdict in ("faster", "slower"):
        factor = max(row.found.ratio, 1 / row.found.ratio)
        why = causes.cause(*row.accounts, row.verdict)
        return f"{comparison.new} is {figure(factor)}x {row.verdict} at {row.case}{why}"
    base, new = row.accounts
    return (
        f"the class is {row.verdict} in {comparison.new} at {row.case} ({base.class_} → "
        f"{new.class_}), though the cost shows no change"
    )


def _also(comparison: Comparison, row: CaseComparison) -> str:
    """Name the regressions that a headline about something else would hide."""
    if row.verdict in REGRESSIONS:
        return ""
    hidden = [other for other in comparison.rows if other.verdict in REGRESSIONS]
    if not hidden:
        return ""
    first = min(hidden, key=lambda other: other.order)
    return f"; yet {first.verdict} at {first.case}" + (
        f" and {len(hidden) - 1} other cases" if len(hidden) > 1 else ""
    )


def climb_said(row: CaseComparison) -> str:
    """Say that a case's samples climb, to stand behind what KVM did; empty where they do not."""
    if row.climb is None:
        return ""
    return f"; its samples climb within a VM, {figure(row.climb.first)} → {figure(row.climb.last)}"


def sentence(comparison: Comparison) -> str:
    """Return what one would tell a maintainer: the change that matters most, and why."""
    new, base = comparison.new, comparison.base
    verdicts = Counter(row.verdict for row in comparison.rows)
    if verdicts["incorrect"]:
        case = next(row.case for row in comparison.rows if row.verdict == "incorrect")
        return f"KVM is incorrect in {new} at {case}: its speed is no matter"
    lost, unweighed = verdicts["not comparable"], verdicts["unweighed"]
    rest = f"; {lost} of {len(comparison.rows)} cases not comparable" if lost else ""
    row = _first_changed(comparison)
    if row:
        if unweighed:
            rest = f"; {unweighed} of {len(comparison.rows)} cases not weighed{rest}"
        return f"{_of_row(comparison, row)}{climb_said(row)}{_also(comparison, row)}{rest}"
    if unweighed:
        row = next(row for row in comparison.rows if row.verdict == "unweighed")
        return f"{new} at {row.case}: {row.said}, which instructions do not weigh{rest}"
    margin = _percent(max(comparison.threshold, comparison.boot_allowance))
    if set(verdicts) == {"same"}:
        return f"{new} costs the same as {base} in every case, within {margin}"
    if lost == len(comparison.rows):
        reasons = {row.said for row in comparison.rows}
        why = reasons.pop() if len(reasons) == 1 else "no case has figures on both sides"
        return f"{new} cannot be compared with {base}: {why}"
    return f"{new} is neither faster nor slower than {base} in any case, as far as this shows{rest}"


def _summary(comparison: Comparison) -> str:
    counts = Counter(row.verdict for row in comparison.rows)
    cases = sum(row.found is not None for row in comparison.rows)
    text = ", ".join(f"{n} {verdict}" for verdict, n in counts.items()) or "no case in both"
    if not cases:
        return text
    return (
        f"{text}; ratio NEW / BASE of medians, 95 % intervals of all {cases} cases at once, "
        f"threshold {_percent(comparison.threshold)}, clock {comparison.clock}"
    )


def _columns(comparison: Comparison, stacked: bool) -> list[Column]:
    """Return the table of a comparison, but for what KVM did; `stacked`: with narrow titles."""
    between = "\n" if stacked else " "
    unit, rows = UNITS[comparison.clock], comparison.rows
    costs = {
        "BASE": [plain(figure(row.found.base) if row.found else "-") for row in rows],
        "NEW": [plain(figure(row.found.new) if row.found else "-") for row in rows],
    }
    alone = [plain(_ratio(row.found.ratio) if row.found else "-") for row in rows]
    return [
        Column("case", [plain(row.case) for row in rows], right=False),
        *(Column(f"{side}{between}{unit}/op", cells) for side, cells in costs.items()),
        Column(
            "ratio [95 % interval]",
            [plain(with_interval(row.found)) for row in rows],
            goes=1,
            brief=Column("ratio", alone, lost="the ratios' intervals"),
        ),
        Column(
            "verdict",
            [Text(row.verdict, style=COLOURS.get(row.verdict, "")) for row in rows],
            right=False,
        ),
    ]


def _of_one_boot(comparison: Comparison) -> str:
    if comparison.fewest_runs > 1:
        return "runs of one boot on a side: the intervals hold the spread between them"
    return "one run on a side: the intervals hold the spread between VMs"


def remarks(comparison: Comparison) -> list[str]:
    """Return what to know of the table."""
    left_out = [(reason, case) for case, reason in comparison.left_out.items()]
    remarks = [_summary(comparison), *by_reason("left out", left_out)]
    unseen = [(reason, name) for name, reason in comparison.cost_alone.items()]
    remarks += [f"{line}; verdicts are on the cost alone" for line in by_reason(UNSEEN, unseen)]
    if comparison.boot_allowance and any(row.found for row in comparison.rows):
        remarks.append(
            f"{_of_one_boot(comparison)}, not between boots, for which "
            f"{_percent(comparison.boot_allowance)} is allowed; folders of several runs"
            f"{' from several boots' if comparison.fewest_runs > 1 else ''} would show it"
        )
    if any(row.verdict == "unclear" for row in comparison.rows):
        more = "VMs (--vms)" if comparison.boot_allowance else "runs, five or more a side"
        remarks.append(
            "unclear: the interval holds changes that matter and others that do not; measure more "
            f"{more}, or a quieter machine (kvmharness doctor)"
        )
    if any(row.verdict == "unweighed" for row in comparison.rows):
        remarks.append(
            "unweighed: what changed beside the instructions may take longer than they do; real "
            "hardware would tell (kvmharness run, or the lab by --machine kvm)"
        )
    if comparison.clock == "insn":
        remarks.append(INSTRUCTIONS)
    return remarks


def show_comparison(
    comparison: Comparison, out: Console, most: int | None = None, *, hint: bool = True
) -> None:
    """Print a comparison: the sentence, what differs, the table, what to know of it.

    `most` is how many columns there is room for, None: for all; `hint` says how to see what was
    left out.
    """
    for line in (sentence(comparison), *differing(comparison)):
        fitting.say(line, out, most)
    columns = _columns(comparison, stacked=False)
    said = [row.said + climb_said(row) for row in comparison.rows]
    what = Column("what KVM did", [plain(text) for text in said], right=False, wraps=True)
    below = most is not None and fitting.width([*columns, what]) > most
    if below:
        columns = _columns(comparison, stacked=most is not None and fitting.width(columns) > most)
    if comparison.rows:
        fitting.show(columns if below else [*columns, what], out, most, hint=hint)
    if below:
        for row, text in zip(comparison.rows, said, strict=True):
            fitting.say(f"{row.case}: {text}", out, most)
    for line in remarks(comparison):
        fitting.say(line, out, most)
