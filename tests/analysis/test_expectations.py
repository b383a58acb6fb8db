"""Expectations: what is understood, and what a run makes of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kvmharness.analysis import expectations
from kvmharness.analysis.expectations import Expectation, parse
from kvmharness.analysis.summary import summarise
from kvmharness.errors import UsageError
from kvmharness.model.run import CaseResult, Run
from tests.support.recorded import recorded_run
from tests.support.samples import class_of, made_up_run


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("long64/cr0_wp < 6000 insn", ("long64/cr0_wp", "", "<", 6000, "insn")),
        ("*/cr0_wp >= 5,029.5 ns", ("*/cr0_wp", "", ">=", 5029.5, "ns")),
        ("long64/cr0_wp net <= -1.5e3 ns", ("long64/cr0_wp", "net", "<=", -1500, "ns")),
        ("  long64/cr0_wp   class  */kept ", ("long64/cr0_wp", "class", "*/kept", 0, None)),
        ("long64/cr0_wp kvm.exits > 0.9", ("long64/cr0_wp", "kvm.exits", ">", 0.9, None)),
        (
            "a@pages=16 kvmmmu:kvm_mmu_get_page[created==1] < 1",
            ("a@pages=16", "kvmmmu:kvm_mmu_get_page[created==1]", "<", 1, None),
        ),
    ],
)
def test_what_is_understood(text: str, expected: tuple[str, str, str, float, str | None]) -> None:
    assert parse(text) == Expectation(text, *expected)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not understood"),
        ("long64/cr0_wp", "not understood"),
        ("long64/cr0_wp < 6000", "a cost needs its unit"),
        ("long64/cr0_wp net < 6000", "a cost needs its unit"),
        ("long64/cr0_wp < 6000 cycles", "not understood"),
        ("long64/cr0_wp == 6000 ns", "not understood"),
        ("long64/cr0_wp class", "not understood"),
        ("long64/cr0_wp class < 3", "not understood"),
        ("long64/cr0_wp cost < 6000", "a cost needs its unit"),
        ("long64/cr0_wp < nan ns", "'nan' is no number"),
        ("long64/cr0_wp < 1e999 ns", "'1e999' is no number"),
        ("long64/cr0_wp < 5,02 ns", "'5,02' is no number"),
        ("long64/cr0_wp < ² ns", "is no number"),
        ("a\x1b[31m\n< 1", r"'a\x1b[31m\n< 1'"),
    ],
)
def test_what_is_not_is_one_line(text: str, says: str) -> None:
    with pytest.raises(UsageError) as error:
        parse(text)
    assert says in str(error.value)
    assert str(error.value).isprintable()


def lab_run() -> Run:
    run = recorded_run("debian-6.1.192-tdp", {"long64/empty": 2.0, "long64/cr0_wp": 5000.0})
    summarise(run)
    return run


def answers(run: Run, text: str) -> list[str]:
    return [outcome.answer for outcome in expectations.check(parse(text), run)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("long64/cr0_wp < 6000 insn", ["ok"]),
        ("long64/cr0_wp < 4000 insn", ["FAIL"]),
        # The median is 5,015; the interval, [5,002, 5,025], holds both sides of the bound.
        ("long64/cr0_wp < 5015 insn", ["unclear"]),
        ("long64/cr0_wp > 5015 insn", ["unclear"]),
        ("long64/cr0_wp >= 4000 insn", ["ok"]),
        ("long64/cr0_wp net < 5100 insn", ["ok"]),
        ("long64/* net < 5100 insn", ["ok"]),
        ("*/cr0_wp class exit/kept", ["ok"]),
        ("* class */rebuilt", ["FAIL", "FAIL"]),
        ("*/cr0_wp kvm.exits < 0.1", ["FAIL"]),
        ("*/cr0_wp kvm.exits <= 1.1", ["ok"]),
        ("*/cr0_wp kvm.no_such < 1", ["unclear"]),
    ],
)
def test_a_run_is_held_against_it(text: str, expected: list[str]) -> None:
    assert answers(lab_run(), text) == expected


def outcome(change: str, text: str) -> tuple[str, str]:
    """Return what becomes of the toggle's case after a change of it."""
    run = lab_run()
    case = run.cases[1]
    CHANGES[change](case)
    (found,) = expectations.check(parse(f"long64/cr0_wp {text}"), run)
    return found.answer, found.seen


def without_samples(case: CaseResult, kind: str | None = None, reason: str = "") -> None:
    case.samples, case.vms, case.per_op = [], [], None
    if kind:
        setattr(case, kind, reason)


def single_vm(case: CaseResult) -> None:
    assert case.per_op is not None
    case.per_op.ci95 = None


def not_counted(case: CaseResult) -> None:
    case.counters = {"kvm.exits": None}
    case.absent = {"kvm.*": "Permission denied"}


def doubtful(case: CaseResult) -> None:
    case.class_ = class_of("exit/kept-or-reloaded")


CHANGES: dict[str, Callable[[CaseResult], object]] = {
    "skipped": lambda case: without_samples(case, "skipped", "KVM offers no NX"),
    "failed": lambda case: without_samples(case, "failed", "guest: triple fault; rip 0x0"),
    "empty": without_samples,
    "incorrect": lambda case: case.discard("WP did not hold"),
    "single": single_vm,
    "not counted": not_counted,
    "doubtful": doubtful,
    "no class": lambda case: setattr(case, "class_", None),
    "unclear": lambda case: setattr(case, "class_", class_of("unclear/kept")),
}


@pytest.mark.parametrize(
    ("change", "text", "answer", "seen"),
    [
        ("skipped", "< 6000 insn", "unclear", "skipped: KVM offers no NX"),
        ("failed", "class */kept", "unclear", "failed: guest: triple fault; rip 0x0"),
        ("empty", "< 6000 insn", "unclear", "there are no samples"),
        ("incorrect", "< 6000 insn", "incorrect", "KVM is incorrect: WP did not hold"),
        ("single", "< 6000 insn", "unclear", "5,015 insn of a single VM has no interval"),
        ("not counted", "kvm.exits < 1", "unclear", "not counted: Permission denied"),
        # A class in doubt is as expected where each that it may stand for is.
        ("doubtful", "class exit/kept", "unclear", "exit/kept-or-reloaded ("),
        ("doubtful", "class exit/*", "ok", "exit/kept-or-reloaded"),
        ("doubtful", "class */rebuilt", "FAIL", "exit/kept-or-reloaded ("),
        ("unclear", "class exit/kept", "unclear", "unclear/kept ("),
        ("unclear", "class */kept", "ok", "unclear/kept"),
        ("no class", "class */kept", "unclear", "nothing was counted"),
    ],
)
def test_what_cannot_be_told_says_why(change: str, text: str, answer: str, seen: str) -> None:
    found = outcome(change, text)
    assert found[0] == answer
    assert found[1].startswith(seen)


def test_wrong_unit_and_wrong_name_are_usage_errors() -> None:
    run = made_up_run()
    with pytest.raises(UsageError, match="this run's unit is ns, its clock being tsc; give the"):
        expectations.check(parse("* < 1 insn"), run)
    with pytest.raises(UsageError, match="no case of this run is called so; it has 'long64/empty'"):
        expectations.check(parse("cr0_wp < 1 ns"), run)
