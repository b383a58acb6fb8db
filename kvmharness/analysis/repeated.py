"""Two runs of one job: by a clock of instructions they have the same figures, or one is wrong."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from kvmharness.model.run import CaseResult, Run
from kvmharness.text import figure

# What a machine does for itself, a tick or a character to be sent, falls at other moments each
# time: so many instructions in a sample, and such a share, are no difference of deferred work.
NOISE, NOISE_SHARE = 20_000, 0.01
# A tick takes more than so many.
TICK = 2_000


def _deferred_differs(one: CaseResult, other: CaseResult) -> bool:
    if not one.deferred_samples or not other.deferred_samples:
        return one.deferred_samples != other.deferred_samples
    a, b = (statistics.median(result.deferred_samples) for result in (one, other))
    noise = NOISE / max((one.iterations or 1) - 1, 1)
    return abs(a - b) > noise + NOISE_SHARE * max(abs(a), abs(b))


def _samples_that_differ(one: CaseResult, other: CaseResult) -> tuple[float, float] | None:
    """Return a sample of each that differ as no tick explains, None where there are none.

    Boots of one job come in two kinds, whose ticks fall at other places in a sample and cost it
    some dozens of instructions more or less; the samples without one are the same to the last.
    """
    if not one.samples:
        return None
    ops = max(one.iterations or 1, 1)
    ticked = min(*one.samples, *other.samples) + TICK / ops
    for a, b in zip(one.samples, other.samples, strict=True):
        if a != b and (max(a, b) < ticked or abs(a - b) > NOISE / ops):
            return a, b
    return None


def _ended(result: CaseResult) -> str:
    """Return how a case ended, in a word."""
    ends = ("incorrect", "failed", "skipped")
    return next((end for end in ends if getattr(result, end)), "measured")


def _difference(one: CaseResult, other: CaseResult) -> str | None:
    """Say in which figure two results of a case differ, None where they do not."""
    if _ended(one) != _ended(other):
        return f"{_ended(one)} and {_ended(other)}"
    if len(one.samples) != len(other.samples):
        return f"{len(one.samples)} and {len(other.samples)} samples"
    pair = _samples_that_differ(one, other)
    if pair:
        return f"sample {figure(pair[0])} and {figure(pair[1])} {one.unit}/op"
    if _deferred_differs(one, other):
        late = (r.deferred_samples for r in (one, other))
        said = " and ".join(figure(statistics.median(each)) if each else "none" for each in late)
        return f"deferred work {said} {one.unit}/op"
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
