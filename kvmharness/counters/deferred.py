"""What a guest makes the kernel do later: work that others do, once they are let to the CPU.

KVM may queue a part of what a toggle costs to a kworker, to RCU or to a timer: no time that the
guest takes holds it.  So the kernel is left alone after the guest has run, until it is quiet, and
what it did is read off.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from kvmharness.counters.idle import PROC, idle_time

T = TypeVar("T")
By = Literal["cpu", "threads"]

# Flag of a task in /proc/PID/stat (include/linux/sched.h): a thread of the kernel's own.
PF_KTHREAD = 0x00200000
FLAGS = 6  # which field of /proc/PID/stat, behind the name
# An RCU grace period takes some ticks of the kernel's timer, of 4 ms mostly.  No multiple of a
# tick: or the same part of every tick would be measured, that with the interrupt in it, say.
SLICE_S = 0.0413
# Quiet: at most this share of a slice went into work.
QUIET_SHARE = 0.005
# A host has work of its own all the time: it is subtracted, not waited for.
MOST_SLICES: Mapping[By, int] = {"cpu": 250, "threads": 5}


class Reading(NamedTuple):
    """The time, and how long each worker has worked so far, all in ns of the kernel's clock."""

    at: int
    worked: Mapping[int, int]


@dataclass(frozen=True)
class Work:
    """What was done later, and in which time: ns of the kernel's clock.

    `called` is the time before the wait began, `slices` how many the wait had.  `own` is what this
    process worked before the wait, where one CPU tells all: 0 elsewhere.
    """

    worked: int
    elapsed: int
    called: int = 0
    slices: int = 0
    own: int = 0


def between(before: Reading, after: Reading) -> Work:
    """Return the work between two readings; a worker that has ended meanwhile is lost."""
    worked = sum(max(ns - before.worked.get(worker, 0), 0) for worker, ns in after.worked.items())
    return Work(worked, after.at - before.at)


class DeferredWork:
    """Reads the work of others off this kernel.

    Where there is one CPU, as in a lab, it is all that this CPU did but for idling and running
    us, interrupts and soft interrupts included (`by` is "cpu").  Else it is the run time of the
    kernel's threads on all CPUs (`by` is "threads").  `absent` says why there is neither.
    `tick_ns` is how many ns of the kernel's clock a tick of the guest's TSC lasts, None where
    KVM_GET_TSC_KHZ tells it.
    """

    def __init__(self, proc: Path = PROC) -> None:
        self.tick_ns: float | None = None
        self.absent: str | None = None
        self.by: By = "threads"
        self._proc = proc
        self._kernels: dict[int, bool] = {}  # which tasks are the kernel's
        self._idle = idle_time(proc) if os.cpu_count() == 1 else None
        if self._idle:
            self.by = "cpu"
        else:
            self.absent = self._why_no_threads()

    def _why_no_threads(self) -> str | None:
        worked = self._threads()
        if not worked:
            return (
                "no thread of the kernel can be seen: run outside of a PID namespace, on a kernel "
                "with CONFIG_SCHED_INFO"
            )
        return None

    def _is_kernels(self, pid: int) -> bool:
        if pid not in self._kernels:
            behind_name = (self._proc / str(pid) / "stat").read_text().rpartition(")")[2]
            self._kernels[pid] = bool(int(behind_name.split()[FLAGS]) & PF_KTHREAD)
        return self._kernels[pid]

    def _threads(self) -> dict[int, int]:
        """Return how long each thread of the kernel has run."""
        worked = {}
        for name in os.listdir(self._proc):
            if name.isdigit():
                try:
                    if self._is_kernels(int(name)):
                        ran = (self._proc / name / "schedstat").read_text().split()[0]
                        worked[int(name)] = int(ran)
                except (OSError, IndexError, ValueError):  # it has ended, or says nothing
                    continue
        return worked

    def read(self) -> Reading:
        """Return how far the work has come."""
        if self._idle is None:
            return Reading(time.monotonic_ns(), self._threads())
        idle = self._idle.ns()
        if idle is None:
            raise OSError(errno.EIO, "it does not tell any more how long the CPU idled", "idle")
        at = time.monotonic_ns()
        return Reading(at, {0: at - idle - time.process_time_ns()})

    @property
    def tells_all(self) -> bool:
        """Whether it tells all that this kernel does, what it does for us included."""
        return self.absent is None and self.by == "cpu"

    def _own(self) -> int:
        return time.process_time_ns() if self.tells_all else 0

    def settle(self, least: int = 0, longer_ns: int = 0) -> tuple[int, Reading]:
        """Leave the CPU to others until they have done their work, or have enough of their own.

        It takes at least `least` slices, the first of which is `longer_ns` longer.  Returns how
        many it took, and what was read last.
        """
        with self._idle.watched() if self._idle else nullcontext():
            before, number = self.read(), 0
            while True:
                number += 1
                time.sleep(SLICE_S + (longer_ns / 1e9 if number == 1 else 0.0))
                now = self.read()
                work = between(before, now)
                quiet = work.worked <= QUIET_SHARE * work.elapsed or number >= MOST_SLICES[self.by]
                if quiet and number >= least:
                    return number, now
                before = now

    def of(self, call: Callable[[], T], like: Work | None = None) -> tuple[T, Work]:
        """Return what `call` gave, and the work of others until all of it was done.

        Call and wait take at least as long as those of `like` did, in as many slices.
        """
        before, own = self.read(), self._own()
        result = call()
        called, own = time.monotonic_ns() - before.at, self._own() - own
        longer = max(like.called - called, 0) if like else 0
        slices, after = self.settle(like.slices if like else 0, longer)
        work = between(before, after)
        return result, Work(work.worked, work.elapsed, called, slices, own)
