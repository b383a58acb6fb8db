"""Cost and deferred work together: what an op costs whoever has to pay for it; pure."""

from __future__ import annotations

import numpy as np

from kvmharness.analysis import stats
from kvmharness.analysis.stats import Floats
from kvmharness.model.run import DEFERRED, CaseResult, Interval

# Deferred work below this share of the cost is taken for the kernel's own.
LEAST_SHARE = 0.01


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


def total(result: CaseResult) -> list[Floats] | None:
    """Return the samples, grouped by VM, each with what its VM deferred."""
    late = of_vms(result)
    vms = [int(vm) for vm in np.unique(result.vms)]
    if not vms or any(vm not in late for vm in vms):
        return None
    return [own + late[vm] for vm, own in zip(vms, _costs(result), strict=True)]


def why_no_total(result: CaseResult) -> str:
    """Return why a case has no total."""
    return result.absent.get(DEFERRED) or "the version that ran does not count it"


def interval(result: CaseResult) -> Interval | None:
    """Return the median of what was deferred with its interval, None where it was not counted."""
    late = deferred(result)
    return stats.median_ci(late) if late else None


def material(result: CaseResult) -> float:
    """Return what a case deferred per op, 0 where that is in doubt or too little to matter."""
    late = interval(result)
    if late is None or late.ci95 is None or late.ci95[0] <= 0:
        return 0.0
    return late.median if late.median > LEAST_SHARE * stats.median(_costs(result)) else 0.0


def _costs(result: CaseResult) -> list[Floats]:
    return stats.by_vm(result.samples, result.vms)
