"""The ratio of two sides: coverage by simulation, scipy as the yardstick, and the odd inputs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_ind

from kvmharness.analysis import ratios
from kvmharness.analysis.ratios import Ratio, blocks, judge, ratio
from kvmharness.analysis.stats import Floats
from tests.analysis.test_stats import draw

TRIALS = 400
LEAST = 0.95 - 4 * (0.95 * 0.05 / TRIALS) ** 0.5


def covers(found: Ratio, truth: float) -> bool:
    assert found.ci95 is not None
    return found.ci95[0] <= truth <= found.ci95[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "new", "between", "within"),
    [
        ((10, 10), (10, 10), 0.03, 0.01),
        ((3, 4), (3, 4), 0.02, 0.005),
        ((5, 6), (14, 3), 0.02, 0.02),
        ((10, 1), (10, 7), 0.0, 0.02),
    ],
)
def test_interval_covers_the_truth(
    base: tuple[int, int], new: tuple[int, int], between: float, within: float
) -> None:
    rng = np.random.default_rng(20220209)
    hits = 0
    for _ in range(TRIALS):
        a = blocks([draw(rng, *base, between, within)])
        b = blocks([[1.3 * group for group in draw(rng, *new, between, within)]])
        hits += covers(ratio(a, b), 1.3)
    assert hits / TRIALS >= LEAST


def one(rng: np.random.Generator) -> Floats:
    return blocks([draw(rng, 10, 10, 0.02, 0.01)])


@pytest.mark.slow
def test_intervals_of_many_cases_hold_together() -> None:
    rng = np.random.default_rng(20220209)
    hits = 0
    for _ in range(TRIALS):
        hits += all(covers(ratio(one(rng), one(rng), 8), 1) for _ in range(8))
    assert hits / TRIALS >= LEAST


def side_of_runs(rng: np.random.Generator, runs: int, spread: float) -> list[list[Floats]]:
    """Runs whose boots differ by `spread`, of 5 VMs that differ by less."""
    return [
        [(1 + boot) * group for group in draw(rng, 5, 6, 0.005, 0.005)]
        for boot in spread * rng.standard_normal(runs)
    ]


@pytest.mark.slow
def test_several_runs_bring_the_spread_between_boots_into_the_interval() -> None:
    rng = np.random.default_rng(20220209)
    hits = {"runs": 0, "single": 0}
    for _ in range(TRIALS):
        base, new = (side_of_runs(rng, 3, 0.02) for _ in range(2))
        hits["runs"] += covers(ratio(blocks(base), blocks(new)), 1)
        hits["single"] += covers(ratio(blocks(base[:1]), blocks(new[:1])), 1)
    assert hits["runs"] / TRIALS >= LEAST
    # The check above can fail: one run a side knows nothing of its boot.
    assert hits["single"] / TRIALS < LEAST


@pytest.mark.parametrize(("n", "m"), [(10, 10), (25, 12), (4, 9)])
def test_it_is_the_trimmed_welch_test_that_scipy_has(n: int, m: int) -> None:
    rng = np.random.default_rng(5)
    base, new = rng.normal(0.0, 0.1, n), rng.normal(0.2, 0.3, m)
    theirs = ttest_ind(new, base, equal_var=False, trim=ratios.TRIM).confidence_interval(0.95)
    ours = ratio(base, new).ci95
    assert ours is not None
    assert np.log(ours) == pytest.approx([theirs.low, theirs.high])


def test_a_vm_that_landed_badly_does_not_hide_a_change() -> None:
    rng = np.random.default_rng(6)
    base, new = draw(rng, 10, 10, 0.005, 0.005), draw(rng, 10, 10, 0.005, 0.005)
    new = [1.05 * group for group in new]
    base[3] = 1.5 * base[3]
    found = ratio(blocks([base]), blocks([new]))
    assert judge(found, 0.02, 0.003) == "slower"


def test_one_vm_on_a_side_has_no_interval() -> None:
    one, many = blocks([[np.array([5.0, 6.0])]]), blocks([[np.array([1.0])] * 5])
    for base, new in ((one, many), (many, one), (one, one)):
        found = ratio(base, new)
        assert found.ci95 is None
        assert judge(found, 0.02, 0.0) == "unclear"
    assert ratio(many, one).ratio == pytest.approx(5.5)


def constant(value: float, vms: int = 3) -> Floats:
    return blocks([[np.full(4, value) for _ in range(vms)]])


def test_samples_without_any_spread_have_a_point_for_an_interval() -> None:
    same = ratio(constant(5029.0), constant(5029.0))
    assert (same.ratio, same.ci95) == (1, (1, 1))
    assert judge(same, 0.001, 0.0) == "same"
    dearer = ratio(constant(5029.0), constant(5100.0, vms=4), 8)
    assert dearer.ci95 == pytest.approx((dearer.ratio, dearer.ratio))
    assert judge(dearer, 0.001, 0.0) == "slower"
    assert judge(dearer, 0.02, 0.0) == "same"


def test_spread_on_one_side_only_counts() -> None:
    rng = np.random.default_rng(7)
    noisy = blocks([draw(rng, 5, 6, 0.02, 0.01)])
    found = ratio(constant(1.0, vms=5), noisy)
    assert covers(found, 1)
    assert found.ci95 is not None
    assert found.ci95[1] - found.ci95[0] > 0.01


def test_ties_between_vms_are_no_trouble() -> None:
    base = blocks([[np.array([1.0, 1.0])] * 4 + [np.array([2.0, 2.0])] * 4])
    found = ratio(base, base)
    assert covers(found, 1)
    assert judge(found, 0.02, 0.0) == "unclear"


def test_a_median_of_nothing_has_no_ratio() -> None:
    with pytest.raises(ValueError, match="a median is 0"):
        blocks([[np.zeros(3), np.ones(3)]])


def test_the_widest_interval_is_no_overflow() -> None:
    far = np.array([-20.0, 32.0])
    found = ratio(far, far[::-1], 10_000)
    assert found.ci95 == (0, np.inf)
    assert judge(found, 0.02, 0.0) == "unclear"


@pytest.mark.parametrize(
    ("middle", "lo", "hi", "threshold", "boot", "verdict"),
    [
        (1.03, 1.01, 1.05, 0.02, 0.0, "slower"),
        (1.03, 0.99, 1.07, 0.02, 0.0, "unclear"),
        (1.015, 1.005, 1.025, 0.02, 0.0, "unclear"),
        (1.01, 1.005, 1.015, 0.02, 0.0, "same"),
        (1.0, 0.99, 1.01, 0.02, 0.0, "same"),
        (1.03, 1.002, 1.06, 0.02, 0.003, "unclear"),
        (1.005, 1.004, 1.006, 0.001, 0.0, "slower"),
        (1.005, 1.004, 1.006, 0.001, 0.01, "same"),
        (1.012, 1.011, 1.013, 0.001, 0.01, "slower"),
        (1.012, 1.009, 1.015, 0.001, 0.01, "unclear"),
        (30.0, 1.5, 600.0, 0.02, 0.003, "slower"),
    ],
)
def test_verdicts(
    middle: float, lo: float, hi: float, threshold: float, boot: float, verdict: str
) -> None:
    assert judge(Ratio(1.0, middle, middle, (lo, hi)), threshold, boot) == verdict
    swapped = Ratio(middle, 1.0, 1 / middle, (1 / hi, 1 / lo))
    mirrored = {"slower": "faster"}.get(verdict, verdict)
    assert judge(swapped, threshold, boot) == mirrored
