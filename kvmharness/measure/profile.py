"""`kvmharness perf`: which kernel symbols one op spends its time in, net of `empty`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from kvmharness.analysis.profile import Profiled, difference
from kvmharness.counters.perf import PerfSource
from kvmharness.counters.profile import CLOCKS, KvmStat, Profile, clock
from kvmharness.errors import Unavailable
from kvmharness.guest.vm import MAX_ITERATIONS, GuestVm
from kvmharness.kvm.fds import System
from kvmharness.measure.session import calibrate
from kvmharness.model.cases import Case, select

# Off the round numbers, so that sampling does not beat with the kernel's own timers.
FREQUENCY_HZ = 4999
WARM_UP_MS = 20.0


def _measure(
    system: System,
    case: Case,
    seconds: float,
    timeout_s: float,
    attach: Callable[[Sequence[int]], PerfSource],
) -> tuple[PerfSource, dict[str, int], int]:
    """Measure about `seconds` with what `attach` puts on the vCPUs' threads.

    Returns it, its counts and the ops of all vCPUs.
    """
    with GuestVm(system, case, timeout_s=timeout_s) as guest:
        short = calibrate(guest, WARM_UP_MS)
        iterations = min(max(1, round(short * seconds * 1000 / WARM_UP_MS)), MAX_ITERATIONS)
        with closing(attach(guest.thread_ids)) as source:
            measured = guest.measure(iterations, 1, [source])
    if source.failure:
        raise Unavailable(f"perf {case.name}: {source.failure}")
    return source, measured.counts, iterations * len(measured.ticks)


def profile(
    system: System, case: Case, seconds: float, timeout_s: float, keep: Path | None
) -> Profiled:
    """Sample the kernel during the case and during its `empty`, `seconds` each.

    perf.data of the case is copied to `keep`.  Raises Unavailable where perf cannot.
    """
    event = clock()
    _, counts, ops = _measure(
        system, case, seconds, timeout_s, lambda ids: Profile(event, FREQUENCY_HZ, ids, keep)
    )
    if not counts:
        raise Unavailable(f"perf {case.name}: no sample fell into the kernel; raise --seconds")
    unit = CLOCKS[event]
    if case.name == case.baseline:
        return Profiled(difference(counts, ops, {}, 0), unit, ops, None)
    (baseline,) = select([case.baseline])
    _, empty, empty_ops = _measure(
        system, baseline, seconds, timeout_s, lambda ids: Profile(event, FREQUENCY_HZ, ids)
    )
    return Profiled(difference(counts, ops, empty, empty_ops), unit, ops, baseline.name)


def kvm_stat(system: System, case: Case, module: str | None, timeout_s: float) -> str:
    """Return perf's own `kvm stat` report of a short measurement of the case.

    Raises Unavailable where the vendor module is none that perf knows.
    """
    if module not in {"kvm_intel", "kvm_amd"}:
        raise Unavailable(
            f"perf kvm stat: perf knows the exits of kvm_intel and kvm_amd, not of {module}; "
            "leave --kvm-stat out"
        )
    source, _, _ = _measure(system, case, WARM_UP_MS / 1000, timeout_s, KvmStat)
    assert isinstance(source, KvmStat)
    return source.report
