"""Events that the kernel counts by its own call, held against what perf counts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kvmharness.counters.events import HARDWARE, present
from kvmharness.counters.opened import Pool
from kvmharness.counters.perfstat import Event, PerfStat
from kvmharness.counters.source import Source
from kvmharness.guest.vm import GuestVm
from kvmharness.kvm.fds import System
from kvmharness.model.cases import Case
from tests.counters.test_perf import NO_PERF

OPS = 200


@pytest.fixture
def pool() -> Iterator[Pool]:
    with Pool() as opened:
        yield opened


def test_an_event_that_is_not_there_has_a_reason(pool: Pool) -> None:
    source = pool.source([Event("nothing", "no:such_event")])
    source.attach_to(())
    source.begin()
    assert source.end() == {}
    assert list(source.absent) == ["nothing"]
    assert source.absent["nothing"]


def test_what_the_cpu_does_not_count_is_said_to_be_that(pool: Pool) -> None:
    source = pool.source(HARDWARE)
    source.attach_to(())
    source.begin()
    counts = source.end()
    assert set(counts) | set(source.absent) == {event.name for event in HARDWARE}
    assert all("perf_event_open" in reason for reason in source.absent.values())


@pytest.mark.kvm
def test_it_counts_what_perf_counts(system: System, pool: Pool) -> None:
    if NO_PERF:
        pytest.skip(NO_PERF)
    events, _ = present()
    sources: list[Source] = [PerfStat(events), pool.source(events)]
    found = []
    with GuestVm(system, Case("long64", "cr0_wp")) as guest:
        guest.measure(OPS, 1)
        for source in sources:
            source.attach(guest)
            found.append(guest.measure(OPS, 1, [source]).counts)
            source.close()
    by_perf, opened = found
    assert set(opened) == set(by_perf)
    for name, count in by_perf.items():
        # A timer's tick may fall into either.
        assert opened[name] == pytest.approx(count, abs=OPS / 20), name


@pytest.mark.kvm
def test_an_event_is_counted_anew_for_each_guest(system: System, pool: Pool) -> None:
    events, _ = present()
    source = pool.source(events)
    found = []
    for _ in range(2):
        with GuestVm(system, Case("long64", "cpuid")) as guest:
            guest.measure(OPS, 1)
            source.attach(guest)
            found.append(guest.measure(OPS, 1, [source]).counts)
            source.close()
    first, second = found
    for name, count in first.items():
        assert second[name] == pytest.approx(count, abs=OPS / 20), name
