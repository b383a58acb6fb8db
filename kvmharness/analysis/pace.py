"""The CPU's own pace, by a fixed loop beside each VM's samples: did the machine change?  Pure.

A core that another hyperthread works on, or whose clock was lowered, costs every op more.  In a
virtual machine nothing else tells of either.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from kvmharness.analysis import ratios
from kvmharness.model.run import CaseResult, Run
from kvmharness.text import figure

# What is less is no change: the loop itself takes a tick more or less.
MATTERS = 0.01
UNEVEN = 0.05


def _centre(results: Sequence[CaseResult]) -> float | None:
    """Return a side's middle pace as a log, taken as its cost is: of its runs, or of one's VMs.

    None where a run has samples and no pace: the others do not speak for it.
    """
    measured = [result for result in results if result.samples]
    if not measured or not all(result.paces for result in measured):
        return None
    runs = [ratios.centre(np.log(result.paces)).log for result in measured]
    return ratios.centre(np.array(runs)).log


def _change(base: Sequence[CaseResult], new: Sequence[CaseResult]) -> tuple[float, float] | None:
    """Return both sides' paces as logs, None where they do not differ or a side does not tell."""
    a, b = _centre(base), _centre(new)
    return None if a is None or b is None or abs(b - a) < MATTERS else (a, b)


def change(base: Sequence[CaseResult], new: Sequence[CaseResult]) -> float:
    """Return in how many times as long NEW's CPU did the same, 1 where no change is known."""
    found = _change(base, new)
    return math.exp(found[1] - found[0]) if found else 1.0


def said(ratio: float) -> str:
    """Say a change in words."""
    how = "faster" if ratio < 1 else "slower"
    return f"NEW's CPU itself was {how}: a fixed loop took {ratio:.2f} times as long"


def differing(sides: Iterable[tuple[Sequence[CaseResult], Sequence[CaseResult]]]) -> list[str]:
    """Say of the case beside which two sides' paces differ most how they do: a line, or none."""
    found = [(pair, base[0].name) for base, new in sides if (pair := _change(base, new))]
    if not found:
        return []
    (a, b), case = max(found, key=lambda item: abs(item[0][1] - item[0][0]))
    return [f"ticks of a fixed loop: {figure(math.exp(a))} → {figure(math.exp(b))} beside {case}"]


def uneven(run: Run) -> str | None:
    """Say that the CPU's pace changed while a run was taken, None where it did not."""
    paces = [pace for case in run.cases for pace in case.paces]
    if not paces or max(paces) < min(paces) * (1 + UNEVEN):
        return None
    return (
        f"a fixed loop took the CPU {figure(min(paces))} to {figure(max(paces))} ticks: another "
        "hyperthread of its core was at work, or its frequency changed"
    )
