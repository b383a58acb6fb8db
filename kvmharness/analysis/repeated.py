"""Two runs of one job: by a clock of instructions they have the same figures, or one is wrong."""

from __future__ import annotations

from collections.abc import Iterator

from kvmharness.model.run import CaseResult, Run
from kvmharness.text import figure


def _ended(result: CaseResult) -> str:
    """Return how a case ended, in a word."""
    ends = ("incorrect", "failed", "skipped")
    return next((end for end in ends if getattr(result, end)), "measured")


def _difference(one: CaseResult, other: CaseResult) -> str | None:
    """Say in which figure two results of a case differ, None where they do not."""
    if _ended(one) != _ended(other):
        return f"{_ended(one)} and {_ended(other)}"
    for what, a, b in (
        ("sample", one.samples, other.samples),
        ("deferred work", one.deferred_samples, other.deferred_samples),
    ):
        if len(a) != len(b):
            return f"{len(a)} and {len(b)} figures of {what}"
        pairs = [pair for pair in zip(a, b, strict=True) if pair[0] != pair[1]]
        if pairs:
            return f"{what} {figure(pairs[0][0])} and {figure(pairs[0][1])} {one.unit}/op"
    for name in sorted(one.counters.keys() | other.counters.keys()):
        counted = one.counters.get(name), other.counters.get(name)
        if counted[0] != counted[1]:
            return f"{name} {counted[0]} and {counted[1]} per op"
    return None


def _differences(one: Run, other: Run) -> Iterator[str]:
    old = {result.name: result for result in one.cases}
    young = {result.name: result for result in other.cases}
    for name in sorted(old.keys() ^ young.keys()):
        yield f"{name}: in one of them only"
    for name in old.keys() & young.keys():
        said = _difference(old[name], young[name])
        if said:
            yield f"{name}: {said}"


def differences(one: Run, other: Run) -> list[str]:
    """Say where two runs of one job differ, one line per case; none by a clock of time."""
    if one.clock != "insn" or other.clock != "insn":
        return []
    return sorted(_differences(one, other))
