"""What is made of samples, and when a case is called noisy."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvmharness.analysis.summary import summarise
from kvmharness.model import runfile
from kvmharness.model.cases import Case
from kvmharness.model.run import CaseResult, Disturbance
from tests.support.samples import made_up_case, made_up_run


def test_quiet_cases_are_not_noisy() -> None:
    run = made_up_run()
    summarise(run)
    assert [case.noisy for case in run.cases] == [None, None]


def test_noise_is_named_with_its_cause() -> None:
    run = made_up_run()
    case = run.cases[1]
    case.samples = [s * (1 + vm) for s, vm in zip(case.samples, case.vms, strict=True)]
    case.disturbed = Disturbance(involuntary_switches=40, migrations=2, steal_ms=30)
    summarise(run)
    assert case.noisy is not None
    assert "where ±5.0% was asked: 40 involuntary context switches, 2 CPU migrations, 30 ms" in (
        case.noisy
    )
    assert "medians of single VMs spread over 400%" in case.noisy


def test_one_vm_is_called_out() -> None:
    run = made_up_run()
    for case in run.cases:
        case.vms = [0] * len(case.samples)
    summarise(run)
    assert run.cases[0].noisy is not None
    assert "use --vms 5 or more" in run.cases[0].noisy


def test_case_without_samples_stays_empty() -> None:
    run = made_up_run()
    run.cases[0].samples, run.cases[0].vms = [], []
    summarise(run)
    assert run.cases[0].per_op is None
    assert run.cases[1].per_op is not None
    assert run.cases[1].per_op.net is None


def swept(op: str, per_page: float, **others: int) -> list[CaseResult]:
    """Cases that touch ever more pages, at 100 ns and `per_page` ns a page."""
    cases = []
    for pages in (4, 16, 64, 256):
        params = {k: v for k, v in {"pages": pages, **others}.items() if v}
        case = made_up_case(Case("long64", op, params).name, 100 + per_page * pages)
        case.op, case.params = op, params
        cases.append(case)
    return cases


def test_sweep_has_a_slope_net_of_the_one_of_empty() -> None:
    run = made_up_run()
    run.cases = [*swept("empty", 1), *swept("cr0_wp", 50)]
    summarise(run)
    empty, toggle = run.slopes
    assert (empty.case, empty.param, empty.unit) == ("long64/empty", "pages", "ns")
    assert (empty.net_slope, empty.net_ci95) == (None, None)
    assert toggle.case == "long64/cr0_wp"
    assert [x for x, _ in toggle.points] == [4, 16, 64, 256]
    assert [y for _, y in toggle.points] == [c.per_op and c.per_op.median for c in run.cases[4:]]
    assert toggle.slope == pytest.approx(50, rel=0.01)
    assert toggle.net_slope == pytest.approx(49, rel=0.01)
    assert toggle.ci95 is not None
    assert toggle.ci95[0] < toggle.slope < toggle.ci95[1]
    assert toggle.net_ci95 is not None


def test_the_loop_without_the_touching_is_not_on_the_line() -> None:
    run = made_up_run()
    run.cases = [made_up_case("long64/cr0_wp", 1), *swept("cr0_wp", 50)]
    summarise(run)
    (slope,) = run.slopes
    assert [x for x, _ in slope.points] == [4, 16, 64, 256]


def test_sweeps_at_other_parameters_are_slopes_of_their_own() -> None:
    run = made_up_run()
    run.cases = [*swept("cr0_wp", 50), *swept("cr0_wp", 70, high=1), *swept("empty", 1, high=1)]
    summarise(run)
    assert [(s.case, round(s.slope), s.net_slope and round(s.net_slope)) for s in run.slopes] == [
        ("long64/cr0_wp", 50, None),
        ("long64/cr0_wp@high=1", 70, 69),
        ("long64/empty@high=1", 1, None),
    ]


def test_three_points_make_no_slope() -> None:
    run = made_up_run()
    run.cases = swept("cr0_wp", 50)
    run.cases[1].samples, run.cases[1].vms = [], []
    summarise(run)
    assert run.slopes == []


def test_slopes_are_kept_in_the_file(tmp_path: Path) -> None:
    run = made_up_run()
    run.cases, run.suite = swept("cr0_wp", 50), "scaling"
    summarise(run)
    runfile.write(tmp_path / "a.json", run)
    assert runfile.read(tmp_path / "a.json") == run
