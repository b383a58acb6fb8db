"""Has a cost changed?  The ratio of two sides, its interval and the verdict: pure functions.

The unit of chance is a block: a run where a side has several, a VM where it has one.  A
block is worth the log of its median, and a side the mean of its blocks, trimmed, because one
VM in twenty may land badly.  The interval of the difference is Welch's, for trimmed means as
K. Yuen, "The two-sample trimmed t for unequal population variances" (1974), has it.

No bootstrap here: corrected for many cases, an interval reaches into tails that resampling
three or five blocks never produces.  tests/analysis/test_ratios.py holds the coverage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import stdtrit

from kvmharness.analysis.stats import CONFIDENCE, Floats
from kvmharness.model.run import LEAST_PER_OP

Verdict = Literal["faster", "slower", "same", "unclear"]

# The share of blocks set aside at each end: from ten blocks on the lowest and the highest.
TRIM = 0.1


class Centre(NamedTuple):
    """A side's middle as a log, the variance of it, and its degrees of freedom (0: unknown)."""

    log: float
    variance: float
    df: int


@dataclass(frozen=True)
class Ratio:
    """What both sides cost per op, and NEW / BASE; `ci95` is null where a side has one block."""

    base: float
    new: float
    ratio: float
    ci95: tuple[float, float] | None


def centre(blocks: Floats) -> Centre:
    """Return the trimmed mean of blocks' logs and what is known of its spread."""
    ordered = np.sort(blocks)
    cut = int(TRIM * len(ordered))
    kept = ordered[cut : len(ordered) - cut]
    middle = float(kept.mean())
    if len(kept) < 2:
        return Centre(middle, math.inf, 0)
    # What was cut counts as its nearest neighbour, or the spread would look too small.
    winsorised = ordered.clip(kept[0], kept[-1])
    squares = float(((winsorised - winsorised.mean()) ** 2).sum())
    return Centre(middle, squares / (len(kept) * (len(kept) - 1)), len(kept) - 1)


def blocks(runs: Sequence[Sequence[Floats]]) -> Floats:
    """Return the logs of a side's blocks: of its runs where there are several, else of its VMs.

    `runs` holds each run's samples grouped by VM.  A side of several runs then carries their
    spread, from boot to boot, in its interval.  Raises ValueError where a median is 0.
    """
    of_runs: list[Floats] = []
    for run in runs:
        medians = np.array([np.median(group) for group in run])
        if medians.min() < LEAST_PER_OP:
            raise ValueError("a median is 0")
        of_runs.append(np.log(medians))
    if len(of_runs) == 1:
        return of_runs[0]
    return np.array([centre(vms).log for vms in of_runs])


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def ratio(base: Floats, new: Floats, cases: int = 1) -> Ratio:
    """Return NEW / BASE of two sides' blocks, with its interval.

    `cases` is how many are compared at once: the intervals of all of them hold together with
    95 % (Bonferroni), so each is as much wider.
    """
    a, b = centre(base), centre(new)
    change = b.log - a.log
    ci95 = None
    if a.df and b.df:
        half = 0.0
        variance = a.variance + b.variance
        if variance:
            # Welch and Satterthwaite, by shares: a square of a variance may underflow.
            shares = (a.variance / variance, b.variance / variance)
            df = 1 / (shares[0] ** 2 / a.df + shares[1] ** 2 / b.df)
            quantile = float(stdtrit(df, 1 - (1 - CONFIDENCE) / 2 / cases))
            half = quantile * math.sqrt(variance)
        ci95 = (_exp(change - half), _exp(change + half))
    return Ratio(_exp(a.log), _exp(b.log), _exp(change), ci95)


def widened(found: Ratio, factor: float) -> Ratio:
    """Return a ratio of which nobody knows more than to a factor: its interval is as much wider."""
    if found.ci95 is None:
        return found
    apart = max(factor, 1 / factor)
    return replace(found, ci95=(found.ci95[0] / apart, found.ci95[1] * apart))


def judge(found: Ratio, threshold: float, boot_allowance: float) -> Verdict:
    """Return the verdict: `threshold` is the least change that matters, as a share of 1.

    `boot_allowance` is by how much two boots of one kernel may differ where the interval does
    not know: 0 where both sides have several runs.  Changed: more than the threshold, with the
    interval wholly beyond the allowance.  Same: the interval lies within the larger of both.  A
    change counts alike in both directions: swapping the sides swaps `faster` and `slower`.
    """
    if found.ci95 is None:
        return "unclear"
    lo, hi = found.ci95
    if found.ratio > 1 + threshold and lo > 1 + boot_allowance:
        return "slower"
    if found.ratio < 1 / (1 + threshold) and hi < 1 / (1 + boot_allowance):
        return "faster"
    margin = 1 + max(threshold, boot_allowance)
    return "same" if 1 / margin <= lo and hi <= margin else "unclear"
