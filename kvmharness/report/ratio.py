"""How a case's cost in one run compares with that in another: pure."""

from __future__ import annotations

import numpy as np

from kvmharness import stats
from kvmharness.results import Run


def _groups(run: Run, case_name: str) -> list[stats.Floats]:
    case = next(case for case in run.cases if case.name == case_name)
    return stats.by_vm(case.samples, case.vms)


def ratio(
    base: Run, new: Run, case_name: str
) -> tuple[float, tuple[float, float] | None]:
    """Return the median cost in `new` as a multiple of that in `base`, and its 95 % interval.

    Both runs have samples of the case, and the base's median is above 0.  Both sides are
    resampled; the interval is None where a side has a single VM, or medians of 0 among them.
    """
    own, others = _groups(new, case_name), _groups(base, case_name)
    middle = stats.middle(own) / stats.middle(others)
    fewest = min(len(own), len(others))
    if fewest < 2:
        return middle, None
    rng = np.random.default_rng(stats.SEED)
    above, below = stats.medians(own, rng), stats.medians(others, rng)
    if not below.min() > 0:
        return middle, None
    low = stats.tail(fewest)
    lo, hi = np.quantile(above / below, [low, 1 - low])
    return middle, (float(lo), float(hi))
