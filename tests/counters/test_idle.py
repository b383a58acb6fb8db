"""How long a CPU has idled: by tracepoints as by the file that older kernels have."""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path

import pytest

from kvmharness.counters import idle, tracefs
from kvmharness.counters.idle import (
    HEAD,
    NUMBER,
    PAGES,
    RECORD,
    SAMPLE,
    TAIL,
    IdleEvents,
    TimerList,
)


@pytest.fixture
def events() -> IdleEvents:
    root = tracefs.tracing()
    if root is None:
        pytest.skip(tracefs.NOT_MOUNTED)
    try:
        return IdleEvents(root)
    except OSError as error:
        pytest.skip(f"no such events for this user: {error}")


@pytest.mark.kvm  # inside of a lab's kernel its one CPU idles indeed
def test_both_ways_tell_the_same(events: IdleEvents) -> None:
    by_file = TimerList()
    if by_file.ns() is None:
        pytest.skip("this kernel's /proc/timer_list does not say how long a CPU idled")

    def read() -> tuple[int, int, int]:
        both = by_file.ns(), events.ns()
        assert None not in both
        return both[0] or 0, both[1] or 0, time.monotonic_ns()

    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {0})  # which both tell of, and which does not idle while it is asked
    try:
        time.sleep(0.05)
        with events.watched():
            before = read()
            for _ in range(20):
                time.sleep(0.02)
            after = read()
    finally:
        os.sched_setaffinity(0, allowed)
    one, other, elapsed = (b - a for a, b in zip(before, after, strict=True))
    assert 0 <= other <= elapsed
    assert abs(one - other) < 0.05 * elapsed


def log_of(records: list[bytes], tail: int = 0) -> idle._Log:
    """Return a log whose map holds these records, the first at `tail`."""
    log = object.__new__(idle._Log)
    size = PAGES * mmap.PAGESIZE
    log._map = mmap.mmap(-1, mmap.PAGESIZE + size)
    at = tail
    for record in records:
        log._map[mmap.PAGESIZE + at % size : mmap.PAGESIZE + at % size + len(record)] = record
        at += len(record)
    NUMBER.pack_into(log._map, HEAD, at)
    NUMBER.pack_into(log._map, TAIL, tail)
    return log


def sample(ns: int) -> bytes:
    return RECORD.pack(SAMPLE, 0, RECORD.size, ns)


def test_a_log_is_read_on_where_it_was_left_and_around_its_end() -> None:
    log = log_of([sample(1), sample(2), sample(3)], tail=PAGES * mmap.PAGESIZE - RECORD.size)
    assert log.taken() == [1, 2, 3]
    assert log.taken() == []


def test_records_that_were_lost_are_no_idling() -> None:
    log = log_of([sample(1), RECORD.pack(2, 0, 24, 7) + bytes(8)])
    with pytest.raises(OSError, match="were lost"):
        log.taken()
    events = object.__new__(IdleEvents)
    events._idle, events._begins = 0, log
    events._ends = events._timer = log_of([])
    assert events.ns() is None


def test_idling_ends_at_the_first_of_what_ends_it() -> None:
    events = object.__new__(IdleEvents)
    events._idle = 0
    events._begins = log_of([sample(100), sample(300), sample(900)])
    events._ends = log_of([sample(160), sample(390)])
    events._timer = log_of([sample(50), sample(340)])
    # 100 to 160, 300 to 340; the third goes on.
    assert events.ns() == 100


def test_a_kernel_that_says_neither_is_not_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idle, "tracing", lambda: None)
    assert idle.idle_time(tmp_path) is None
    monkeypatch.setattr(idle, "tracing", lambda: tmp_path)
    assert idle.idle_time(tmp_path) is None
    (tmp_path / "timer_list").write_text("  .idle_sleeptime : 500 nsecs\n")
    assert isinstance(idle.idle_time(tmp_path), TimerList)
