"""The counts that `perf stat` gives, from the kernel itself: perf_event_open(2).

Where the CPU is emulated a start of perf takes longer than what it is to count.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Sequence
from typing import NamedTuple, Self

from kvmharness.counters.perfstat import Event, part_of_the_time
from kvmharness.counters.source import Watched
from kvmharness.counters.tracefs import NOT_MOUNTED, tracing
from kvmharness.kvm import raw
from kvmharness.kvm.raw import lib

HARDWARE = {
    "cycles": lib.PERF_COUNT_HW_CPU_CYCLES,
    "instructions": lib.PERF_COUNT_HW_INSTRUCTIONS,
}
# What a letter behind an event counts alone, and so leaves out.
EXCLUDED = {"G": "host", "H": "guest", "": ""}
# Count, ns enabled, ns counted.
READ = struct.Struct("=QQQ")


def _open(event: Event, thread: int) -> int:
    """Open one event on one thread.  Raises OSError whose text says why it cannot be."""
    name, _, rest = event.spec.partition(":")
    if name in HARDWARE:
        try:
            return raw.event_open(lib.PERF_TYPE_HARDWARE, HARDWARE[name], EXCLUDED[rest], thread)
        except OSError as error:
            raise OSError(error.errno, f"this CPU does not count it: {error.strerror}") from None
    root = tracing()
    if root is None:
        raise OSError(0, NOT_MOUNTED)
    number = int((root / "events" / name / rest / "id").read_text())
    descriptor = raw.event_open(lib.PERF_TYPE_TRACEPOINT, number, thread=thread)
    try:
        if event.filter:
            raw.event_filter(descriptor, event.filter)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


class Pool:
    """Events that stay open for the calling thread, whatever guest it runs, until left.

    To let go of a probe and set it again, the kernel walks all of its functions.
    """

    def __init__(self) -> None:
        self._own = threading.get_native_id()
        self._held: dict[Event, int] = {}

    def source(self, events: Sequence[Event]) -> OpenedEvents:
        """Return a source of the events' counts."""
        return OpenedEvents(events, self)

    def open(self, event: Event, thread: int) -> int:
        """Open an event on a thread, or return it as it is held.  Raises OSError."""
        if thread != self._own:
            return _open(event, thread)
        if event not in self._held:
            self._held[event] = _open(event, thread)
        return self._held[event]

    def let_go(self, descriptor: int) -> None:
        """Close an event that is not held."""
        if descriptor not in self._held.values():
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._held:
            os.close(self._held.popitem()[1])


class _Opened(NamedTuple):
    """An event that is open on a thread."""

    name: str
    descriptor: int


class OpenedEvents:
    """Counts of `events` on a guest's threads, as a counter source.

    `absent` says why single ones have none; `failure` is PerfStat's, and never said here.
    """

    def __init__(self, events: Sequence[Event], pool: Pool) -> None:
        self.absent: dict[str, str] = {}
        self.failure: str | None = None
        self._events, self._pool = events, pool
        self._opened: list[_Opened] = []
        self._before: dict[int, tuple[int, int, int]] = {}

    def attach(self, guest: Watched) -> None:
        """Open the events on the threads that run this guest's vCPUs."""
        self.attach_to(guest.thread_ids)

    def attach_to(self, threads: Sequence[int]) -> None:
        """Open the events on `threads` (none: the calling one)."""
        self.close()
        self.absent = {}
        for event in self._events:
            try:
                for thread in threads or [threading.get_native_id()]:
                    self._opened.append(_Opened(event.name, self._pool.open(event, thread)))
            except OSError as error:
                self.absent[event.name] = error.strerror or str(error)

    def _able(self) -> list[_Opened]:
        """Return the events that are counted on all threads."""
        return [one for one in self._opened if one.name not in self.absent]

    def _switch(self, on: bool) -> None:
        for one in self._able():
            try:
                raw.event_switch(one.descriptor, on)
            except OSError as error:
                self.absent[one.name] = error.strerror or str(error)

    def begin(self) -> None:
        """Start counting."""
        self._before = {one.descriptor: _read(one.descriptor) for one in self._able()}
        self._switch(True)

    def end(self) -> dict[str, int]:
        """Stop counting and return the counts."""
        self._switch(False)
        counts: dict[str, int] = {}
        for one in self._able():
            before, now = self._before[one.descriptor], _read(one.descriptor)
            count, enabled, running = (b - a for a, b in zip(before, now, strict=True))
            counts[one.name] = counts.get(one.name, 0) + count
            if running < enabled:
                self.absent[one.name] = part_of_the_time(100 * running / enabled)
        return {name: count for name, count in counts.items() if name not in self.absent}

    def close(self) -> None:
        """Let go of the threads."""
        while self._opened:
            self._pool.let_go(self._opened.pop().descriptor)


def _read(descriptor: int) -> tuple[int, int, int]:
    count, enabled, running = READ.unpack(os.read(descriptor, READ.size))
    return count, enabled, running
