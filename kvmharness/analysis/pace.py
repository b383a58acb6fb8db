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


def _centre(results: Iterable[CaseResult]) -> float | None:
    """Return the middle of the VMs' paces as a log, as a side's cost is taken; None without any."""
    paces = [pace for result in results for pace in result.paces]
    return ratios.centre(np.log(paces)).log if paces else None


def change(base: Iterable[CaseResult], new: Iterable[CaseResult]) -> float:
    """Return in how many times as long NEW's CPU did the same, 1 where a side does not tell."""
    a, b = _centre(base), _centre(new)
    return 1.0 if a is None or b is None else math.exp(b - a)


def said(ratio: float) -> str:
    """Say a change in words."""
    if ratio < 1:
        return f"NEW's CPU itself was faster: a fixed loop took {ratio:.2f} times as long"
    return f"NEW's CPU itself was slower: a fixed loop took {ratio:.2f} times as long"


def differing(base: Sequence[Run], new: Sequence[Run]) -> list[str]:
    """Say what differs between all runs of two sides: a line, or none."""
    sides = [[case for run in runs for case in run.cases] for runs in (base, new)]
    a, b = _centre(sides[0]), _centre(sides[1])
    if a is None or b is None or abs(b - a) < MATTERS:
        return []
    return [f"ticks of a fixed loop: {figure(math.exp(a))} → {figure(math.exp(b))}"]


def uneven(run: Run) -> str | None:
    """Say that the CPU's pace changed while a run was taken, None where it did not."""
    paces = [pace for case in run.cases for pace in case.paces]
    if not paces or max(paces) < min(paces) * (1 + UNEVEN):
        return None
    return (
        f"a fixed loop took the CPU {figure(min(paces))} to {figure(max(paces))} ticks: another "
        "hyperthread of its core was at work, or its frequency changed"
    )
