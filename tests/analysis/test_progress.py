"""Progress: the share of its speed that work keeps, of made-up runs and of pairs that lack one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmharness.analysis import progress
from kvmharness.analysis.progress import Rate
from kvmharness.model.cases import PROTECTED
from kvmharness.model.run import CaseResult, Run
from tests.support.samples import made_up_case, made_up_run


def case(op: str, cost: float, **params: int) -> CaseResult:
    found = made_up_case(f"long64/{op}", cost)
    found.params = params
    found.name = found.case.name
    return found


def run_of(*cases: CaseResult) -> Run:
    run = made_up_run()
    run.cases = list(cases)
    return run


def test_the_share_is_what_one_costs_by_what_the_other_does() -> None:
    run = run_of(
        case("syscall", 50.0, work=10),
        case("protected_syscall", 1000.0, work=10),
        case("empty", 2.0),
    )
    (row,), lacking = progress.of(run)
    assert row.rate == Rate("syscall", 10, 0)
    assert row.share == pytest.approx(0.05)
    assert row.ci95 is not None
    assert row.ci95[0] <= row.share <= row.ci95[1]
    assert not lacking


def test_pairs_are_of_the_same_rate_and_pages() -> None:
    run = run_of(
        case("fault", 19.0),
        case("protected_fault", 190.0, work=10),
        case("protected_fault", 1900.0),
        case("fault", 100.0, pages=16),
    )
    rows, lacking = progress.of(run)
    (row,) = rows
    assert row.rate == Rate("fault", 1, 0)
    assert row.share == pytest.approx(0.01)
    assert list(lacking) == ["long64/protected_fault@pages=16"]


def test_a_case_without_a_figure_gives_none() -> None:
    broken, skipped = case("protected_syscall", 1.0), case("fault", 1.0)
    broken.discard("KVM is incorrect: made up")
    skipped.samples, skipped.vms, skipped.skipped = [], [], "not here"
    rows, lacking = progress.of(
        run_of(case("syscall", 1.0), broken, skipped, case("protected_fault", 2.0))
    )
    assert not rows
    assert not lacking


def test_what_is_done_later_counts() -> None:
    work, protected = case("syscall", 100_000.0), case("protected_syscall", 200_000.0)
    protected.deferred_vms = [vm for vm in range(5) for _ in range(2)]
    protected.deferred_samples = [200_000.0 + vm for vm in range(10)]
    (row,), _ = progress.of(run_of(work, protected))
    assert row.share == pytest.approx(0.25, rel=0.01)


@given(st.floats(1.0, 1e6), st.floats(1.0, 1e6))
def test_more_work_for_a_write_keeps_more_speed(work: float, write: float) -> None:
    shares = []
    for pieces in (1, 10):
        cost = work * pieces
        run = run_of(
            case("syscall", cost, work=pieces), case("protected_syscall", cost + write, work=pieces)
        )
        (row,), _ = progress.of(run)
        shares.append(row.share)
        assert 0 < row.share < 1
    assert shares[0] < shares[1]


def test_every_work_has_its_protected_partner() -> None:
    assert {f"protected_{op}" for op in PROTECTED} == set(PROTECTED.values())
