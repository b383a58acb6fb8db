"""What is booted for what was asked: boots, their seeds, and which of them decides."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from kvmharness.analysis import expectations
from kvmharness.analysis.expectations import Answer, Answered
from kvmharness.commands import booting, check
from kvmharness.kernel import resolve
from kvmharness.kernel.build import AS_USUAL
from kvmharness.kernel.resolve import Kernel
from kvmharness.lab import matrix, qemu
from kvmharness.lab.boot import Boot
from kvmharness.lab.machines import TCG_SVM
from kvmharness.lab.planning import LabPlan, Result, Target
from kvmharness.measure.settings import for_lab
from kvmharness.model.cases import select
from kvmharness.model.run import Run

KERNEL = Kernel("a", "6.1", Path("vmlinuz"), None, "6.1")


def test_each_boot_has_a_seed_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "bootable", lambda kernel: kernel.image)

    def command(number: int) -> str:
        boot = Boot(KERNEL, TCG_SVM, [], [], tmp_path, 1.0, number)
        return shlex.join(qemu.TCG.command(boot))

    assert command(1) == command(1)
    assert command(1).replace("-seed 1", "-seed 2") == command(2)


@pytest.fixture
def booted(monkeypatch: pytest.MonkeyPatch) -> list[Target]:
    """Have every machine be lost at once; return those that were to boot."""
    asked: list[Target] = []

    def measure(targets: list[Target], plan: LabPlan, jobs: int, progress: object) -> list[Result]:
        asked.extend(targets)
        return [Result(target, skipped="not here") for target in targets]

    monkeypatch.setattr(matrix, "measure", measure)
    monkeypatch.setattr(resolve, "resolve", lambda *_: KERNEL)
    return asked


@pytest.mark.parametrize(("asked", "boots"), [(None, 3), (1, 1), (5, 5)])
def test_a_comparison_by_instructions_boots_three_times(
    booted: list[Target], asked: int | None, boots: int
) -> None:
    with pytest.raises(Exception, match="skipped: not here"):
        booting.runs_of(
            ["a"], booting.ask(AS_USUAL, "tdp", select(["long64/empty"]), TCG_SVM, asked)
        )
    assert [target.boot for target in booted] == list(range(1, boots + 1))


def test_the_boot_that_is_least_as_expected_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[str, Answer] = {"1": "ok", "2": "FAIL", "3": "unclear"}

    def answer(_: object, run: str) -> list[Answered]:
        return [Answered(answers[run], "long64/cr0_wp", "< 1 insn", run)]

    monkeypatch.setattr(expectations, "check", answer)
    runs: list[Run] = list(answers)  # type: ignore[arg-type]
    (found,) = check._worst(expectations.parse("long64/cr0_wp < 1 insn"), runs)
    assert (found.answer, found.seen) == ("FAIL", "2")


def test_a_lab_measures_by_its_clock() -> None:
    assert for_lab("insn").iterations == 100
    assert for_lab("tsc").iterations is None
