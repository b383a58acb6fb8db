"""Two runs of one job: what counts as another figure."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kvmharness.analysis import repeated
from kvmharness.model.run import CaseResult, Run
from tests.support.samples import made_up_case, made_up_run


def run(change: Callable[[CaseResult], None]) -> Run:
    result = made_up_case("long64/cr0_wp", 5000.0)
    result.iterations, result.deferred_samples = 101, [10.0, -40.0, 90.0]
    change(result)
    made = made_up_run()
    made.clock, made.cases = "insn", [result]
    return made


def nothing(_: CaseResult) -> None:
    pass


def deferred(*samples: float) -> Callable[[CaseResult], None]:
    def change(result: CaseResult) -> None:
        result.deferred_samples = list(samples)

    return change


def sample(result: CaseResult) -> None:
    result.samples[-1] += 0.01


def ticked(more: float) -> Callable[[CaseResult], None]:
    """Have a tick in a sample, and let it take more; the op takes 1,000 in every other."""

    def change(result: CaseResult) -> None:
        result.samples = [1000.0] * len(result.samples)
        result.samples[0] += 5_300 / 101 + more

    return change


def count(result: CaseResult) -> None:
    result.counters["kvm.exits"] = 17.0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (nothing, None),
        (deferred(-60.0, 130.0, 55.0), None),
        (sample, "sample"),
        (count, "kvm.exits"),
        (deferred(40_000.0, 40_100.0, 39_990.0), "deferred work 10 and 40,000"),
        (deferred(), "deferred work 10 and none"),
    ],
)
def test_samples_and_counts_are_to_be_equal_and_deferred_work_nearly(
    change: Callable[[CaseResult], None], said: str | None
) -> None:
    found = repeated.differences(run(nothing), run(change))
    assert len(found) == (said is not None)
    assert (said or "") in "".join(found)


def test_a_tick_that_fell_at_another_place_is_no_alarm() -> None:
    """As in two boots of one job: 4,907.79 and 4,907.28 where the others are 4,854.06."""
    assert repeated.differences(run(ticked(0.0)), run(ticked(0.51))) == []
    (found,) = repeated.differences(run(ticked(0.0)), run(ticked(250.0)))
    assert "sample 1,052 and 1,302" in found
    one = run(ticked(0.0))
    one.cases[0].samples[-1] += 0.01
    assert "sample 1,000 and 1,000" in repeated.differences(run(ticked(0.0)), one)[0]
