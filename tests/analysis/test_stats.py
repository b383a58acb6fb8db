"""The statistics by simulation: does a 95 % interval cover the truth 95 % of the time?"""

from __future__ import annotations

import numpy as np
import pytest

from kvmharness.analysis import stats

TRIALS = 200
# 95 % of 200 trials, less four standard deviations of the binomial: an honest interval
# falls below it once in 30,000 seeds.
LEAST = 0.95 - 4 * (0.95 * 0.05 / TRIALS) ** 0.5


def draw(
    rng: np.random.Generator, vms: int, each: int, between: float, within: float
) -> list[stats.Floats]:
    """Samples around 1 with a VM effect and an effect within: both normal, so the median is 1."""
    effects = 1 + between * rng.standard_normal(vms)
    return [effect * (1 + within * rng.standard_normal(each)) for effect in effects]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("vms", "each", "between", "within"),
    [(5, 6, 0.03, 0.01), (10, 10, 0.03, 0.01), (10, 6, 0.0, 0.02)],
)
def test_interval_covers_the_truth(vms: int, each: int, between: float, within: float) -> None:
    rng = np.random.default_rng(20220209)
    hits = 0
    for _ in range(TRIALS):
        interval = stats.median_ci(draw(rng, vms, each, between, within))
        assert interval.ci95 is not None
        hits += interval.ci95[0] <= 1 <= interval.ci95[1]
    assert hits / TRIALS >= LEAST


@pytest.mark.slow
def test_interval_that_ignores_vms_would_not_cover() -> None:
    """The check above can fail: samples shuffled over the VMs hide the VM effect."""
    rng = np.random.default_rng(20220209)
    hits = 0
    for _ in range(TRIALS):
        pooled = np.concatenate(draw(rng, 5, 20, 0.03, 0.005))
        rng.shuffle(pooled)
        interval = stats.median_ci(np.split(pooled, 5))
        assert interval.ci95 is not None
        hits += interval.ci95[0] <= 1 <= interval.ci95[1]
    assert hits / TRIALS < LEAST


def test_net_of_the_same_thing_is_unclear_and_of_another_is_not() -> None:
    rng = np.random.default_rng(1)
    empty = draw(rng, 10, 10, 0.01, 0.01)
    again = draw(rng, 10, 10, 0.01, 0.01)
    assert stats.net(again, empty).unclear
    dearer = stats.net([1.5 * group for group in again], empty)
    assert not dearer.unclear
    assert dearer.median == pytest.approx(0.5, abs=0.05)


def test_one_vm_has_no_interval() -> None:
    one = [np.array([1.0, 2.0, 3.0])]
    assert stats.median_ci(one).ci95 is None
    assert stats.net(one, one).unclear
    assert stats.half_width(stats.median_ci(one)) is None


def test_constant_samples_have_a_point_for_an_interval() -> None:
    constant = [np.full(4, 2.0) for _ in range(5)]
    assert stats.median_ci(constant).ci95 == (2.0, 2.0)


def test_vms_with_unequal_numbers_of_samples_count_as_they_are() -> None:
    groups = [np.array([1.0, 1.0, 1.0]), np.array([3.0]), np.array([2.0, 2.0])]
    interval = stats.median_ci(groups)
    assert interval.median == 1.5
    assert interval.ci95 is not None
    assert 1.0 <= interval.ci95[0] <= interval.ci95[1] <= 3.0


def test_same_samples_same_interval() -> None:
    groups = draw(np.random.default_rng(2), 10, 10, 0.02, 0.02)
    assert stats.median_ci(groups) == stats.median_ci(groups)


def test_samples_are_grouped_by_their_vm() -> None:
    groups = stats.by_vm([1.0, 2.0, 3.0, 4.0], [0, 1, 0, 1])
    assert [list(g) for g in groups] == [[1.0, 3.0], [2.0, 4.0]]


def sweep(
    rng: np.random.Generator, vms: int = 5, each: int = 6, per_page: float = 10.0
) -> list[stats.Point]:
    """A line of slope 10 and intercept 1000 over pages, with noise in proportion to the cost."""
    return [
        (x, [(1000 + per_page * x) * group for group in draw(rng, vms, each, 0.03, 0.01)])
        for x in (0.0, 4.0, 64.0, 256.0, 1024.0)
    ]


@pytest.mark.slow
def test_slope_interval_covers_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "RESAMPLES", 1000)
    rng = np.random.default_rng(20220209)
    hits = 0
    for _ in range(TRIALS):
        _, ci95, _ = stats.slope(sweep(rng))
        assert ci95 is not None
        hits += ci95[0] <= 10 <= ci95[1]
    assert hits / TRIALS >= LEAST


@pytest.mark.slow
def test_slope_is_nearer_the_truth_than_plain_least_squares() -> None:
    rng = np.random.default_rng(20220209)
    ours, plain = [], []
    for _ in range(TRIALS):
        # One VM a point: the estimate alone, without resampling.
        points = [(x, [np.concatenate(groups)]) for x, groups in sweep(rng)]
        ours.append(stats.slope(points)[0])
        middles = [stats.median(groups) for _, groups in points]
        plain.append(np.polyfit([x for x, _ in points], middles, 1)[0])
    assert np.std(ours) < 0.9 * np.std(plain)


def test_slope_of_an_exact_line_is_exact() -> None:
    points = [(x, [np.full(3, 5 + 2 * x) for _ in range(5)]) for x in (0.0, 1.0, 512.0, 4096.0)]
    rise, ci95, intercept = stats.slope(points)
    assert (rise, intercept) == pytest.approx((2, 5))
    assert ci95 == pytest.approx((2, 2))
    assert stats.slope(points) == (rise, ci95, intercept)


def test_slope_of_nothing_is_nothing() -> None:
    flat = [(x, [np.zeros(3) for _ in range(5)]) for x in (1.0, 2.0, 4.0, 8.0)]
    assert stats.slope(flat) == (0, (0, 0), 0)


def test_slope_of_single_vms_has_no_interval() -> None:
    points = [(x, [np.array([1.0 + x])]) for x in (1.0, 2.0, 4.0, 8.0)]
    assert stats.slope(points)[1] is None
    assert stats.net_slope(points, points) == (0, None)


def test_rebuilt_root_is_told_from_a_kept_one_by_its_net_slope() -> None:
    rng = np.random.default_rng(3)
    empty, kept, rebuilt = sweep(rng), sweep(rng), sweep(rng, per_page=30)
    _, same = stats.net_slope(kept, empty)
    rise, more = stats.net_slope(rebuilt, empty)
    assert same is not None
    assert more is not None
    assert same[0] <= 0 <= same[1]
    assert 0 < more[0] <= rise <= more[1]
    assert rise == pytest.approx(20, rel=0.2)
