"""Cost and deferred work together: what an op costs whoever has to pay for it; pure."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import stdtrit

from kvmharness.analysis import stats, steady
from kvmharness.analysis.stats import Floats
from kvmharness.model.run import DEFERRED, CaseResult, Interval

# Deferred work below this share of the cost is taken for the kernel's own, and so is what comes
# to less in a whole sample (ns, or instructions): an interrupt of the timer more or less.
LEAST_SHARE = 0.01
LEAST_NS = 10_000
# A VM that saw more of it than so many times the middle one says no more than that there is some.
OUTLYING = 2.0


def deferred(result: CaseResult) -> list[Floats] | None:
    """Return what was deferred, per op and grouped by VM; None where it could not be had."""
    if not result.samples or not result.deferred_samples:
        return None
    return stats.by_vm(result.deferred_samples, result.deferred_vms)


def of_vms(result: CaseResult) -> dict[int, float]:
    """Return the middle of what each VM deferred, per op; empty where it could not be had."""
    numbers = np.unique(result.deferred_vms).tolist()
    late = deferred(result) or []
    return {int(vm): float(np.median(of_vm)) for vm, of_vm in zip(numbers, late, strict=False)}


def sums(result: CaseResult) -> list[Floats] | None:
    """Return the samples, grouped by VM, each with what its VM deferred, even if that is noise."""
    late = of_vms(result)
    samples, vms = steady.chosen(result)
    if not vms or any(vm not in late for vm in vms):
        return None
    both = [sample + late[vm] for sample, vm in zip(samples, vms, strict=True)]
    return stats.by_vm(both, vms)


def total(result: CaseResult) -> Interval | None:
    """Return what an op costs in all, None where its deferred work could not be had.

    Deferred work that is in doubt, or too little to matter, counts as none: its noise would
    drown a small cost.
    """
    groups = sums(result)
    if groups is None:
        return None
    return stats.median_ci(groups if material(result) else steady.groups(result))


def why_no_total(result: CaseResult) -> str:
    """Return why a case has no total."""
    return result.absent.get(DEFERRED) or "the version that ran does not count it"


def interval(result: CaseResult) -> Interval | None:
    """Return the median of what was deferred with its interval, None where it was not counted."""
    late = deferred(result)
    return stats.median_ci(late) if late else None


def _certain(result: CaseResult) -> bool:
    """Tell whether the VMs agree that there is some, by Student's t.

    Two or three lie on the same side of 0 by chance, and no resampling of them leaves it.
    """
    seen = np.array(list(of_vms(result).values()))
    if len(seen) < 2:
        return False
    seen = np.minimum(seen, OUTLYING * float(np.median(seen)))
    quantile = float(stdtrit(len(seen) - 1, 1 - (1 - stats.CONFIDENCE) / 2))
    return float(seen.mean()) > quantile * float(seen.std(ddof=1)) / math.sqrt(len(seen))


def material(result: CaseResult) -> float:
    """Return what a case deferred per op, 0 where that is in doubt or too little to matter."""
    late = interval(result)
    if late is None or late.ci95 is None or late.ci95[0] <= 0 or not _certain(result):
        return 0.0
    least = LEAST_NS / max((result.iterations or 1) - 1, 1)
    cost = stats.median(steady.groups(result))
    return late.median if late.median > max(LEAST_SHARE * cost, least) else 0.0
