"""The one measuring step: a fresh VM, proved, calibrated, warmed up, then measured.

Timing, counting and profiling all go through take(), so that pinning, warm-up and limits are
the same for each.  Light on purpose: this runs inside a booted kernel under test.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from kvmharness.counters.deferred import DeferredWork
from kvmharness.counters.source import Source
from kvmharness.counters.trace_label import TraceLabel
from kvmharness.errors import UsageError
from kvmharness.guest.vm import MAX_ITERATIONS, PROOF_ITERATIONS, GuestVm, Proof
from kvmharness.kvm import raw
from kvmharness.kvm.fds import System
from kvmharness.measure import disturbance, priority
from kvmharness.measure.timed import Samples, timed
from kvmharness.model.cases import Case
from kvmharness.model.run import Disturbance, Settings

# Calibration starts here and multiplies until a sample is long enough to extrapolate.
FIRST_ITERATIONS = 16
GROWTH = 16
# So long, entering and leaving the guest is no matter.
ESTIMATED_MS = 1.0
# Calibration takes so many samples at once.
TRIES = 5
# Samples that are counted beside those that are timed.
COUNTED = 2
# How often the fixed loop runs on each side of a VM's samples: an odd number has a median.
PACES = 9
# Before any thread is pinned.
ALLOWED_CPUS = frozenset(os.sched_getaffinity(0))

Opener = Callable[[System, Case, Settings], GuestVm]


@dataclass(frozen=True)
class Ended:
    """What it took to destroy a VM after `ops` ops, with all that this left to be done, in ns."""

    ops: int
    ns: int


@dataclass(frozen=True)
class Taken:
    """What one VM gave.

    `ticks` holds each sample's length in ticks of a TSC of `tsc_khz` kHz, vCPU by vCPU, and
    `preempted` beside it how often another task took the CPU; `counts` and `absent` are the
    sources', over `ops` ops; `proof` is what the W^X proof showed, None where the guest cannot
    prove.  `deferred` holds the ns per op that the kernel worked later, a value each time that it
    was waited for.  `ended` is how the VM was destroyed, None where that is not told.  `pace` is
    how many ticks of the TSC a fixed loop took the CPU around the samples, None where nobody asked.
    """

    iterations: int
    vcpus: int
    tsc_khz: int | None
    ticks: list[int]
    counts: dict[str, int]
    ops: int
    absent: dict[str, str]
    proof: Proof | None
    disturbed: Disturbance
    deferred: list[float]
    preempted: list[int]
    ended: Ended | None
    pace: float | None = None


def open_guest(system: System, case: Case, settings: Settings) -> GuestVm:
    """Create the VM that a case describes, its vCPUs' threads on the CPUs after `cpu`."""
    cpus: list[int] = []
    if settings.cpu is not None and case["vcpus"] > 1:
        others = sorted(ALLOWED_CPUS - {settings.cpu}, reverse=True)
        cpus = [settings.cpu, *others]
    # No more ops than a sample has, where somebody chose few: they may be dear.
    proof_iterations = min(PROOF_ITERATIONS, (settings.iterations or PROOF_ITERATIONS) | 1)
    return GuestVm(
        system,
        case,
        timeout_s=settings.timeout_s,
        cpus=cpus,
        proof_iterations=proof_iterations,
        force_emulation=settings.force_emulation,
    )


@contextmanager
def pinned(cpu: int | None) -> Iterator[None]:
    """Run this thread on `cpu` only (None: leave it alone) and put it back afterwards."""
    before = os.sched_getaffinity(0)
    if cpu is not None:
        try:
            os.sched_setaffinity(0, {cpu})
        except (OSError, ValueError, OverflowError) as error:
            allowed = ", ".join(map(str, sorted(before)))
            raise UsageError(f"--pin {cpu}: {error}; this process may use {allowed}") from None
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _estimate_khz(guest: GuestVm) -> float:
    """Tell the TSC's frequency by our own clock: good enough for a sample's length, no figure."""
    iterations = FIRST_ITERATIONS
    while True:
        begin = time.monotonic_ns()
        ticks = guest.measure(iterations, 1).ticks[0]
        ms = (time.monotonic_ns() - begin) / 1e6
        if ms >= ESTIMATED_MS or iterations == MAX_ITERATIONS:
            return max(ticks / ms, 1.0)
        iterations = min(iterations * GROWTH, MAX_ITERATIONS)


