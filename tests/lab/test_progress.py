"""Work and its protected writes in a real kernel: what each costs, and the table that shows it."""

from __future__ import annotations

import pytest

from kvmharness.analysis import progress
from kvmharness.kernel import resolve, variants
from kvmharness.lab import matrix
from kvmharness.lab.machines import TCG_SVM
from kvmharness.lab.planning import LabPlan, Target
from kvmharness.measure.settings import for_lab
from kvmharness.model.cases import select
from kvmharness.model.run import Run
from tests.support.kernels import CURED, need_lab, newest

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]
CASES = ["long64/empty", "long64/wx", "long64/*syscall", "long64/*syscall@work=101"]
CASES += ["long64/*fault", "long64/*fault@work=101", "long64/protected_syscall@high=1,work=101"]


@pytest.fixture(scope="module")
def run() -> Run:
    need_lab(CURED)
    target = Target(resolve.resolve(newest(CURED)), variants.parse("tdp"), TCG_SVM)
    settings = for_lab("insn", vms=2, samples=10, iterations=20)
    plan = LabPlan(select(CASES), {"insn": settings}, None, None, None, count=False)
    (result,) = matrix.measure([target], plan, 1, lambda _, line: None)
    assert result.lost is None
    assert result.run is not None
    return result.run


def cost(run: Run, name: str) -> float:
    (case,) = (case for case in run.cases if case.name == name)
    assert case.incorrect is None
    assert case.failed is None
    assert case.per_op is not None
    return case.per_op.median


@pytest.mark.parametrize(("op", "each"), [("syscall", 5), ("fault", 13)])
def test_a_piece_of_work_takes_the_same_instructions_each_time(
    run: Run, op: str, each: int
) -> None:
    """The guest does it by itself: no exit, whatever the kernel."""
    grown = cost(run, f"long64/{op}@work=101") - cost(run, f"long64/{op}")
    assert grown == pytest.approx(100 * each, abs=0.01)


@pytest.mark.parametrize("op", ["syscall", "fault"])
@pytest.mark.parametrize("rate", ["", "@work=101"])
def test_a_protected_write_costs_what_the_window_does(run: Run, op: str, rate: str) -> None:
    window = cost(run, "long64/wx") - cost(run, "long64/empty")
    added = cost(run, f"long64/protected_{op}{rate}") - cost(run, f"long64/{op}{rate}")
    assert added == pytest.approx(window, rel=0.01)


def test_a_kernel_in_the_upper_half_works_too(run: Run) -> None:
    high, low = (
        cost(run, f"long64/protected_syscall@{params}")
        for params in ("high=1,work=101", "work=101")
    )
    assert high == pytest.approx(low, rel=0.02)


def test_progress_grows_with_the_work_between_two_windows(run: Run) -> None:
    rows, lacking = progress.of(run)
    shares = {(row.rate.op, row.rate.pieces): row.share for row in rows}
    assert shares["syscall", 1] < shares["syscall", 101] < 1
    assert shares["fault", 1] < shares["fault", 101] < 1
    assert not lacking
