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


def count(result: CaseResult) -> None:
    result.counters["kvm.exits"] = 17.0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (nothing, None),
        (sample, "sample 5,005 and 5,005.01 "),
        (count, "kvm.exits"),
        (deferred(10.0, -40.0, 90.0), None),
        (deferred(10.0, -40.0, 90.5), "deferred work 90 and 90.5 "),
        (deferred(), "deferred work: 3 and 0 figures"),
    ],
)
def test_every_figure_is_to_be_the_same_in_its_place(
    change: Callable[[CaseResult], None], said: str | None
) -> None:
    found = repeated.differences(run(nothing), run(change))
    assert len(found) == (said is not None)
    assert (said or "") in "".join(found)
