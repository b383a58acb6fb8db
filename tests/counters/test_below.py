"""What one level asks of the one below: both sides of the port, with each other.

The port itself is a real one in tests/lab/test_nested.py; here a write is a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kvmharness.counters import below
from kvmharness.counters.below import EVENTS, REASONS, Below, Counts
from kvmharness.counters.source import Watched
from kvmharness.kvm.fds import Vcpu, Vm


@dataclass
class Guest:
    """A guest that nobody looks at."""

    thread_ids: Sequence[int] = (1,)
    vcpus: Sequence[Vcpu] = ()

    @property
    def vm(self) -> Vm:
        raise AssertionError("nobody asked for it")


@dataclass
class Source:
    """A source that says what it was told to."""

    counts: dict[str, int]
    absent: dict[str, str] = field(default_factory=dict)
    state: str = "closed"

    def attach(self, guest: Watched) -> None:
        assert guest.thread_ids
        self.state = "attached"

    def begin(self) -> None:
        assert self.state == "attached"
        self.state = "begun"

    def end(self) -> dict[str, int]:
        assert self.state == "begun"
        self.state = "ended"
        return self.counts

    def close(self) -> None:
        self.state = "closed"


class Wired(Below):
    """One whose port is the monitor's device itself."""

    def __init__(self, kind: bytes, monitor: Counts) -> None:
        super().__init__(kind, Path("/dev/null"))
        self._monitor = monitor

    def _tell(self, word: bytes) -> None:
        self._monitor.write(word)

    def _read(self, size: int) -> bytes:
        return b"".join(self._monitor.read(1) for _ in range(size))


@pytest.fixture
def sources() -> list[Source]:
    return [Source({"kvm.exits": 7}), Source({}, {"kvm:kvm_exit": "no perf"})]


@pytest.fixture
def monitor(sources: list[Source]) -> Counts:
    counts = Counts({EVENTS: sources, REASONS: [Source({"npf": 3})]})
    counts.guest = Guest()
    return counts


def test_counts_come_back_by_the_name_of_the_level(monitor: Counts, sources: list[Source]) -> None:
    asked = Wired(EVENTS, monitor)
    for _ in range(2):
        asked.attach(Guest())
        asked.begin()
        assert [source.state for source in sources] == ["begun", "begun"]
        assert asked.end() == {"l0.kvm.exits": 7}
        assert asked.absent == {"l0.kvm:kvm_exit": "no perf"}
        assert [source.state for source in sources] == ["closed", "closed"]
        asked.close()


def test_each_kind_has_its_sources(monitor: Counts) -> None:
    asked = Wired(REASONS, monitor)
    asked.attach(Guest())
    asked.begin()
    assert asked.end() == {"l0.exit:npf": 3}


def test_an_interval_that_nobody_ends_is_closed_with_the_monitor(
    monitor: Counts, sources: list[Source]
) -> None:
    monitor.write(EVENTS)
    monitor.close()
    assert [source.state for source in sources] == ["closed", "closed"]


def test_behind_its_answer_the_port_reads_zeros(monitor: Counts) -> None:
    assert monitor.read(3) == bytes(3)
    monitor.write(b"?")  # no word of its own: nothing happens
    assert monitor.read(1) == bytes(1)


def test_without_ports_everything_is_absent() -> None:
    asked = Below(EVENTS, Path("/nowhere/port"))
    asked.attach(Guest())
    asked.begin()
    assert asked.end() == {}
    assert asked.absent == {below.ABSENT: "/nowhere/port: No such file or directory"}
