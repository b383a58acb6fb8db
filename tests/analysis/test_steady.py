"""Preempted samples: told, never carrying a figure alone, and never a verdict."""

from __future__ import annotations

import copy

from kvmharness.analysis import compare, steady
from kvmharness.analysis.summary import summarise
from kvmharness.model.run import CaseClass, Run
from tests.support.samples import made_up_run


def disturbed(share: int, of: int, factor: float = 4.0) -> Run:
    """A run whose toggle lost the CPU in `share` of every `of` samples."""
    run = made_up_run()
    case = run.cases[1]
    case.preempted = [int(n % of < share) for n in range(len(case.samples))]
    case.samples = [
        sample * (factor if lost else 1.0)
        for sample, lost in zip(case.samples, case.preempted, strict=True)
    ]
    return run


def test_a_preempted_sample_carries_no_figure() -> None:
    run = disturbed(1, 3)
    summarise(run)
    case = run.cases[1]
    assert case.per_op
    assert case.per_op.median < 1010
    assert case.noisy is None
    assert len(steady.chosen(case)[0]) == 20


def test_mostly_preempted_is_noisy_whatever_the_interval() -> None:
    """Samples locked to a neighbour's time slice agree with each other, and with nothing else."""
    run = disturbed(5, 6, 1.001)
    summarise(run)
    case = run.cases[1]
    assert case.noisy
    assert case.noisy.startswith("25 of 30 samples were preempted: the CPU was not ours")


def test_where_one_vm_only_was_undisturbed_all_samples_are_taken() -> None:
    run = disturbed(1, 1)
    case = run.cases[1]
    case.preempted[:6] = [0] * 6
    assert len(steady.chosen(case)[0]) == len(case.samples)
    assert steady.mostly_disturbed(case) == "24 of 30 samples were preempted"


def test_a_case_that_was_mostly_preempted_has_no_verdict() -> None:
    base, new = made_up_run(), disturbed(5, 6)
    found = compare.compare(compare.side("BASE", [base]), compare.side("NEW", [new]))
    row = next(row for row in found.rows if row.case == "long64/cr0_wp")
    assert (row.verdict, row.said) == ("unclear", "25 of 30 samples were preempted in NEW")
    assert found.exit_code == 3


def test_a_class_that_became_worse_is_told_however_busy_the_machine_was() -> None:
    """Counters are taken apart from the samples: nobody's preemption moves them."""
    base, new = made_up_run(), disturbed(5, 6)
    base.cases[1].class_ = CaseClass("exit", "kept")
    new.cases[1].class_ = CaseClass("exit", "rebuilt")
    found = compare.compare(compare.side("BASE", [base]), compare.side("NEW", [new]))
    row = next(row for row in found.rows if row.case == "long64/cr0_wp")
    assert row.verdict == "worse"
    assert row.said.startswith("root kept → rebuilt")
    assert row.said.endswith("25 of 30 samples were preempted in NEW")
    assert found.exit_code == 1


def test_samples_of_far_fewer_ops_are_not_compared() -> None:
    base, new = made_up_run(), made_up_run()
    few = copy.deepcopy(new)
    new.cases[1].iterations = 300
    few.cases[1].iterations = 100
    base.cases[1].iterations = 1165
    sides = [compare.side(name, [run]) for name, run in (("A", base), ("B", new), ("C", few))]
    assert compare.compare(sides[0], sides[1]).rows[1].verdict == "same"
    row = compare.compare(sides[0], sides[2]).rows[1]
    assert row.verdict == "not comparable"
    assert row.said == "samples of 100 and 1165 ops: use the same --iterations"
