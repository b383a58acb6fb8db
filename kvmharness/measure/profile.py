"""`kvmharness perf`: which kernel symbols one op spends its time in, net of `empty`."""

from __future__ import annotations

import math

import msgspec

from kvmharness.counters.calls import NAME as CALLS
from kvmharness.counters.calls import Calls, pair
from kvmharness.counters.perf import PerfSource
from kvmharness.counters.profile import CLOCKS, KvmStat, Profile, clock
from kvmharness.counters.tracefs import Instance
from kvmharness.errors import Unavailable
from kvmharness.guest.vm import MAX_ITERATIONS
from kvmharness.kvm.fds import System
from kvmharness.measure.take import Taken, take
from kvmharness.model.cases import Case, select
from kvmharness.model.run import Sampled, Settings

# Off the round numbers, so that sampling does not beat with the kernel's own timers.
FREQUENCY_HZ = 4999
WARM_UP_MS = 20.0
# Every call is written down, by the thousand an op where roots are rebuilt.
TRACED_OPS = 20


def settings(seconds: float, cpu: int | None) -> Settings:
    """Return how to profile about `seconds` on `cpu`: one VM, one long sample."""
    return Settings(
        vms=1,
        samples_per_vm=1,
        target_ms=seconds * 1000,
        iterations=None,
        cpu=cpu,
        precision=math.inf,
        timeout_s=10 * seconds + 10,
    )


def _take(system: System, case: Case, wanted: Settings, source: PerfSource) -> Taken:
    """Measure one sample of about the target with `source` attached.  Raises Unavailable."""
    short = msgspec.structs.replace(wanted, target_ms=WARM_UP_MS)
    few = take(system, case, short, samples=1).iterations
    iterations = min(max(1, round(few * wanted.target_ms / WARM_UP_MS)), MAX_ITERATIONS)
    taken = take(
        system, case, wanted, samples=1, iterations=iterations, warm_up=few, sources=[source]
    )
    if source.failure:
        raise Unavailable(f"perf {case.name}: {source.failure}")
    return taken


def profile(
    system: System, case: Case, wanted: Settings
) -> tuple[tuple[str, Sampled, Sampled | None], bytes]:
    """Sample the kernel during the case and during its `empty`, the target's time each.

    Returns the unit ("cycles" or "ns"), the case, and its `empty` (None for `empty` itself);
    and perf.data of the case.  Raises Unavailable where perf cannot.
    """
    event = clock()
    unit = CLOCKS[event]
    source = Profile(event, FREQUENCY_HZ)
    taken = _take(system, case, wanted, source)
    if not taken.counts:
        raise Unavailable(f"perf {case.name}: no sample fell into the kernel; raise --seconds")
    sampled = Sampled(case.name, taken.counts, taken.ops)
    if case.name == case.baseline:
        return (unit, sampled, None), source.data
    (baseline,) = select([case.baseline])
    empty = _take(system, baseline, wanted, Profile(event, FREQUENCY_HZ))
    return (unit, sampled, Sampled(baseline.name, empty.counts, empty.ops)), source.data


def calls(system: System, case: Case, wanted: Settings) -> tuple[dict[tuple[str, str], int], int]:
    """Count the kernel functions that a few ops of the case call, by function and caller.

    Returns the counts and how many ops there were.  Raises Unavailable where ftrace cannot.
    """
    with Instance() as instance:
        source = Calls(instance)
        taken = take(system, case, wanted, samples=1, iterations=TRACED_OPS, sources=[source])
    if source.absent:
        raise Unavailable(f"calls of {case.name}: {source.absent[CALLS]}")
    return {pair(name): count for name, count in taken.counts.items()}, taken.ops


def kvm_stat(system: System, case: Case, module: str | None, wanted: Settings) -> str:
    """Return perf's own `kvm stat` report of a short measurement of the case.

    Raises Unavailable where the vendor module is none that perf knows.
    """
    if module not in {"kvm_intel", "kvm_amd"}:
        raise Unavailable(
            f"perf kvm stat: perf knows the exits of kvm_intel and kvm_amd, not of {module}; "
            "leave --kvm-stat out"
        )
    source = KvmStat()
    _take(system, case, msgspec.structs.replace(wanted, target_ms=WARM_UP_MS), source)
    return source.report
