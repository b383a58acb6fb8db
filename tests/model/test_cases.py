"""Patterns, names and parameters of cases."""

from __future__ import annotations

import pytest

from kvmharness.errors import UsageError
from kvmharness.model.cases import MODES, OPS, Case, select


def names(*patterns: str) -> list[str]:
    return [case.name for case in select(patterns)]


def test_no_pattern_is_the_toggle_and_its_controls() -> None:
    assert names() == [
        f"{g}/{op}" for g in ("real16", "long64") for op in ("empty", "cr0_wp", "cpuid", "pio")
    ]


def test_star_is_every_guest_and_op() -> None:
    assert names("*") == [f"{g}/{op.name}" for g in MODES for op in OPS if g in op.modes]


def test_patterns_are_shell_style_and_each_case_comes_once() -> None:
    both = names("real16/cr0_wp", "long64/c*", "long64/cr0_wp")
    assert both[:2] == ["real16/cr0_wp", "long64/cr0_wp"]
    assert len(both) == len(set(both))


def test_name_is_canonical() -> None:
    assert names("long64/cr0_wp@irqchip=0,high=1") == ["long64/cr0_wp@high=1,irqchip=0"]
    assert names("long64/cr0_wp@high=0") == ["long64/cr0_wp"]


def test_name_parses_back_to_its_case() -> None:
    for case in select(["*@irqchip=0"]):
        assert select([case.name]) == [case]


def test_parameters_have_defaults_and_baseline_keeps_them() -> None:
    case = Case("long64", "cr0_wp", {"irqchip": 0})
    assert (case["irqchip"], case["high"]) == (0, 0)
    assert case.baseline == "long64/empty@irqchip=0"


def test_parameter_selects_the_guests_that_have_it() -> None:
    assert names("*/cr0_wp@high=1") == ["long64/cr0_wp@high=1"]


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("nothing/*", "matches nothing"),
        ("real16/*@high=1", "matches nothing: high is for long64 only"),
        ("real16/*@pages=4,pcid=1", "pcid is for long64 only"),
        ("*/cr0_wp@work=5", "matches nothing: work is for the ops syscall, fault, protected_"),
        ("@pcid=1", "names no case before the @; put '*' there for all"),
        ("nothing/*@pcid=1", "matches nothing; `kvmharness run --list '*'` shows what there is"),
        ("*/cr0_wp@speed=1", "no parameter 'speed'; there are: high, "),
        ("*/cr0_wp@pages=5000", "pages takes 0 to 4096, not '5000'"),
        ("*/cr0_wp@irqchip=2", "irqchip takes 1 or 0, not '2'"),
        ("*/cr0_wp@irqchip", "irqchip takes 1 or 0, not ''"),
    ],
)
def test_bad_pattern_is_one_clear_line(pattern: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        select([pattern])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_cases_are_in_order_of_what_matters() -> None:
    names = ["real16/cr0_wp", "long64/pio", "long64/cr4_smep", "pae32/cr0_wp", "long64/empty"]
    names += ["long64/cr0_wp@pages=4", "long64/cr0_wp", "flat32/cr4_smep", "long64/cr3_same"]
    found = sorted(select(names), key=lambda case: case.order)
    assert [case.name for case in found] == [
        "long64/cr0_wp",
        "long64/cr0_wp@pages=4",
        "pae32/cr0_wp",
        "long64/cr4_smep",
        "long64/cr3_same",
        "long64/pio",
        "long64/empty",
        "real16/cr0_wp",
        "flat32/cr4_smep",
    ]
    assert Case("of a later version", "too").order > found[-1].order
