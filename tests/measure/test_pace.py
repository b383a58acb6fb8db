"""The CPU's own pace is taken on both sides of a VM's samples, of a run by time."""

from __future__ import annotations

import itertools

import pytest

from kvmharness.kvm import raw
from kvmharness.kvm.fds import System
from kvmharness.measure import take as taking
from kvmharness.measure.session import Session
from kvmharness.model.cases import Case
from kvmharness.model.clocks import Clock
from kvmharness.model.run import Settings

SETTINGS = Settings(
    vms=1, samples_per_vm=2, target_ms=0.1, iterations=5, cpu=None, precision=1.0, timeout_s=5.0
)


@pytest.mark.kvm
def test_it_is_the_middle_of_both_sides(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    each = taking.PACES
    # A tick that came between is no pace.
    ticks = iter([99_000, *[100] * (each - 1), *[300] * (each - 1), 99_000])
    monkeypatch.setattr(raw, "pace", lambda: next(ticks))
    session = Session(system, [Case("long64", "empty")], SETTINGS)
    list(session.measure(1))
    assert session.results[0].paces == [200.0]
    assert next(ticks, None) is None


@pytest.mark.kvm
@pytest.mark.parametrize(("clock", "asked"), [("tsc", True), ("ticks", True), ("insn", False)])
def test_an_emulated_machine_has_none(
    clock: Clock, asked: bool, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = itertools.count(1)
    monkeypatch.setattr(raw, "pace", lambda: next(calls))
    session = Session(system, [Case("long64", "empty")], SETTINGS, clock=clock)
    list(session.measure(1))
    assert bool(session.results[0].paces) == asked
    assert (next(calls) > 1) == asked


def test_this_cpu_has_one_that_grows_with_nothing() -> None:
    quickest = sorted(raw.pace() for _ in range(99))
    # 20,000 turns of at least a tick or so, whatever the frequency; and mostly alike.
    assert quickest[0] > 2_000
    assert quickest[50] < quickest[10] * 3
