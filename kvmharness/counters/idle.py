"""How long a kernel with one CPU has idled, in ns of its clock; interrupts are no idling.

From 7.3 on no file says it finer than /proc/stat, in hundredths of a second: there it is put
together from tracepoints.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
import weakref
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kvmharness.counters.tracefs import tracing
from kvmharness.kvm import raw

PROC = Path("/proc")
IDLE = re.compile(rb"\.idle_sleeptime\s*:\s*(\d+) nsecs")
# Bytes to read at once; a file of /proc may give less.
AT_ONCE = 1 << 14


class TimerList:
    """How long the first CPU has idled, by /proc/timer_list: kernels up to 7.2 say it there.

    An emulated kernel takes longer to print that file than a small guest to run, so it is held
    open, and read no further than to the line that tells.
    """

    def __init__(self, proc: Path = PROC) -> None:
        self._file: int | None = None
        self._enough = AT_ONCE
        with suppress(OSError):  # a kernel without it, or not for us
            self._file = os.open(proc / "timer_list", os.O_RDONLY | os.O_CLOEXEC)
            weakref.finalize(self, os.close, self._file)

    def ns(self) -> int | None:
        """Return how long it has idled, in ns; None where this kernel does not say."""
        if self._file is None:
            return None
        text, found = b"", None
        while found is None:
            part = os.pread(self._file, self._enough - len(text), len(text))
            if not part:
                return None
            text += part
            found = IDLE.search(text)
            if len(text) == self._enough and not found:  # a timer was added before it
                self._enough += AT_ONCE
        self._enough = found.end()
        return int(found[1]) or None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Do nothing more: the kernel takes the time for itself."""
        yield


# perf_event_open(2): a map is a page that tells how far it was written and read, then the records.
PAGES, HEAD, TAIL = 8, 1024, 1032
RECORD = struct.Struct("=IHHQ")
NUMBER = struct.Struct("=Q")
SAMPLE = 9
# The state that power:cpu_idle names when idling ends.
AWAKE = 0xFFFFFFFF


class _Log:
    """When a tracepoint is passed on the first CPU, ns of CLOCK_MONOTONIC each."""

    def __init__(self, root: Path, event: str, only: str = "") -> None:
        """Begin to write down.  Raises OSError."""
        number = int((root / "events" / event / "id").read_text())
        self.descriptor = raw.event_log(number, 0)
        weakref.finalize(self, os.close, self.descriptor)
        if only:
            raw.event_filter(self.descriptor, only)
        self._map = mmap.mmap(self.descriptor, (1 + PAGES) * mmap.PAGESIZE)

    def taken(self) -> list[int]:
        """Return what was written since the last time.  Raises OSError where some was lost."""
        (head,), (tail,) = (NUMBER.unpack_from(self._map, at) for at in (HEAD, TAIL))
        times = []
        while tail < head:
            # No record crosses the end: all are as long, and the pages hold a whole number.
            at = mmap.PAGESIZE + tail % (PAGES * mmap.PAGESIZE)
            kind, _, size, ns = RECORD.unpack_from(self._map, at)
            if kind != SAMPLE or size != RECORD.size:
                raise OSError(0, "records of the kernel's idling were lost")
            times.append(ns)
            tail += size
        NUMBER.pack_into(self._map, TAIL, tail)
        return times


class IdleEvents:
    """How long the first CPU has idled, by tracepoints.

    It idles from power:cpu_idle to the next interrupt of its timer, while it is watched, else to
    where it is awake again, interrupts included.
    """

    def __init__(self, root: Path) -> None:
        """Begin to watch.  Raises OSError where the kernel has no such events for us."""
        self._idle = 0
        self._begins = _Log(root, "power/cpu_idle", f"state != {AWAKE}")
        self._ends = _Log(root, "power/cpu_idle", f"state == {AWAKE}")
        self._timer = _Log(root, "irq_vectors/local_timer_entry")
        for log in (self._begins, self._ends):
            raw.event_switch(log.descriptor, True)

    def ns(self) -> int | None:
        """Return how long it has idled since it was made, in ns; None where records were lost."""
        try:
            begins, ends, timer = (log.taken() for log in (self._begins, self._ends, self._timer))
        except OSError:
            return None
        wakes = sorted([*ends, *timer])
        for begin in begins:
            at = bisect_right(wakes, begin)
            if at < len(wakes):
                self._idle += wakes[at] - begin
        return self._idle

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Tell the timer's interrupts from idling: not always, as a guest has such, too."""
        raw.event_switch(self._timer.descriptor, True)
        try:
            yield
        finally:
            raw.event_switch(self._timer.descriptor, False)


def idle_time(proc: Path = PROC) -> TimerList | IdleEvents | None:
    """Return what tells how long the first CPU has idled, None where nothing does, for us."""
    by_file = TimerList(proc)
    if by_file.ns() is not None:
        return by_file
    root = tracing()
    with suppress(OSError):
        return IdleEvents(root) if root else None
    return None
