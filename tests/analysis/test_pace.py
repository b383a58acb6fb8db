"""A machine that runs slower than before is no slower KVM: the CPU's own pace, by a fixed loop."""

from __future__ import annotations

import pytest

from kvmharness.analysis import compare, pace
from kvmharness.analysis.compare import CaseComparison
from kvmharness.model.run import Run
from kvmharness.render import tables
from tests.support.samples import made_up_run

QUIET = 14_066


def paced(ticks: int, cost: float = 1.0) -> Run:
    """A run on a CPU that takes so many ticks for the loop, and `cost` times as long for an op."""
    run = made_up_run()
    for case in run.cases:
        case.paces = [ticks + n % 3 for n in range(len(set(case.vms)))]
        case.samples = [sample * cost for sample in case.samples]
    return run


def toggle(base: Run, new: Run) -> CaseComparison:
    found = compare.compare(compare.side("BASE", [base]), compare.side("NEW", [new]))
    return next(row for row in found.rows if row.case == "long64/cr0_wp")


@pytest.mark.parametrize(("ticks", "cost"), [(27_716, 1.42), (27_716, 1.27), (16_000, 1.1)])
def test_what_the_cpu_itself_lost_or_won_is_no_verdict(ticks: int, cost: float) -> None:
    """The first is this kind of machine with the other hyperthread of the core at work."""
    quiet, slow = paced(QUIET), paced(ticks, cost)
    assert toggle(quiet, paced(QUIET, cost)).verdict == "slower"
    lost, won = toggle(quiet, slow), toggle(slow, quiet)
    assert (lost.verdict, won.verdict) == ("unclear", "unclear")
    assert lost.said.endswith(
        f"NEW's CPU itself was slower: a fixed loop took {ticks / QUIET:.2f} times as long"
    )
    assert "NEW's CPU itself was faster" in won.said
    seen = toggle(quiet, paced(QUIET, cost)).found
    assert seen
    assert seen.ci95
    assert lost.found
    assert lost.found.ci95
    assert lost.found.ci95[1] > seen.ci95[1] * 1.1, "what is shown is what was judged"


def test_an_equal_cost_on_another_cpu_is_not_called_the_same() -> None:
    assert toggle(paced(QUIET), paced(27_716)).verdict == "unclear"


def test_what_is_beyond_the_cpus_own_change_is_told() -> None:
    assert toggle(paced(QUIET), paced(16_000, 2.0)).verdict == "slower"
    assert toggle(paced(16_000, 2.0), paced(QUIET)).verdict == "faster"


def test_one_pace_on_both_sides_changes_nothing() -> None:
    assert toggle(paced(QUIET), paced(QUIET)).verdict == "same"
    assert toggle(paced(27_716), paced(27_716, 1.3)).verdict == "slower"
    assert toggle(made_up_run(), paced(27_716, 1.3)).verdict == "slower", "an older file"


@pytest.mark.parametrize("cost", [1.0175, 1.03])
def test_a_tick_more_or_less_moves_no_verdict(cost: float) -> None:
    base, new = paced(QUIET), paced(QUIET, cost)
    near = paced(QUIET + 28, cost)
    assert toggle(base, near).verdict == toggle(base, new).verdict != "unclear"


def test_each_run_of_a_side_counts_once_however_many_vms_it_has() -> None:
    slow, quiet = paced(2 * QUIET), paced(QUIET)
    slow.cases[1].paces *= 10
    for n, runs in enumerate(([slow, quiet], [quiet, slow])):
        for run in runs:
            run.started = f"{n} {run.cases[1].paces[0]}"
    assert pace.change([quiet.cases[1]], [slow.cases[1], quiet.cases[1]]) == pytest.approx(
        2**0.5, rel=0.01
    )


def test_a_run_that_does_not_tell_its_pace_has_none_spoken_for_it() -> None:
    silent = made_up_run()
    assert pace.change([paced(QUIET).cases[1]], [silent.cases[1], paced(1).cases[1]]) == 1
    skipped = made_up_run().cases[1]
    skipped.samples, skipped.vms = [], []
    both = [skipped, paced(2 * QUIET).cases[1]]
    assert pace.change([paced(QUIET).cases[1]], both) == pytest.approx(2, rel=0.01)


def test_the_change_stands_among_what_differs() -> None:
    found = compare.compare(
        compare.side("BASE", [paced(QUIET)]), compare.side("NEW", [paced(27_716)])
    )
    assert "ticks of a fixed loop: 14,067 → 27,717 beside long64/empty" in found.differing
    assert not any(line.startswith("ticks of") for line in _same().differing)


def _same() -> compare.Comparison:
    base, new = (compare.side(name, [paced(QUIET)]) for name in ("BASE", "NEW"))
    return compare.compare(base, new)


def test_a_run_during_which_the_pace_changed_says_so() -> None:
    run = paced(QUIET)
    assert pace.uneven(run) is None
    assert pace.uneven(made_up_run()) is None
    run.cases[0].paces[1] = 27_716
    assert pace.uneven(run) == (
        "a fixed loop took the CPU 14,066 to 27,716 ticks: another hyperthread of its core was at "
        "work, or its frequency changed"
    )
    assert f"uneven: {pace.uneven(run)}" in tables.remarks(run)
