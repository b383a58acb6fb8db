"""What this host's figures can be trusted for: hostile guests, the W^X proof, known answers.

A known answer is one that no kernel may change: `pio` leaves to user space once an op, an op costs
the same in a long sample as in a short one, and no sample lasts longer than it took.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

from kvmharness.counters.kvmstats import KvmStats
from kvmharness.counters.perf import PerfError
from kvmharness.counters.perfstat import Event, PerfStat
from kvmharness.errors import GuestError, Infeasible, KvmError, KvmIncorrect
from kvmharness.guest.hostile import HOSTILE, provoke
from kvmharness.guest.vm import GuestVm
from kvmharness.kvm.fds import System
from kvmharness.measure.feasible import limits, why_infeasible
from kvmharness.measure.host import vendor_module
from kvmharness.measure.take import calibrate
from kvmharness.model.cases import PAGED, Case
from kvmharness.model.counters import KVM_PREFIX

LIMIT_S = 0.1
OPS = 1000
SHORT_MS = 0.1
LONGER = 10
# By how much samples LONGER times as long may differ: what is left is the machine's.
AGREE = 0.1
SAMPLES = 20
# Interrupts end a guest's run, too, and go to no user space.
INTERRUPTS = 20
LOOP, PIO = Case("long64", "empty"), Case("long64", "pio")
STATISTIC = f"{KVM_PREFIX}exits"
TRACEPOINT = "kvm:kvm_userspace_exit"


@dataclass(frozen=True)
class Tested:
    """What came of one test; `vouches` says what figures can be trusted for where it is `ok`.

    `incorrect`: it is KVM that did wrong.
    """

    vouches: str
    ok: bool
    seen: str
    incorrect: bool = False


def _hostile(system: System) -> str:
    wrong = []
    for hostile in HOSTILE:
        reason = provoke(system, hostile, LIMIT_S)
        if not reason.startswith(hostile.ends):
            wrong.append(f"{hostile.name}: {reason or 'taken for a good one'}")
    if wrong:
        raise GuestError("; ".join(wrong), None)
    return f"{len(HOSTILE)} hostile guests ended within {LIMIT_S:g} s each, by the right error"


def _proof(system: System) -> str:
    here = limits(system, vendor_module())
    cases = [Case(mode, op) for mode in PAGED for op in ("cr0_wp", "wx")]
    able = [case for case in cases if why_infeasible(case, here) is None]
    attempts = 0
    for case in able:
        with GuestVm(system, case) as guest:
            proof = guest.prove()
            attempts += sum(proof.attempts.values()) if proof else 0
    if not attempts:
        raise Infeasible("no guest that pages can be measured here")
    modes = ", ".join(dict.fromkeys(case.mode for case in able))
    return f"{attempts} accesses with CR0.WP set and clear went right ({modes})"


def _linear(system: System) -> str:
    with GuestVm(system, LOOP) as guest:
        ops = calibrate(guest, SHORT_MS)
        short = min(guest.measure(ops, SAMPLES).ticks)
        begun = time.monotonic_ns()
        ticks = guest.measure(LONGER * ops, SAMPLES).ticks
        ms = (time.monotonic_ns() - begun) / 1e6
        khz = guest.tsc_khz
    long = min(ticks) / LONGER
    if abs(long / short - 1) > AGREE:
        raise Infeasible(f"{ops} ops take {short:.0f} ticks in short samples, {long:.0f} in long")
    if khz is None:
        raise Infeasible("KVM does not tell the TSC's frequency: figures are ticks")
    if sum(ticks) / khz > ms * (1 + AGREE):
        raise Infeasible(f"samples of {sum(ticks) / khz:.1f} ms in {ms:.1f} ms by our own clock")
    return f"an op costs {long / ops:.3g} ticks, in long samples as in short ones; clocks agree"


def _once_an_op(system: System, source: KvmStats | PerfStat, name: str, more: int = 0) -> str:
    """Count what `pio` does once an op, and `more` at most that others do.

    Raises Infeasible where it is counted otherwise.
    """
    counts = []
    for ops in (1, OPS):
        with GuestVm(system, PIO) as guest, closing(source):
            guest.measure(1, 1)
            source.attach(guest)
            counts.append(guest.measure(ops, 1, [source]).counts.get(name))
    one, many = counts
    if one is None or many is None:
        raise Infeasible(next(iter(source.absent.values()), f"{name} is not counted here"))
    said = f"{name} counted {many - one} where {OPS - 1} exits to user space were"
    if not OPS - 1 <= many - one <= OPS - 1 + more:
        raise Infeasible(said)
    return said


def _statistics(system: System) -> str:
    return _once_an_op(system, KvmStats(), STATISTIC, INTERRUPTS)


def _tracepoints(system: System) -> str:
    return _once_an_op(system, PerfStat([Event(TRACEPOINT, TRACEPOINT)]), TRACEPOINT)


TESTS: dict[str, Callable[[System], str]] = {
    "ending guests that misbehave": _hostile,
    "W^X": _proof,
    "times": _linear,
    "KVM's statistics": _statistics,
    "tracepoints": _tracepoints,
}


def run(system: System) -> Iterator[Tested]:
    """Test one thing after the other, a few seconds in all."""
    for vouches, test in TESTS.items():
        try:
            yield Tested(vouches, True, test(system))
        except KvmIncorrect as error:
            yield Tested(vouches, False, str(error), incorrect=True)
        except (GuestError, KvmError, Infeasible, PerfError) as error:
            yield Tested(vouches, False, str(error))
