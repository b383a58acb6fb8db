"""What every source of counts owes the one who measures: the same test for each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kvmharness.counters.below import EVENTS, Below
from kvmharness.counters.calls import Calls
from kvmharness.counters.events import HARDWARE, TRACEPOINTS
from kvmharness.counters.kvmstats import KvmStats
from kvmharness.counters.mailbox import Mailbox
from kvmharness.counters.opened import Pool
from kvmharness.counters.perfstat import Event, PerfStat
from kvmharness.counters.profile import KvmStat, Profile
from kvmharness.counters.reasons import ExitReasons
from kvmharness.counters.source import Source, Watched
from kvmharness.counters.trace_label import TraceLabel
from kvmharness.counters.tracefs import Instance
from kvmharness.guest.vm import GuestVm
from kvmharness.kvm.fds import System
from kvmharness.model.cases import Case
from tests.counters.test_perf import NO_PERF

TASK_CLOCK = [Event("task-clock", "task-clock")]
NOT_HERE = "perf-is-not-here"


@dataclass
class Fake:
    """A source that counts its own calls, to hold the test itself against."""

    absent: dict[str, str] = field(default_factory=dict)
    running: bool = False
    calls: int = 0

    def attach(self, guest: Watched) -> None:
        assert guest.thread_ids
        self.calls = 1

    def begin(self) -> None:
        self.running = True

    def end(self) -> dict[str, int]:
        assert self.running
        self.running = False
        return {"fake": self.calls}

    def close(self) -> None:
        self.calls = 0


def reasons(stack: ExitStack) -> Source:
    return ExitReasons(stack.enter_context(Instance()))


def blind_reasons(stack: ExitStack) -> Source:
    return ExitReasons(stack.enter_context(Instance(Path("/nowhere"))))


def calls(stack: ExitStack) -> Source:
    return Calls(stack.enter_context(Instance()))


def blind_calls(stack: ExitStack) -> Source:
    return Calls(stack.enter_context(Instance(Path("/nowhere"))))


def opened(stack: ExitStack) -> Source:
    return stack.enter_context(Pool()).source([*TRACEPOINTS, *HARDWARE])


def no_events(stack: ExitStack) -> Source:
    return stack.enter_context(Pool()).source([Event("nothing", "no:such_event")])


ABLE: dict[str, Callable[[ExitStack], Source]] = {
    "fake": lambda _: Fake(),
    "kvm stats": lambda _: KvmStats(),
    "perf stat": lambda _: PerfStat(TASK_CLOCK),
    "perf record": lambda _: Profile("cpu-clock:k", 999),
    "perf kvm stat": lambda _: KvmStat(),
    "exit reasons": reasons,
    "calls": calls,
    "opened events": opened,
    "trace label": lambda _: TraceLabel(0x10002),
}
UNABLE: dict[str, Callable[[ExitStack], Source]] = {
    "perf that is not there": lambda _: PerfStat(TASK_CLOCK, NOT_HERE),
    "tracefs that is not there": blind_reasons,
    "calls without tracefs": blind_calls,
    "events that are not there": no_events,
    "a mailbox that is not there": lambda _: Below(EVENTS, lambda: Mailbox(Path("/nowhere/mem"))),
}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def measured(system: System, source: Source) -> dict[str, int]:
    with GuestVm(system, Case("long64", "pio")) as guest:
        source.attach(guest)
        counts = guest.measure(200, 1, [source]).counts
        source.close()
        source.close()
    return counts


@pytest.mark.kvm
@pytest.mark.parametrize("name", [*ABLE, *UNABLE])
def test_a_source_keeps_its_contract(system: System, stack: ExitStack, name: str) -> None:
    if name.startswith("perf ") and name in ABLE and NO_PERF:
        pytest.skip(NO_PERF)
    source = (ABLE | UNABLE)[name](stack)
    for _ in range(2):  # a source may be attached again
        counts = measured(system, source)
        assert all(count >= 0 for count in counts.values())
        # What is counted is not absent, and what is absent has a reason.
        assert not set(counts) & set(source.absent)
        assert all(source.absent.values())
        if name in UNABLE:
            assert source.absent
            assert counts == {}
