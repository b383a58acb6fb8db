"""Calibration, interleaving and failures that end one case only."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from kvmharness.analysis import differences
from kvmharness.analysis.summary import summarise
from kvmharness.counters.deferred import DeferredWork, Reading
from kvmharness.errors import KvmError, UsageError
from kvmharness.guest.state import Blob
from kvmharness.guest.vm import MAX_ITERATIONS, GuestVm, Measurement
from kvmharness.kvm import raw
from kvmharness.kvm.fds import System
from kvmharness.measure.collect import Plan, collect
from kvmharness.measure.session import LENGTHS, Session, ended_per_op
from kvmharness.measure.take import Ended, calibrate, open_guest, pinned
from kvmharness.model.cases import Case, select
from kvmharness.model.run import DEFERRED, Settings
from kvmharness.render import tables
from tests.support.samples import made_up_run

SETTINGS = Settings(
    vms=2,
    samples_per_vm=3,
    target_ms=0.2,
    iterations=None,
    cpu=None,
    precision=0.05,
    timeout_s=5.0,
)


class _Clockwork:
    """A machine whose op takes exactly `ticks`: calibration is arithmetic, checked as such.

    Of its samples all but every `quiet`-th are interrupted for `away` ticks.
    """

    tsc_khz: int | None = 1_000_000

    def __init__(self, ticks: float, away: float = 0.0, quiet: int = 1) -> None:
        self.ticks, self.away, self.quiet = ticks, away, quiet
        self.longest, self.taken = 0.0, 0

    def measure(self, iterations: int, samples: int) -> Measurement:
        self.longest = max(self.longest, iterations * self.ticks)
        lengths = []
        for _ in range(samples):
            self.taken += 1
            away = self.away if self.taken % self.quiet else 0.0
            lengths.append(int(iterations * self.ticks + away))
        return Measurement(lengths, {}, [0] * samples)


@pytest.mark.parametrize("ticks", [0.3, 1, 7, 3000, 1e5])
def test_calibration_hits_the_target(ticks: float) -> None:
    guest = _Clockwork(ticks)
    iterations = calibrate(guest, 3.0)  # type: ignore[arg-type]
    assert iterations * ticks == pytest.approx(3e6, rel=0.02, abs=ticks)
    assert guest.longest <= 6e6


def test_calibration_on_a_busy_machine_hits_the_target() -> None:
    """A preemption of 20 ms in four of five samples is no reason to take a few ops for many."""
    busy = _Clockwork(3000, away=20e6, quiet=5)
    assert calibrate(busy, 0.7) == pytest.approx(233, abs=1)  # type: ignore[arg-type]


def test_calibration_of_the_extremes_ends() -> None:
    assert calibrate(_Clockwork(0), 3.0) == MAX_ITERATIONS  # type: ignore[arg-type]
    assert calibrate(_Clockwork(1e9), 3.0) == 1  # type: ignore[arg-type]


@pytest.mark.kvm
@pytest.mark.parametrize("answer", [0, -errno.EIO])
def test_without_a_frequency_figures_are_ticks(
    system: System, monkeypatch: pytest.MonkeyPatch, answer: int
) -> None:
    real = raw.ioctl

    def ioctl(fd: int, name: str, argument: object = 0, *, next_step: str = "") -> int:
        if name != "KVM_GET_TSC_KHZ":
            return real(fd, name, argument, next_step=next_step)
        if answer < 0:
            raise KvmError(name, -answer)
        return answer

    # KVM says 0, or EIO on an unstable TSC: no such host is at hand, so its answer is replaced.
    monkeypatch.setattr(raw, "ioctl", ioctl)
    settings = msgspec.structs.replace(SETTINGS, target_ms=1.0)
    run = collect(system, Plan(select(["long64/cr0_read"]), settings, None), lambda *_: None)
    (case,) = run.cases
    assert case.failed is None
    assert (run.clock, case.unit, case.tsc_khz, run.host.tsc_khz) == ("ticks", "ticks", None, None)
    # As long as asked, by a clock of ours: without one a sample would be a single op.
    assert (case.iterations or 0) > 10
    summarise(run)
    assert case.tsc is None
    assert "no time" in " ".join(tables.remarks(run))
    reason = differences.why_not_comparable([run], [made_up_run()])
    assert reason == "another clock: ticks → tsc"


def test_pin_to_a_cpu_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="--pin 99999: "), pinned(99999):
        pass


def test_pin_is_undone() -> None:
    before = os.sched_getaffinity(0)
    with pinned(max(before)):
        assert os.sched_getaffinity(0) == {max(before)}
    assert os.sched_getaffinity(0) == before


@pytest.mark.kvm
def test_rounds_interleave_and_keep_every_sample(system: System) -> None:
    cases = select(["long64/empty", "long64/cr0_wp"])
    session = Session(system, cases, SETTINGS)
    order = [step.result.op for step in session.measure(2)]
    assert order == ["empty", "cr0_wp", "cr0_wp", "empty"]
    for result in session.results:
        assert result.vms == [0, 0, 0, 1, 1, 1]
        assert len(result.samples) == len(result.preempted) == 6
        assert len(result.paces) == 2
        assert min(result.paces) > 1000, "ticks of a loop of 20,000 turns"
        assert result.counters["kvm.exits"] is not None
        if DEFERRED in result.absent:
            assert result.deferred_samples == []
        else:
            assert result.deferred_vms == [0, 1]
            assert len(result.deferred_samples) == 2
    more = [step.result.op for step in session.measure(1, {"long64/cr0_wp"})]
    assert more == ["cr0_wp"]
    assert [len(r.samples) for r in session.results] == [6, 9]


@pytest.mark.kvm
def test_a_lost_guest_ends_its_own_case_only(system: System, stub: Callable[..., Blob]) -> None:
    def opener(system: System, case: Case, settings: Settings) -> GuestVm:
        spin = stub(b"\xeb\xfe") if case.op == "cr0_wp" else None
        return GuestVm(system, case, timeout_s=0.2, blob=spin)

    cases = select(["long64/empty", "long64/cr0_wp"])
    session = Session(system, cases, SETTINGS, opener)
    steps = list(session.measure(2))
    empty, toggle = session.results
    assert len(steps) == 4
    assert len(empty.samples) == 6
    assert toggle.samples == []
    assert toggle.failed is not None
    assert toggle.failed.startswith("guest: rang no doorbell within 0.2 s")


@pytest.mark.kvm
def test_a_stop_after_each_sample_gives_a_deferred_figure_for_each(system: System) -> None:
    settings = msgspec.structs.replace(SETTINGS, samples_per_doorbell=1, iterations=50)
    session = Session(system, select(["long64/cr0_wp"]), settings)
    for _ in session.measure(1):
        pass
    (result,) = session.results
    assert result.vms == [0, 0, 0]
    if DEFERRED not in result.absent:
        assert result.deferred_vms == [0, 0, 0]


@pytest.mark.kvm
def test_where_a_vm_s_end_cannot_be_told_no_vm_is_made_for_it(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Threads(DeferredWork):
        """As on a host of several CPUs."""

        def __init__(self) -> None:
            super().__init__()
            self.absent, self.by = None, "threads"

    def opener(system: System, case: Case, settings: Settings) -> GuestVm:
        made.append(case.name)
        return open_guest(system, case, settings)

    made: list[str] = []
    monkeypatch.setattr("kvmharness.measure.session.DeferredWork", Threads)
    for _ in Session(system, select(["long64/empty"]), SETTINGS, opener).measure(2):
        pass
    assert made == ["long64/empty"] * 2


def test_the_end_of_a_vm_is_shared_out_among_what_it_ran_beyond_the_shortest_life() -> None:
    short = Ended(100, 5_000)
    assert ended_per_op(short, Ended(600, 1_005_000)) == 2000
    assert ended_per_op(short, Ended(600, 5_000)) == 0
    # Nobody can tell, or there is nothing that it ran beyond.
    assert ended_per_op(None, Ended(600, 9)) == ended_per_op(short, None) == 0
    assert ended_per_op(short, Ended(100, 9_000)) == 0


@pytest.mark.kvm
def test_where_one_cpu_tells_all_the_thread_s_own_work_counts(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Telling(DeferredWork):
        """One that knows what this thread did, here as if it had the machine to itself."""

        def __init__(self) -> None:
            super().__init__()
            self.absent, self.by = None, "cpu"

        def read(self) -> Reading:
            return Reading(time.monotonic_ns(), {0: 0})

    def slow_exit(guest: GuestVm, iterations: int, *rest: Any, **named: Any) -> Measurement:
        measured = real(guest, iterations, *rest, **named)
        until = time.process_time_ns() + 20_000 * iterations
        while time.process_time_ns() < until:
            pass
        return measured

    real = GuestVm.measure
    monkeypatch.setattr(GuestVm, "measure", slow_exit)
    monkeypatch.setattr("kvmharness.measure.session.DeferredWork", Telling)
    settings = msgspec.structs.replace(SETTINGS, samples_per_doorbell=1, iterations=200)
    session = Session(system, select(["long64/empty"]), settings)
    for _ in session.measure(1):
        pass
    (result,) = session.results
    assert result.deferred_by == "cpu"
    assert sorted(result.deferred_samples)[1] == pytest.approx(20_000, rel=0.2)


@pytest.mark.kvm
def test_a_single_op_has_nothing_to_hold_its_deferred_work_against(system: System) -> None:
    settings = msgspec.structs.replace(SETTINGS, iterations=1)
    session = Session(system, select(["long64/empty"]), settings)
    for _ in session.measure(1):
        pass
    (result,) = session.results
    assert DEFERRED in result.absent
    assert result.deferred_samples == []


@pytest.mark.kvm
def test_calibrated_samples_of_each_vm_have_another_length(system: System) -> None:
    asked: list[int] = []

    class Watched(GuestVm):
        def measure(self, iterations: int, *rest: Any, **named: Any) -> Measurement:
            asked.append(iterations)
            return super().measure(iterations, *rest, **named)

    session = Session(
        system,
        select(["long64/empty"]),
        SETTINGS,
        opener=lambda system, case, settings: Watched(system, case, timeout_s=5.0),
    )
    for _ in session.measure(1):
        pass
    calibrated = session.results[0].iterations
    asked.clear()
    for _ in session.measure(1):
        pass
    assert calibrated
    assert max(asked) == round(calibrated * LENGTHS[1])
    assert session.results[0].iterations == calibrated


@pytest.mark.kvm
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two vCPUs need two CPUs")
def test_who_waits_for_other_vcpus_is_not_counted(system: System) -> None:
    """Two vCPUs spun at the barrier, 20 to 45 instructions of kvm_pvm's an op were counted."""
    settings = msgspec.structs.replace(SETTINGS, iterations=100, vms=1)
    session = Session(system, select(["long64/empty", "long64/empty@vcpus=2"]), settings)
    for _ in session.measure(1):
        pass
    one, two = (result.counters for result in session.results)
    for name in ("kvm.insn_emulation", "kvm.exits"):
        if one.get(name) is not None:
            assert two[name] == pytest.approx(one[name], abs=0.05)
