"""Deferred work in verdicts: a cost that only moved to later is no gain, and unknown is said."""

from __future__ import annotations

import copy
import io

import pytest
from rich.console import Console

from kvmharness.analysis import compare, expectations, totals
from kvmharness.analysis.load import RunFile
from kvmharness.analysis.summary import summarise
from kvmharness.model.run import DEFERRED, CaseResult, Run
from kvmharness.render import compare_table, distributions, tables
from kvmharness.render.export import csv, ktap, pyperf
from kvmharness.render.report import page
from tests.support.samples import made_up_lab_run

CASE = "long64/cr0_wp"


def case_of(run: Run, name: str = CASE) -> CaseResult:
    return next(case for case in run.cases if case.name == name)


def run_of(cost: float, deferred: float | None) -> Run:
    """A run whose toggle costs `cost` and defers `deferred` (None: it was not counted)."""
    run = made_up_lab_run()
    for case in run.cases:
        vms = sorted(set(case.vms))
        if case.name == CASE:
            case.samples = [cost] * len(case.samples)
        if deferred is None:
            case.absent[DEFERRED] = "no thread of the kernel can be seen"
            continue
        late = deferred if case.name == CASE else 0.0
        case.deferred_by = "cpu"
        case.deferred_vms = [vm for vm in vms for _ in range(3)]
        # What the kernel does of its own comes on top, and may be less than at other times.
        case.deferred_samples = [late + noise for _ in vms for noise in (-8.0, 0.0, 9.0)]
    summarise(run)
    return run


def compared(base: Run, new: Run) -> compare.Comparison:
    return compare.compare(compare.side("BASE", [base]), compare.side("NEW", [new]))


def verdict(comparison: compare.Comparison) -> compare.CaseComparison:
    return next(row for row in comparison.rows if row.case == CASE)


def printed(comparison: compare.Comparison) -> str:
    out = io.StringIO()
    compare_table.show_comparison(
        comparison, Console(file=out, width=tables.WIDTH, highlight=False)
    )
    return out.getvalue()


def test_a_total_is_cost_and_deferred_work() -> None:
    result = case_of(run_of(4880.0, 40_000.0))
    assert result.per_op
    assert result.deferred
    assert result.total
    assert result.per_op.median == 4880
    assert result.deferred.median == 40_000
    assert result.total.median == 44_880
    assert totals.material(result) == 40_000


def test_work_that_only_moved_to_later_is_the_same() -> None:
    found = verdict(compared(run_of(44_880.0, 0.0), run_of(4880.0, 40_000.0)))
    assert found.verdict == "same"
    assert "deferred work 0 → 40,000" in found.said


def test_work_that_came_on_top_later_is_slower_and_named() -> None:
    comparison = compared(run_of(4880.0, 0.0), run_of(4880.0, 40_000.0))
    assert comparison.exit_code == 1
    said = compare_table.sentence(comparison)
    assert said.startswith("NEW is 9.197x slower at long64/cr0_wp, with deferred work 0 → 40,000")


def test_the_kernels_own_noise_is_no_deferred_work() -> None:
    base, new = run_of(4880.0, 0.0), run_of(4880.0, 3.0)
    late = case_of(new)
    assert totals.material(late) == 0
    assert late.total
    assert late.total.median == 4880
    comparison = compared(base, new)
    assert {row.verdict for row in comparison.rows} == {"same"}
    assert "deferred" not in printed(comparison)


def test_a_side_that_cannot_know_makes_no_verdict_of_a_total() -> None:
    found = verdict(compared(run_of(4880.0, None), run_of(4880.0, 40_000.0)))
    assert found.verdict == "not comparable"
    assert "40,000 insn of an op are deferred on the one side, and BASE does not" in found.said


def test_a_verdict_on_the_cost_alone_says_so() -> None:
    comparison = compared(run_of(4880.0, None), run_of(4880.0, 0.0))
    assert verdict(comparison).verdict == "same"
    reason = "deferred work not counted: BASE: no thread of the kernel can be seen; verdicts are"
    assert f"{reason} on the cost alone" in printed(comparison)


@pytest.mark.parametrize(
    ("deferred", "text", "answer", "seen"),
    [
        (40_000.0, "< 6000 insn", "FAIL", "44,880 [44,880, 44,880] insn, of which 40,000 deferred"),
        (40_000.0, "cost < 6000 insn", "ok", "4,880 [4,880, 4,880] insn"),
        (40_000.0, "deferred < 30 insn", "FAIL", "40,000 [39,992, 40,009] insn"),
        (40_000.0, "total < 50,000 insn", "ok", "44,880 [44,880, 44,880] insn"),
        (None, "total < 6000 insn", "unclear", "not counted: no thread of the kernel can be seen"),
        (None, "< 6000 insn", "ok", "4,880 [4,880, 4,880] insn (deferred work not counted: no"),
    ],
)
def test_each_figure_can_be_asked_for(
    deferred: float | None, text: str, answer: str, seen: str
) -> None:
    expected = expectations.parse(f"{CASE} {text}")
    (outcome,) = expectations.check(expected, run_of(4880.0, deferred))
    assert outcome.answer == answer
    assert outcome.seen.startswith(seen)


def test_it_is_shown_drawn_and_exported() -> None:
    run = run_of(4880.0, 40_000.0)
    out = io.StringIO()
    console = Console(file=out, width=tables.WIDTH, highlight=False)
    tables.show_run(run, console)
    distributions.show_samples(run, console)
    assert "40,000 [39,992, 40,009]" in out.getvalue()
    assert "and 40,000 deferred: 44,880 [44,880, 44,880] in all" in out.getvalue()
    assert b",4880.0,40000.0,insn" in csv.export(run, "run")
    assert b"deferred 40,000 [39,992, 40,009], total 44,880" in ktap.export(run, "run")
    assert b'"kvmharness_deferred": 40000.0' in pyperf.export(run, "run")
    assert "→ 44,880" in page.render([RunFile("run", run)])


def test_a_case_that_is_discarded_keeps_none() -> None:
    result = copy.deepcopy(case_of(run_of(4880.0, 40_000.0)))
    result.discard("wrong")
    assert totals.sums(result) is None
    assert (result.deferred, result.total, result.deferred_samples) == (None, None, [])


def test_two_vms_that_happen_to_agree_are_no_proof() -> None:
    """The kernel's own threads ran a little longer beside both: kvm_pvm, which defers nothing."""
    run = run_of(2909.0, 0.0)
    case = case_of(run)
    case.deferred_by, case.deferred_vms = "threads", [0, 1]
    case.deferred_samples = [22.99, 277.6]
    summarise(run)
    assert case.deferred
    assert case.deferred.ci95
    assert case.deferred.ci95[0] > 0
    assert totals.material(case) == 0
    case.deferred_samples = [39_100.0, 41_200.0]
    assert totals.material(case) > 0


def test_a_vm_beside_which_others_worked_hides_no_deferred_work() -> None:
    run = run_of(4880.0, 0.0)
    case = case_of(run)
    case.deferred_vms = [0, 1, 2, 3, 4]
    case.deferred_samples = [39_000.0, 40_000.0, 40_500.0, 41_000.0, 900_000.0]
    assert totals.material(case) == 40_500
