"""Why a cost changed: the change of class and of counters, in KVM's words; pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from kvmharness.analysis import totals
from kvmharness.model.counters import NO, UNWEIGHED, WORDS
from kvmharness.model.run import CaseClass, CaseResult
from kvmharness.text import figure

Direction = Literal["faster", "slower"]

# A count has changed from here on: what `classify` takes for "not at all", and this share.
SHARE = 0.05
# So many counters at most: the others are in the files.
MOST = 3
# No CPU of today retires more than four instructions a cycle for long: what one takes at least.
LEAST_CYCLES = 0.25

# What is no counter: a cost, in the unit of the case.
LATER = "deferred work"

# From cheap to dear; a word that is in neither says nothing of the cost.
HOW = ("no-exit", "exit")
ROOT = ("kept", "reloaded", "rebuilt")
BECAUSE = {
    "no-exit": "the write no longer exits",
    "exit": "the write exits",
    **{word: f"the root is {word}" for word in ROOT},
}


@dataclass(frozen=True)
class Account:
    """What KVM did for a case on one side: its class (None: mixed or not counted), its counts.

    `deferred` is the work that was left for later, per op: 0 where it is too little to matter,
    None where it could not be had.
    """

    class_: CaseClass | None
    counters: Mapping[str, float]
    deferred: float | None = None

    @property
    def how(self) -> str:
        """How the write reached KVM; empty where there is no class."""
        return self.class_.how if self.class_ else ""

    @property
    def root(self) -> str:
        """What became of the root; empty where there is no class."""
        return self.class_.root if self.class_ else ""


def _deferred(results: Sequence[CaseResult]) -> float | None:
    late = [totals.material(result) for result in results if totals.deferred(result)]
    return statistics.median(late) if late else None


def account(results: Sequence[CaseResult]) -> Account:
    """Return what several runs of one case saw: their class, and the middle of each counter."""
    classes = {result.class_ for result in results}
    counted: dict[str, list[float]] = {}
    for result in results:
        for name, value in result.counters.items():
            if value is not None:
                counted.setdefault(name, []).append(value)
    return Account(
        classes.pop() if len(classes) == 1 else None,
        {name: statistics.median(values) for name, values in counted.items()},
        _deferred(results),
    )


def _counts(base: Account, new: Account) -> list[tuple[str, float, float]]:
    """Return the events whose count changed materially: words, count before, count now."""
    changed = []
    late = base.deferred or 0.0, new.deferred or 0.0
    if None not in (base.deferred, new.deferred) and late[0] != late[1]:
        changed.append((LATER, *late))
    for words, names in WORDS.items():
        name = next((n for n in names if n in base.counters and n in new.counters), None)
        if name is not None:
            a, b = base.counters[name], new.counters[name]
            if abs(b - a) > max(NO, SHARE * max(abs(a), abs(b))):
                changed.append((words, a, b))
    return changed


def _count(words: str, a: float, b: float) -> str:
    if words == LATER:
        return f"{words} {figure(a)} → {figure(b)}"
    return f"{words} {a:.2f} → {b:.2f}"


def change(base: Account, new: Account) -> str:
    """Return what KVM did otherwise, e.g. `root rebuilt → kept; exits 5.00 → 1.00`.

    Where nothing changed it is the class, for what there is to say.
    """
    said = []
    for what, before, now in (("root", base.root, new.root), ("write", base.how, new.how)):
        if before and now and before != now:
            said.append(f"{what} {before} → {now}")
    said += [_count(*event) for event in _counts(base, new)[:MOST]]
    return "; ".join(said) or str(new.class_ or "-")


# Where the words of a class stand, from cheap to dear: the least and the most that each may mean.
PLACES: Mapping[str, tuple[int, int]] = {
    "no-exit": (0, 0),
    "exit": (1, 1),
    "emulated": (1, 1),
    "kept": (0, 0),
    "reloaded": (1, 1),
    "rebuilt": (2, 2),
    "kept-or-reloaded": (0, 1),
}


def class_change(base: Account, new: Account) -> Literal["worse", "better"] | None:
    """Say which way the class has changed; None where it has not, or its two words disagree."""
    ways = set()
    for before, now in ((base.how, new.how), (base.root, new.root)):
        if before in PLACES and now in PLACES:
            if PLACES[now][0] > PLACES[before][1]:
                ways.add("worse")
            elif PLACES[now][1] < PLACES[before][0]:
                ways.add("better")
    if ways == {"worse"}:
        return "worse"
    return "better" if ways == {"better"} else None


def _unweighed(base: Account, new: Account) -> list[tuple[str, float, float]]:
    return [event for event in _counts(base, new) if event[0] in UNWEIGHED]


def outweighed(base: Account, new: Account, instructions: float) -> str | None:
    """Return what a change by so many instructions an op may be outweighed by, None if nothing.

    It is what a clock of instructions cannot weigh, WBINVD 0.00 → 1.00 say, and what it may
    take at most is compared with what the instructions take at least.
    """
    events = _unweighed(base, new)
    cycles = sum((b - a) * UNWEIGHED[words] for words, a, b in events)
    if not events or instructions * cycles > 0 or abs(cycles) <= abs(instructions) * LEAST_CYCLES:
        return None
    return ", ".join(_count(*event) for event in events[:MOST])


def cause(base: Account, new: Account, direction: Direction) -> str:
    """Return the end of the sentence `NEW is faster at CASE`, with no `because` without proof.

    A class that became cheaper is proof that a case is faster; counters that moved the same
    way are named; anything else is said not to explain it.
    """
    reasons = []
    for order, before, now in ((ROOT, base.root, new.root), (HOW, base.how, new.how)):
        if before in order and now in order and before != now:
            cheaper = order.index(now) < order.index(before)
            if cheaper == (direction == "faster"):
                reasons.append(BECAUSE[now])
    if reasons:
        return f" because {' and '.join(reasons)} ({base.class_} → {new.class_})"
    along = [e for e in _counts(base, new) if (e[2] < e[1]) == (direction == "faster")]
    if along:
        return f", with {', '.join(_count(*event) for event in along[:MOST])}"
    if not base.counters or not new.counters:
        return "; nothing was counted that could say why"
    return "; the counters do not say why"
