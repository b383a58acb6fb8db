"""What one level asks of the one below: both sides of the mailbox, with each other.

The mailbox itself is a real one in tests/lab/test_nested.py; here it is files, and its bell a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kvmharness.counters import below, mailbox
from kvmharness.counters.below import EVENTS, REASONS, Below, Counts
from kvmharness.counters.mailbox import Mailbox
from kvmharness.counters.source import Watched
from kvmharness.kvm.fds import Vcpu, Vm


@dataclass
class Guest:
    """A guest that nobody looks at."""

    thread_ids: Sequence[int] = (1,)
    vcpus: Sequence[Vcpu] = ()
    memory: bytearray = field(default_factory=lambda: bytearray(mailbox.ADDRESS + mailbox.SIZE))

    @property
    def vm(self) -> Vm:
        raise AssertionError("nobody asked for it")

    def read_memory(self, address: int, size: int) -> bytes:
        return bytes(self.memory[address : address + size])

    def write_memory(self, address: int, data: bytes) -> None:
        assert address + len(data) <= len(self.memory)
        self.memory[address : address + len(data)] = data


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


class Wired(Mailbox):
    """The guest's side of a mailbox in a Guest's memory, whose bell is a call."""

    def __init__(self, monitor: Counts) -> None:
        assert isinstance(monitor.guest, Guest)
        self._monitor, self._guest = monitor, monitor.guest

    def tell(self, word: bytes, data: bytes = b"") -> None:
        assert not data
        self._monitor.told(word)

    def answer(self) -> bytes:
        return mailbox.taken(self._guest)

    def close(self) -> None:
        """There is nothing to let go of."""


@pytest.fixture
def sources() -> list[Source]:
    return [Source({"kvm.exits": 7}), Source({}, {"kvm:kvm_exit": "no perf"})]


@pytest.fixture
def monitor(sources: list[Source]) -> Counts:
    counts = Counts({EVENTS: sources, REASONS: [Source({"npf": 3})]})
    counts.guest = Guest()
    return counts


def test_counts_come_back_by_the_name_of_the_level(monitor: Counts, sources: list[Source]) -> None:
    asked = Below(EVENTS, lambda: Wired(monitor))
    for _ in range(2):
        asked.attach(Guest())
        asked.begin()
        assert [source.state for source in sources] == ["begun", "begun"]
        assert asked.end() == {"l0.kvm.exits": 7}
        assert asked.absent == {"l0.kvm:kvm_exit": "no perf"}
        assert [source.state for source in sources] == ["closed", "closed"]
        asked.close()


def test_each_kind_has_its_sources(monitor: Counts) -> None:
    asked = Below(REASONS, lambda: Wired(monitor))
    asked.attach(Guest())
    asked.begin()
    assert asked.end() == {"l0.exit:npf": 3}


def test_an_interval_that_nobody_ends_is_closed_with_the_monitor(
    monitor: Counts, sources: list[Source]
) -> None:
    monitor.told(EVENTS)
    monitor.close()
    assert [source.state for source in sources] == ["closed", "closed"]


def test_a_word_of_nobodys_does_nothing(monitor: Counts, sources: list[Source]) -> None:
    monitor.told(b"?")
    assert [source.state for source in sources] == ["closed", "closed"]


def test_without_a_mailbox_everything_is_absent() -> None:
    asked = Below(EVENTS, lambda: Mailbox(Path("/nowhere/mem")))
    asked.attach(Guest())
    asked.begin()
    assert asked.end() == {}
    assert asked.absent == {below.ABSENT: "/nowhere/mem: No such file or directory"}
