"""What `kvmharness check --expect` takes: an expectation parsed, and held against a run; pure."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import product
from typing import Literal, get_args

from kvmharness.analysis import totals
from kvmharness.errors import UsageError
from kvmharness.model.clocks import UNITS
from kvmharness.model.counters import COUNTERS, KVM_PREFIX
from kvmharness.model.run import MOST_PER_OP, CaseClass, CaseResult, How, Interval, Root, Run
from kvmharness.text import figure

Answer = Literal["ok", "FAIL", "unclear", "incorrect"]

COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
# What stands where a counter's name may, and is none.
FIGURES = ("cost", "deferred", "total", "net")
NO_COUNTERS = frozenset({*COMPARE, "class", *FIGURES})
NUMBER = re.compile(r"-?(\d{1,3}(,\d{3})+|\d+)(\.\d+)?(e[+-]?\d+)?", re.ASCII)
GRAMMAR = (
    "write CASE [cost|deferred|total|net] < NUMBER ns|insn|ticks, CASE class GLOB or "
    "CASE COUNTER < NUMBER (with <, <=, > or >=)"
)
# What a word of a class that is in doubt may stand for (docs/classes.md).
HOW = {"unclear": ("no-exit", "exit", "emulated")}
ROOT = {"unclear": ("kept", "reloaded", "rebuilt"), "kept-or-reloaded": ("kept", "reloaded")}
CLASSES = [f"{how}/{root}" for how, root in product(get_args(How), get_args(Root))]
# What a figure can be: the least, and what it stays below.
COST, NET, COUNT = (0.0, MOST_PER_OP), (-MOST_PER_OP, MOST_PER_OP), (0.0, math.inf)
# By what is asked for, counters apart.  What is deferred is a difference, as net is.
RANGES = {"": COST, "cost": COST, "total": COST, "deferred": NET, "net": NET}


@dataclass(frozen=True)
class Expectation:
    """One `--expect`: of the cases that `pattern` matches, what is `wanted`.

    `what` is "cost", "deferred", "total", "net", "class", a counter's name, or "" for what an op
    costs in all; `wanted` is a glob for a class, else the sign; `unit` is the cost's.
    """

    text: str
    pattern: str
    what: str
    wanted: str
    bound: float = 0.0
    unit: str | None = None


@dataclass(frozen=True)
class Answered:
    """What became of an expectation for one case; `seen` is the figure or the reason."""

    answer: Answer
    case: str
    expected: str
    seen: str


def _number(word: str, text: str) -> float:
    value = float(word.replace(",", "")) if NUMBER.fullmatch(word) else math.inf
    if not math.isfinite(value):
        raise UsageError(f"expect {text!r}: {word!r} is no number; {GRAMMAR}")
    return value


def _parse(text: str) -> Expectation:
    words = text.split()
    match words:
        case [pattern, "class", glob]:
            return Expectation(text, pattern, "class", glob)
        case [pattern, sign, number, unit] if sign in COMPARE and unit in UNITS.values():
            return Expectation(text, pattern, "", sign, _number(number, text), unit)
        case [pattern, what, sign, number, unit] if (
            what in FIGURES and sign in COMPARE and unit in UNITS.values()
        ):
            return Expectation(text, pattern, what, sign, _number(number, text), unit)
        case [_, sign, _] | [_, "cost" | "deferred" | "total" | "net", sign, _] if sign in COMPARE:
            raise UsageError(
                f"expect {text!r}: a cost needs its unit, ns, insn or ticks; {GRAMMAR}"
            )
        case [pattern, counter, sign, number] if sign in COMPARE and counter not in NO_COUNTERS:
            return Expectation(text, pattern, counter, sign, _number(number, text))
    raise UsageError(f"expect {text!r}: not understood; {GRAMMAR}")


def parse(text: str) -> Expectation:
    """Parse one expression, e.g. `long64/cr0_wp < 6000 insn`.

    Raises UsageError, also for what no kernel could ever satisfy.
    """
    expected = _parse(text)
    why = _why_never([expected])
    if why:
        raise UsageError(f"expect {text!r}: {why}")
    return expected


def parse_all(texts: Sequence[str]) -> list[Expectation]:
    """Parse several expressions.  Raises UsageError, also where they exclude one another."""
    expected = [parse(text) for text in texts]
    together: dict[tuple[str, str], list[Expectation]] = {}
    for one in expected:
        together.setdefault((one.pattern, one.what), []).append(one)
    for alike in together.values():
        if _why_never(alike):
            said = " and ".join(repr(one.text) for one in alike)
            raise UsageError(f"expect {said}: nothing is all of this at once; leave one out")
    return expected


def _why_never(alike: Sequence[Expectation]) -> str | None:
    """Say why nothing can be as expectations of the same quantity want it; None where it can."""
    what = alike[0].what
    if what == "class":
        if any(all(fnmatchcase(name, e.wanted) for e in alike) for name in CLASSES):
            return None
        return "no class is called so; it is HOW/ROOT, e.g. exit/kept or */kept"
    known = what.startswith(KVM_PREFIX) or what in {counter.name for counter in COUNTERS}
    if what not in RANGES and not known:
        return f"nothing that is counted is called {what}; the result file has the names"
    low, high = RANGES.get(what, COUNT)
    # What can be lies between two values or is one of them: the bounds leave something of it
    # where one of these points, or a step beside it, satisfies them all.
    edges = [low, *(e.bound for e in alike)]
    points = [p for edge in edges for p in (math.nextafter(edge, -math.inf), edge)]
    points += [math.nextafter(edge, math.inf) for edge in edges]
    can = [p for p in points if low <= p < high]
    if any(all(COMPARE[e.wanted](p, e.bound) for e in alike) for p in can):
        return None
    return "nothing that is measured can be so"


def _may_be(found: CaseClass) -> list[str]:
    """Return every class that one in doubt may stand for; a certain one is itself."""
    hows, roots = HOW.get(found.how, (found.how,)), ROOT.get(found.root, (found.root,))
    return [f"{how}/{root}" for how, root in product(hows, roots)]


def _agree(answers: Sequence[bool]) -> Answer:
    if all(answers):
        return "ok"
    return "unclear" if any(answers) else "FAIL"


def _of_class(expected: Expectation, result: CaseResult) -> tuple[Answer, str]:
    if result.class_ is None:
        return "unclear", "nothing was counted that gives it a class"
    # Who names a class in doubt as it is written means that.
    found = str(result.class_)
    named = fnmatchcase(found, expected.wanted)
    may_be = [found] if named else _may_be(result.class_)
    fits = [fnmatchcase(one, expected.wanted) for one in may_be]
    answer = _agree(fits)
    evidence = ", ".join(f"{name} {count:.2f}" for name, count in result.class_evidence.items())
    return answer, found if answer == "ok" else f"{found} ({evidence})"


def _of_counter(expected: Expectation, result: CaseResult) -> tuple[Answer, str]:
    value = result.counters.get(expected.what)
    if value is None:
        source = f"{expected.what.partition('.')[0]}.*"
        reason = result.absent.get(expected.what) or result.absent.get(source)
        return "unclear", f"not counted: {reason or 'this run has no such counter'}"
    holds = COMPARE[expected.wanted](value, expected.bound)
    return ("ok" if holds else "FAIL"), f"{value:.4f} per op"


def _figure(what: str, result: CaseResult) -> Interval | str:
    """Return the figure that is asked for, or why there is none."""
    if what == "net":
        net = result.per_op.net if result.per_op else None
        return net or "`empty` with its parameters was not measured; run it too"
    if what in ("deferred", "total"):
        known = result.deferred if what == "deferred" else result.total
        return known or f"not counted: {totals.why_no_total(result)}"
    # What an op costs in all, which is its own cost alone where nothing else is known.
    cost = (result.total if what == "" else None) or result.per_op
    return cost or "there are no samples"


def _of_cost(expected: Expectation, result: CaseResult) -> tuple[Answer, str]:
    cost = _figure(expected.what, result)
    if isinstance(cost, str):
        return "unclear", cost
    middle = figure(cost.median)
    if cost.ci95 is None:
        return "unclear", f"{middle} {result.unit} of a single VM has no interval; use --vms 5"
    holds = [COMPARE[expected.wanted](edge, expected.bound) for edge in cost.ci95]
    lo, hi = map(figure, cost.ci95)
    seen = f"{middle} [{lo}, {hi}] {result.unit}"
    if expected.what == "" and result.total is None:
        seen += f" (deferred work not counted: {totals.why_no_total(result)})"
    elif expected.what == "" and totals.material(result):
        seen += f", of which {figure(totals.material(result))} deferred"
    return _agree(holds), seen


def _of_case(expected: Expectation, result: CaseResult) -> tuple[Answer, str]:
    if result.incorrect:
        return "incorrect", f"KVM is incorrect: {result.incorrect}"
    for kind in ("failed", "skipped"):
        reason = getattr(result, kind)
        if reason and not result.samples:
            return "unclear", f"{kind}: {reason}"
    if not result.samples:
        return "unclear", "there are no samples"
    kinds = {"class": _of_class, "": _of_cost, **dict.fromkeys(FIGURES, _of_cost)}
    return kinds.get(expected.what, _of_counter)(expected, result)


def check(expected: Expectation, run: Run) -> list[Answered]:
    """Hold an expectation against every case of a summarised run that it names.

    A cost is decided on its 95 % interval.  Raises UsageError where it names no case, and
    where its unit is not the run's.
    """
    unit = UNITS[run.clock]
    if expected.unit not in (None, unit):
        raise UsageError(
            f"expect {expected.text!r}: this run's unit is {unit}, its clock being {run.clock}; "
            f"give the bound in {unit}"
        )
    _, _, said = expected.text.strip().partition(" ")
    outcomes = [
        Answered(answer, result.name, " ".join(said.split()), seen)
        for result in run.cases
        if fnmatchcase(result.name, expected.pattern)
        # Nothing is net of itself: a pattern means the others.
        and not (expected.what == "net" and result.name == result.case.baseline)
        for answer, seen in [_of_case(expected, result)]
    ]
    if not outcomes:
        names = ", ".join(repr(result.name) for result in run.cases[:4])
        raise UsageError(
            f"expect {expected.text!r}: no case of this run is called so; it has {names or 'none'}"
            f"{' and others' if len(run.cases) > 4 else ''}"
        )
    return outcomes
