"""Timed samples, and what they leave to be done between the guest's stops.

Light on purpose: this runs inside a booted kernel under test.
"""

from __future__ import annotations

from functools import partial

from kvmharness.counters.deferred import DeferredWork, Work
from kvmharness.counters.trace_label import TraceLabel
from kvmharness.guest.vm import GuestVm, Measurement


class Samples:
    """Measurements of one VM put together; `deferred` in ns per op."""

    def __init__(self, vcpus: int) -> None:
        self._ticks: list[list[int]] = [[] for _ in range(vcpus)]
        self._preempted: list[list[int]] = [[] for _ in range(vcpus)]
        self.deferred: list[float] = []

    @property
    def ticks(self) -> list[int]:
        """Each sample's length, vCPU by vCPU."""
        return [tick for own in self._ticks for tick in own]

    @property
    def preempted(self) -> list[int]:
        """How often each sample was preempted, in the same order."""
        return [times for own in self._preempted for times in own]

    def add(self, measured: Measurement) -> None:
        """Add a measurement's samples."""
        each = len(measured.ticks) // len(self._ticks)
        for number, (ticks, preempted) in enumerate(zip(self._ticks, self._preempted, strict=True)):
            own = slice(number * each, (number + 1) * each)
            ticks.extend(measured.ticks[own])
            preempted.extend(measured.preempted[own])


def _settled(
    guest: GuestVm,
    ops: int,
    samples: int,
    mark: TraceLabel | None,
    later: DeferredWork,
    like: Work | None = None,
) -> tuple[Measurement, Work]:
    """Take samples, and have the work done that they leave for later; return both."""
    marks = [mark] if mark else []
    found = later.of(partial(guest.measure, ops, samples, marks), like)
    if mark:
        mark.settled()
    return found


def timed(
    guest: GuestVm,
    ops: int,
    samples: int,
    each: int,
    mark: TraceLabel | None,
    later: DeferredWork,
) -> Samples:
    """Time `samples` samples of `ops` ops, `each` of them between two doorbells.

    The work that they leave for later is done, and counted, before the next ones begin; so is
    that of as many samples of a single op, to be subtracted.  Where one CPU tells all that is
    whatever was done but the samples themselves: KVM may as well leave work to this thread's
    return from KVM_RUN.
    """
    taken = Samples(len(guest.vcpus))
    if later.absent or ops == 1:
        taken.add(guest.measure(ops, samples, [mark] if mark else []))
        if mark:
            mark.settled()
        return taken
    later.settle()
    for begin in range(0, samples, each):
        number = min(each, samples - begin)
        measured, work = _settled(guest, ops, number, mark, later)
        # As long a time of the kernel's own work, and as much of ours.
        ones, single = _settled(guest, 1, number, mark.single if mark else None, later, work)
        taken.add(measured)
        more = (ops - 1) * len(measured.ticks)
        left = _beside(work, measured, guest, later) - _beside(single, ones, guest, later)
        taken.deferred.append(left / more)
    return taken


def _beside(work: Work, measured: Measurement, guest: GuestVm, later: DeferredWork) -> float:
    """Return the ns that went into something else than a measurement's samples.

    Where several vCPUs share the CPU their samples hold each other's: the others' work alone.
    """
    if not later.tells_all or len(guest.vcpus) > 1:
        return work.worked
    tick_ns = later.tick_ns or 1e6 / (guest.tsc_khz or 1e6)
    return work.worked + work.own - sum(measured.ticks) * tick_ns
