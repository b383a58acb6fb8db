"""Several vCPUs at once: all samples kept, errors and the time limit reach the caller."""

from __future__ import annotations

import os
import threading

import pytest

from kvmharness.errors import GuestTimeout
from kvmharness.guest.vcpu_threads import VcpuThreads
from kvmharness.guest.vm import GuestVm
from kvmharness.kvm.fds import System
from kvmharness.measure.session import Session
from kvmharness.model.cases import Case, select
from kvmharness.model.run import Settings

TWO = Case("long64", "cr0_wp", {"vcpus": 2})


def test_one_vcpu_runs_on_the_callers_thread() -> None:
    with VcpuThreads(1, []) as threads:
        assert threads.ids == [threading.get_native_id()]
        assert threads.run(lambda n: threading.get_ident()) == [threading.get_ident()]


def test_several_keep_their_threads_and_raise_the_first_error() -> None:
    with VcpuThreads(3, []) as threads:
        first = threads.run(lambda n: threading.get_native_id())
        assert threads.run(lambda n: threading.get_native_id()) == first == threads.ids
        assert len(set(first)) == 3
        with pytest.raises(ZeroDivisionError):
            threads.run(lambda n: 1 // (n - 1))


def test_the_error_that_came_first_is_raised_and_the_others_are_not_waited_for() -> None:
    def work(n: int) -> None:
        if n == 1:
            raise KeyError(n)
        gone.wait(10)

    gone = threading.Event()
    threading.Timer(0.2, gone.set).start()
    with VcpuThreads(2, []) as threads, pytest.raises(KeyError):
        threads.run(work)


def test_threads_are_pinned_in_turn() -> None:
    cpus = sorted(os.sched_getaffinity(0))
    with VcpuThreads(2, cpus) as threads:
        pinned = threads.run(lambda n: os.sched_getaffinity(0))
    assert pinned == [{cpus[0]}, {cpus[1 % len(cpus)]}]


@pytest.mark.kvm
@pytest.mark.parametrize("irqchip", [0, 1])
def test_two_vcpus_measure_together(system: System, irqchip: int) -> None:
    case = Case("long64", "cr0_wp", {"vcpus": 2} | ({} if irqchip else {"irqchip": 0}))
    with GuestVm(system, case) as guest:
        assert len(guest.measure(100, 3).ticks) == 6
        assert len(guest.measure(50, 5).ticks) == 10


@pytest.mark.kvm
def test_time_limit_holds_for_all_of_them(system: System) -> None:
    with GuestVm(system, TWO, timeout_s=0.3) as guest, pytest.raises(GuestTimeout):
        guest.measure(2**32 - 1, 1)


@pytest.mark.kvm
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU")
def test_per_vcpu_samples_are_kept(system: System) -> None:
    settings = Settings(2, 3, 0.2, None, max(os.sched_getaffinity(0)), 0.05, 5.0)
    session = Session(system, select([TWO.name]), settings)
    list(session.measure(2))
    (result,) = session.results
    assert result.failed is None
    assert result.vms == [0] * 6 + [1] * 6
    assert result.vcpus == [0, 0, 0, 1, 1, 1] * 2
