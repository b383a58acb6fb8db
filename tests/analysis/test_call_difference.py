"""What lies between two explanations: it adds up, and what was inlined is nobody's gain."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmharness.analysis.call_difference import difference
from kvmharness.analysis.explain import costs, tree
from kvmharness.model.explanation import Change, Difference
from tests.support.made_up_explanation import LEGACY, TDP, explanation, file


def everything(_: str) -> bool:
    return True


def between() -> Difference:
    found = file().difference
    assert found is not None
    return found


def test_changes_are_sorted_and_named_with_their_callers() -> None:
    assert between().changes == [
        Change("zap", 0.0, 120.0, ["unload", "handle_exit", "run"]),
        Change("run", 10.0, 11.0, []),
        Change("unload", 5.0, 4.0, ["handle_exit", "run"]),
        Change("asm_sysvec_apic_timer_interrupt", 0.0, 0.5, []),
    ]


def test_what_only_one_kernel_has_is_charged_to_who_called_it() -> None:
    """The second kernel has `inlined` in handle_exit, where it takes the same."""
    assert between().only_before == {"inlined": 7.0}
    assert between().only_after == {}
    assert "handle_exit" not in [row.function for row in between().changes]


def test_the_sentence_says_where_most_went() -> None:
    assert between().sentence == (
        "5.10-legacy takes 45 instructions per op, 5.10-tdp 166: 120 of the 120 more (100%) are "
        "those of zap, called by unload < handle_exit < run."
    )


def test_the_same_is_said_to_be_the_same() -> None:
    one = explanation("a", LEGACY)
    other = explanation("b", LEGACY)
    found = difference(one, other, everything, everything)
    assert found.changes == []
    assert found.sentence == "a takes 45 instructions per op, b the same in every function."


def test_changes_that_cancel_out_are_said() -> None:
    one, other = explanation("a", "f 100 0\ng 50 1"), explanation("b", "f 50 0\ng 100 1")
    sentence = difference(one, other, everything, everything).sentence
    assert sentence.startswith("a takes 15 instructions per op, b as many; the largest change")


def test_the_bottom_of_a_stack_pairs_whatever_the_loop_is_called() -> None:
    """One kernel's loop is in `run`, which nobody returns from; the other's was inlined."""
    one = explanation("a", "[vCPU thread] 0 0\n[vCPU thread];run 50 0\n[vCPU thread];run;f 100 1")
    other = explanation(
        "b", "[vCPU thread] 0 0\n[vCPU thread];ioctl 60 0\n[vCPU thread];ioctl;f 100 1"
    )
    found = difference(one, other, everything, has({"ioctl", "f"}))
    assert found.changes == [Change("ioctl", 5.0, 6.0, [])]
    assert found.only_before == {"run": 5.0}
    back = difference(other, one, has({"ioctl", "f"}), everything)
    assert back.changes == [Change("ioctl", 6.0, 5.0, [])]
    assert back.only_after == {"run": 5.0}


def test_bottoms_that_neither_kernel_shares_are_left_to_the_root() -> None:
    one = explanation("a", "[vCPU thread] 0 0\n[vCPU thread];run 50 0")
    other = explanation("b", "[vCPU thread] 0 0\n[vCPU thread];ioctl 60 0")
    found = difference(one, other, has({"run"}), has({"ioctl"}))
    assert found.changes == [Change("[vCPU thread]", 5.0, 6.0, [], ["ioctl"])]


NAMES = st.sampled_from("f g h [guest]".split())
TREES = st.lists(
    st.tuples(st.lists(NAMES, min_size=1, max_size=4), st.integers(0, 1000)), min_size=1, max_size=8
)


def lines(drawn: list[tuple[list[str], int]]) -> str:
    """Return paths with all their callers, so that each has one."""
    paths: dict[str, int] = {}
    for names, own in drawn:
        for depth in range(1, len(names) + 1):
            paths.setdefault(";".join(names[:depth]), 0)
        paths[";".join(names)] += own
    return "\n".join(f"{path} {own} 1" for path, own in paths.items())


def has(names: set[str]) -> Callable[[str], bool]:
    return lambda name: name in names


@given(TREES, TREES, st.integers(1, 100), st.sets(NAMES), st.sets(NAMES))
def test_changes_add_up_to_the_difference_of_the_figures(
    one: list[tuple[list[str], int]],
    other: list[tuple[list[str], int]],
    ops: int,
    before_has: set[str],
    after_has: set[str],
) -> None:
    before, after = explanation("a", lines(one)), explanation("b", lines(other), ops)
    found = difference(before, after, has(before_has), has(after_has))
    assert sum(row.change for row in found.changes) == pytest.approx(after.figure - before.figure)
    swapped = difference(after, before, has(after_has), has(before_has))
    assert sorted(row.change for row in found.changes) == pytest.approx(
        sorted(-row.change for row in swapped.changes)
    )
    assert "\n" not in found.sentence


def test_functions_are_counted_once_where_they_call_themselves() -> None:
    rows = {row.symbol: row for row in costs(explanation("b", TDP)).rows}
    zap = rows["zap"]
    assert (zap.net, zap.inclusive, zap.calls, zap.callers) == (120.0, 120.0, 3.0, ("unload",))
    assert rows["run"].inclusive == 162.0
    assert sum(row.net for row in rows.values()) == pytest.approx(165.5)


def test_nodes_make_the_tree_they_came_from() -> None:
    given_nodes = explanation("b", TDP).nodes
    assert {n.name: n.own for n in tree(given_nodes).walk()}["zap"] == 300
    assert sum(n.own for n in tree(given_nodes).walk()) == sum(n.own for n in given_nodes)
