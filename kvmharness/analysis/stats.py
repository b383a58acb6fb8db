"""Statistics over samples grouped by VM: pure functions, no I/O.

The interval is a percentile bootstrap that resamples VMs first and samples within the
chosen VMs, because the spread between VMs is the larger one.  With few VMs a plain
percentile interval is too narrow; the percentiles are widened as T. Hesterberg, "What
Teachers Should Know About the Bootstrap" (2015), section 4.3 ("expanded percentile
interval"), does for a t-based width.  tests/analysis/test_stats.py holds the coverage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, stdtrit

from kvmharness.model.run import Interval, Net

Floats = npt.NDArray[np.float64]
# A parameter's value and the samples of the case that had it, grouped by VM.
Point = tuple[float, Sequence[Floats]]

CONFIDENCE = 0.95
RESAMPLES = 4000
# A fixed seed: the same samples give the same interval, wherever the file is read.
SEED = 0x6B766D


def by_vm(samples: Sequence[float], vms: Sequence[int]) -> list[Floats]:
    """Group `samples` by the VM index beside each."""
    values = np.asarray(samples, dtype=np.float64)
    index = np.asarray(vms)
    return [values[index == vm] for vm in np.unique(index)]


def lower_quantile(groups: int, confidence: float = CONFIDENCE) -> float:
    """Return the bootstrap percentile (a share of 1) where the interval begins.

    `groups` >= 2 is the number of independent VMs behind the samples.
    """
    quantile = stdtrit(groups - 1, 0.5 + confidence / 2)
    return float(ndtr(-math.sqrt(groups / (groups - 1)) * quantile))


def median(groups: Sequence[Floats]) -> float:
    """Return the median of all samples."""
    return float(np.median(np.concatenate(groups)))


def medians(groups: Sequence[Floats], rng: np.random.Generator) -> Floats:
    """Return RESAMPLES bootstrapped medians: VMs drawn first, then samples within each."""
    longest = max(len(g) for g in groups)
    table = np.full((len(groups), longest), np.nan)
    for row, group in zip(table, groups, strict=True):
        row[: len(group)] = group
    lengths = np.array([len(g) for g in groups])
    drawn = rng.integers(len(groups), size=(RESAMPLES, len(groups)))
    # Each drawn VM gives as many samples as it has; the rest of its row stays NaN.
    own = lengths[drawn][:, :, None]
    within = (rng.random((RESAMPLES, len(groups), longest)) * own).astype(np.intp)
    values = table[drawn[:, :, None], within]
    if lengths.min() == longest:
        return np.asarray(np.median(values.reshape(RESAMPLES, -1), axis=1))
    values[np.arange(longest) >= own] = np.nan
    return np.asarray(np.nanmedian(values.reshape(RESAMPLES, -1), axis=1))


def _interval(resampled: Floats, groups: int) -> tuple[float, float] | None:
    if groups < 2:
        return None
    low = lower_quantile(groups)
    lo, hi = np.quantile(resampled, [low, 1 - low])
    return float(lo), float(hi)


def median_ci(groups: Sequence[Floats]) -> Interval:
    """Return the median of all samples with its interval (null for a single VM)."""
    if len(groups) < 2:
        return Interval(median(groups), None)
    resampled = medians(groups, np.random.default_rng(SEED))
    return Interval(median(groups), _interval(resampled, len(groups)))


def net(groups: Sequence[Floats], empty: Sequence[Floats]) -> Net:
    """Return the difference of two medians with its interval, both sides resampled."""
    difference = median(groups) - median(empty)
    rng = np.random.default_rng(SEED)
    fewest = min(len(groups), len(empty))
    if fewest < 2:
        return Net(difference, None, True)
    ci95 = _interval(medians(groups, rng) - medians(empty, rng), fewest)
    return Net(difference, ci95, ci95 is None or ci95[0] <= 0 <= ci95[1])


def _line(points: Sequence[Point]) -> tuple[Floats, Floats]:
    """Return the points' medians and what takes medians to [intercept, slope].

    Least squares of the residuals as shares of the cost.  Noise grows with the cost, so
    plain least squares would hear the dearest point alone.  The shares are of the medians
    observed, in every resample too: the slope stays a fixed sum of medians, as smooth to
    resample as each of them.
    """
    x = np.array([value for value, _ in points])
    middles = np.array([median(groups) for _, groups in points])
    scale = np.where(middles > 0, middles, 1.0)
    reach = np.abs(x).max() or 1.0  # both columns of one size, for pinv()
    fit = np.linalg.pinv(np.stack([np.ones_like(x), x / reach], axis=1) / scale[:, None])
    return middles, fit / scale / np.array([[1.0], [reach]])


def _slopes(points: Sequence[Point], fit: Floats, rng: np.random.Generator) -> Floats:
    """Return RESAMPLES bootstrapped slopes: every point resampled on its own."""
    resampled = np.zeros(RESAMPLES)
    for share, (_, groups) in zip(fit[1], points, strict=True):
        resampled += share * medians(groups, rng)
    return resampled


def slope(points: Sequence[Point]) -> tuple[float, tuple[float, float] | None, float]:
    """Return the slope of the line through the points' medians, its interval, the intercept.

    `points` hold at least two different values.  The interval (null where a point has a
    single VM) says how well the medians are known, not whether they lie on a line.  Its
    width is that of as many VMs as the poorest point has, though all add to the slope: it
    covers a little more than 95 %.
    """
    middles, fit = _line(points)
    intercept, rise = (float(v) for v in fit @ middles)
    fewest = min(len(groups) for _, groups in points)
    if fewest < 2:
        return rise, None, intercept
    resampled = _slopes(points, fit, np.random.default_rng(SEED))
    return rise, _interval(resampled, fewest), intercept


def net_slope(
    points: Sequence[Point], empty: Sequence[Point]
) -> tuple[float, tuple[float, float] | None]:
    """Return the difference of two slopes and its interval, both sides resampled."""
    (own, own_fit), (base, base_fit) = _line(points), _line(empty)
    # Exact counts have slopes that cancel, but for the last bits of a float.
    rise = round(float(own_fit[1] @ own - base_fit[1] @ base), 9) + 0.0
    fewest = min(len(groups) for _, groups in [*points, *empty])
    if fewest < 2:
        return rise, None
    rng = np.random.default_rng(SEED)
    resampled = _slopes(points, own_fit, rng) - _slopes(empty, base_fit, rng)
    return rise, _interval(np.round(resampled, 9), fewest)


def half_width(interval: Interval) -> float | None:
    """Return the larger one-sided width of the interval as a share of the median."""
    if interval.ci95 is None or not interval.median:
        return None
    lo, hi = interval.ci95
    return max(hi - interval.median, interval.median - lo) / abs(interval.median)
