"""The statistics by simulation: does a 95 % interval cover the truth 95 % of the time?"""

from __future__ import annotations

import numpy as np
import pytest

from kvmharness import stats

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


@pytest.mark.parametrize(
    ("vms", "each", "between", "within"),
    [(5, 6, 0.03, 0.01), (10, 10, 0.03, 0.01), (10, 6, 0.0, 0.02)],
)
def test_interval_covers_the_truth(vms: int, each: int, between: float, within: float) -> None:
    rng = np.random.default_rng(20220209)
    hits = 0
    for _ in range(TRIALS):
        interval = stats.median(draw(rng, vms, each, between, within))
        assert interval.ci95 is not None
        hits += interval.ci95[0] <= 1 <= interval.ci95[1]
    assert hits / TRIALS >= LEAST


def test_interval_that_ignores_vms_would_not_cover() -> None:
    """The check above can fail: samples shuffled over the VMs hide the VM effect."""
    rng = np.random.default_rng(20220209)
    hits = 0
    for _ in range(TRIALS):
        pooled = np.concatenate(draw(rng, 5, 20, 0.03, 0.005))
        rng.shuffle(pooled)
        interval = stats.median(np.split(pooled, 5))
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
    assert stats.median(one).ci95 is None
    assert stats.net(one, one).unclear
    assert stats.half_width(stats.median(one)) is None


def test_constant_samples_have_a_point_for_an_interval() -> None:
    constant = [np.full(4, 2.0) for _ in range(5)]
    assert stats.median(constant).ci95 == (2.0, 2.0)


def test_vms_with_unequal_numbers_of_samples_count_as_they_are() -> None:
    groups = [np.array([1.0, 1.0, 1.0]), np.array([3.0]), np.array([2.0, 2.0])]
    interval = stats.median(groups)
    assert interval.median == 1.5
    assert interval.ci95 is not None
    assert 1.0 <= interval.ci95[0] <= interval.ci95[1] <= 3.0


def test_same_samples_same_interval() -> None:
    groups = draw(np.random.default_rng(2), 10, 10, 0.02, 0.02)
    assert stats.median(groups) == stats.median(groups)


def test_samples_are_grouped_by_their_vm() -> None:
    groups = stats.by_vm([1.0, 2.0, 3.0, 4.0], [0, 1, 0, 1])
    assert [list(g) for g in groups] == [[1.0, 3.0], [2.0, 4.0]]
