"""Patterns, names and parameters of cases."""

from __future__ import annotations

import pytest

from kvmharness.cases import GUESTS, OPS, Case, select
from kvmharness.errors import UsageError


def names(*patterns: str) -> list[str]:
    return [case.name for case in select(patterns)]


def test_no_pattern_is_every_guest_and_op() -> None:
    assert names() == [f"{g}/{op.name}" for g in GUESTS for op in OPS]


def test_patterns_are_shell_style_and_each_case_comes_once() -> None:
    assert names("*/cr0_wp", "long64/*")[:2] == ["real16/cr0_wp", "long64/cr0_wp"]
    assert len(names("*/cr0_wp", "long64/*")) == 5


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
        ("real16/*@high=1", "matches nothing"),
        ("*/cr0_wp@speed=1", "no parameter 'speed'; there are: high, irqchip"),
        ("*/cr0_wp@irqchip=2", "irqchip takes 1, 0, not '2'"),
        ("*/cr0_wp@irqchip", "irqchip takes 1, 0, not ''"),
    ],
)
def test_bad_pattern_is_one_clear_line(pattern: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        select([pattern])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