def calibrate(guest: GuestVm, target_ms: float) -> int:
    """Return the iterations that make one sample last about `target_ms` milliseconds.

    Of several samples the shortest counts: whatever comes between only makes them longer.
    """
    target = target_ms * (guest.tsc_khz or _estimate_khz(guest))
    iterations = FIRST_ITERATIONS
    while True:
        ticks = max(min(guest.measure(iterations, TRIES).ticks), 1)
        if ticks * 2 >= target or iterations == MAX_ITERATIONS:
            return max(1, min(round(iterations * target / ticks), MAX_ITERATIONS))
        # Far off, a short sample says little: grow towards the target, never past twice it.
        step = min(GROWTH, target / ticks)
        iterations = min(max(round(iterations * step), iterations + 1), MAX_ITERATIONS)


def _ended(guest: GuestVm, later: DeferredWork) -> Ended:
    """Destroy a VM.  `later` tells all that the kernel does, or nobody knew what that takes."""
    later.settle()
    _, work = later.of(guest.close)
    return Ended(guest.ops, work.worked + work.own)


def short_life(
    system: System, case: Case, settings: Settings, later: DeferredWork, opener: Opener = open_guest
) -> Ended:
    """Destroy a VM that has proved W^X and run one op more: what the end of any VM takes.

    For who tells all that the kernel does (`later`).  Raises what take() raises.
    """
    with pinned(settings.cpu), opener(system, case, settings) as guest:
        guest.prove()
        guest.measure(1, 1)
        return _ended(guest, later)


@dataclass(frozen=True)
class _Counted:
    """Counts of events over `ops` ops."""

    counts: dict[str, int]
    ops: int


def _counted(
    guest: GuestVm, ops: int, samples: int, sources: Sequence[Source], net: bool
) -> _Counted:
    """Count `samples` samples of `ops` ops, net of as many of a single op where that can be had.

    No vCPU waits for the others: whoever spins for the late ones would be counted too.
    """
    counts = guest.measure(ops, samples, sources, meet=False).counts
    total = ops * samples * len(guest.vcpus)
    if not net or ops == 1:
        return _Counted(counts, total)
    single = guest.measure(1, samples, sources, meet=False).counts
    more = {name: count - single.get(name, 0) for name, count in counts.items()}
    return _Counted(more, total - samples * len(guest.vcpus))


def _pace(wanted: bool) -> list[int]:
    """Return the present pace of the CPU that this thread is on, nothing where none is wanted."""
    return [sorted(raw.pace() for _ in range(PACES))[PACES // 2]] if wanted else []


def take(
    system: System,
    case: Case,
    settings: Settings,
    *,
    samples: int,
    iterations: int | None = None,
    warm_up: int | None = None,
    sources: Sequence[Source] = (),
    mark: TraceLabel | None = None,
    later: DeferredWork | None = None,
    paced: bool = False,
    opener: Opener = open_guest,
) -> Taken:
    """Measure a case in a fresh VM on the CPU of the settings, and let go of it and the sources.

    Without `iterations` they are the settings', or calibrated.  `warm_up` is how many ops run
    before the samples, one sample's without it.  `later` reads the work that was deferred,
    and times; `mark` tells who listens that timed samples come, and with `paced` the CPU's own pace
    is taken beside them.
    Raises what GuestVm raises, and UsageError for a CPU that this process may not use.
    """
    with pinned(settings.cpu), opener(system, case, settings) as guest:
        proof = guest.prove()
        ops = iterations or settings.iterations or calibrate(guest, settings.target_ms)
        guest.measure(warm_up or ops, 1)
        try:
            for source in sources:
                source.attach(guest)
            before = disturbance.so_far(settings.cpu)
            each = settings.samples_per_doorbell or samples
            taken, paces = Samples(1), list[int]()
            if later:
                with priority.raised(settings.priority, guest.thread_ids):
                    paces += _pace(paced)
                    taken = timed(guest, ops, samples, each, mark, later)
                    paces += _pace(paced)
            disturbed = disturbance.between(before, disturbance.so_far(settings.cpu))
            number = min(samples, COUNTED) if later else samples
            counted = _counted(guest, ops, number, sources, net=later is not None)
        finally:
            for source in sources:
                source.close()
        absent = {name: reason for s in sources for name, reason in s.absent.items()}
        return Taken(
            iterations=ops,
            vcpus=len(guest.vcpus),
            tsc_khz=guest.tsc_khz,
            ticks=taken.ticks,
            counts=counted.counts,
            ops=counted.ops,
            absent=absent,
            proof=proof,
            disturbed=disturbed,
            deferred=taken.deferred,
            preempted=taken.preempted,
            pace=sum(paces) / len(paces) if paces else None,
            ended=_ended(guest, later) if taken.deferred and later and later.tells_all else None,
        )
