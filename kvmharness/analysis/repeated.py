"""Two runs of one job: by a clock of instructions they have the same figures, or one is wrong."""

from __future__ import annotations

from collections.abc import Iterator

from kvmharness.model.run import CaseResult, Run

# What two runs of one case have that is to be the same, each of them in its place.
SAME = {"samples": "sample", "deferred_samples": "deferred work"}


def _exact(value: float) -> str:
    """Format a figure so that another one reads otherwise."""
    return f"{value:,.4f}".rstrip("0").rstrip(".")


def _ended(result: CaseResult) -> str:
    """Return how a case ended, in a word."""
    ends = ("incorrect", "failed", "skipped")
    return next((end for end in ends if getattr(result, end)), "measured")


def _difference(one: CaseResult, other: CaseResult) -> str | None:
    """Say in which figure two results of a case differ, None where they do not."""
    if _ended(one) != _ended(other):
        return f"{_ended(one)} and {_ended(other)}"
    for name, what in SAME.items():
        a, b = getattr(one, name), getattr(other, name)
        if len(a) != len(b):
            return f"{what}: {len(a)} and {len(b)} figures"
        pair = next((pair for pair in zip(a, b, strict=True) if pair[0] != pair[1]), None)
        if pair:
            return f"{what} {' and '.join(map(_exact, pair))} {one.unit}/op"
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
