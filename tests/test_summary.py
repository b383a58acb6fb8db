"""What is made of samples, and when a case is called noisy."""

from __future__ import annotations

from kvmharness.results import Disturbance
from kvmharness.summary import summarise
from tests.samples import made_up_run


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
