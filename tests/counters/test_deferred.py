"""Work that is left for later: read off a made-up /proc, and off this kernel's own."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from kvmharness.counters import deferred
from kvmharness.counters.deferred import DeferredWork, Reading, Work, between
from kvmharness.counters.idle import TimerList


def made_up(proc: Path, tasks: dict[int, tuple[int, int]]) -> Path:
    """Write tasks: pid to (flags, ns run)."""
    for pid, (flags, ran) in tasks.items():
        folder = proc / str(pid)
        folder.mkdir(exist_ok=True)
        (folder / "stat").write_text(f"{pid} (kworker/0:1) x) S 2 0 0 0 -1 {flags} 0 0\n")
        (folder / "schedstat").write_text(f"{ran} 5 7\n")
    return proc


KERNELS, OURS = deferred.PF_KTHREAD | 0x40, 0x400000


@pytest.fixture
def several_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)


@pytest.mark.usefixtures("several_cpus")
def test_only_the_kernels_own_threads_count(tmp_path: Path) -> None:
    work = DeferredWork(made_up(tmp_path, {7: (KERNELS, 100), 8: (OURS, 900)}))
    assert (work.absent, work.by) == (None, "threads")
    before = work.read()
    made_up(tmp_path, {7: (KERNELS, 350), 8: (OURS, 990), 9: (KERNELS, 30)})
    assert between(before, work.read()).worked == 280


@pytest.mark.usefixtures("several_cpus")
def test_where_no_thread_of_the_kernel_is_seen_the_reason_stands(tmp_path: Path) -> None:
    assert "no thread of the kernel can be seen" in (DeferredWork(tmp_path).absent or "")


def test_one_cpu_tells_all_that_it_did_but_for_idling_and_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    monkeypatch.setattr("time.process_time_ns", lambda: 40)
    now = iter([1000, 6000])
    monkeypatch.setattr("time.monotonic_ns", lambda: next(now))
    timers = tmp_path / "timer_list"
    timers.write_text("cpu: 0\n  .idle_sleeptime : 500 nsecs\n")
    work = DeferredWork(tmp_path)
    assert (work.absent, work.by) == (None, "cpu")
    before = work.read()
    timers.write_text("cpu: 0\n  .idle_sleeptime : 4500 nsecs\n")
    assert between(before, work.read()) == Work(1000, 5000)


def test_the_idle_time_is_found_wherever_it_lies_in_the_file(tmp_path: Path) -> None:
    timers = tmp_path / "timer_list"
    timers.write_text("cpu: 0\n  .idle_sleeptime : 999 nsecs\n  .later : 1 nsecs\n")
    idle = TimerList(tmp_path)
    assert idle.ns() == 999
    timers.write_text("cpu: 0\n  .idle_sleeptime : 1000 nsecs\n  .later : 1 nsecs\n")
    assert idle.ns() == 1000, "a digit more is not cut off"
    timers.write_text("cpu: 0\n #0: a timer\n  .idle_sleeptime : 12345 nsecs\n")
    assert idle.ns() == 12345
    timers.write_text("cpu: 0\n")
    assert idle.ns() is None
    assert TimerList(tmp_path / "none").ns() is None


def test_a_file_that_comes_in_pieces_is_read_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As /proc does: no piece is larger than a page, and the first may be one line."""
    timers = tmp_path / "timer_list"
    many = "".join(f" #{n}: <0>, hrtimer_wakeup, S:01\n" for n in range(2000))
    timers.write_text(f"cpu: 0\n{many}  .idle_sleeptime : 42 nsecs\n")
    real, pieces = os.pread, []

    def short(file: int, size: int, at: int) -> bytes:
        assert size > 0
        pieces.append(size)
        return real(file, min(size, 7 if at == 0 else 4096), at)

    monkeypatch.setattr("os.pread", short)
    idle = TimerList(tmp_path)
    assert [idle.ns(), idle.ns()] == [42, 42]
    timers.write_text("cpu: 0\n")
    assert idle.ns() is None


def test_a_kernel_that_no_longer_tells_its_idle_time_is_no_kernel_that_worked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    timers = tmp_path / "timer_list"
    timers.write_text("  .idle_sleeptime : 500 nsecs\n")
    work = DeferredWork(tmp_path)
    timers.write_text("cpu: 0\n")
    with pytest.raises(OSError, match="how long the CPU idled"):
        work.read()


def test_a_worker_that_ended_is_no_negative_work() -> None:
    assert between(Reading(0, {1: 50, 2: 10}), Reading(9, {2: 30})) == Work(20, 9)


class _Backlog(DeferredWork):
    """A kernel with work for some slices, told by what read() answers."""

    def __init__(self, busy: int) -> None:
        self.absent, self.by, self._idle = None, "cpu", None
        self.slept, self._busy = 0, busy

    def read(self) -> Reading:
        done = min(self.slept, self._busy) * int(deferred.SLICE_S * 1e9)
        return Reading(self.slept * int(deferred.SLICE_S * 1e9), {0: done})


@pytest.mark.parametrize(("busy", "slices"), [(0, 1), (3, 4)])
def test_it_waits_until_the_backlog_is_done(
    busy: int, slices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = _Backlog(busy)

    def sleep(_: float) -> None:
        work.slept += 1

    monkeypatch.setattr("time.sleep", sleep)
    number, last = work.settle()
    assert number == work.slept == slices
    assert last == work.read()
    _, done = work.of(lambda: None)
    _, alike = work.of(lambda: None, Work(0, 0, 1, 10))
    assert (done.slices, alike.slices) == (1, 10)


def test_this_kernel_is_read_or_says_why_not() -> None:
    work = DeferredWork()
    if work.absent:
        pytest.skip(work.absent)
    result, done = work.of(lambda: "given")
    assert result == "given"
    assert done.worked >= 0
    assert done.elapsed >= deferred.SLICE_S * 1e9
    assert work.read().at <= time.monotonic_ns()
