"""Time cases: fresh VMs in rounds that interleave, and every sample kept.

Light on purpose: this runs inside a booted kernel under test, so it imports no statistics and
prints nothing.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from kvmharness.counters.deferred import DeferredWork
from kvmharness.counters.kvmstats import KvmStats
from kvmharness.counters.trace_label import TraceLabel
from kvmharness.errors import GuestError, Infeasible, KvmError, KvmIncorrect
from kvmharness.kvm.fds import System
from kvmharness.measure import disturbance
from kvmharness.measure.feasible import limits, why_infeasible
from kvmharness.measure.host import vendor_module
from kvmharness.measure.take import Ended, Opener, Taken, open_guest, short_life, take
from kvmharness.model import tracing
from kvmharness.model.cases import Case
from kvmharness.model.clocks import UNITS, Clock
from kvmharness.model.run import DEFERRED, PROOF_PREFIX, CaseResult, Settings, per_op

# Returns the CPUs of other runs under way, None for a run that has none of its own.
Others = Callable[[], Sequence[int | None]]


@dataclass(frozen=True)
class Turn:
    """One VM's worth of one case is done: round and case number, from 1, of how many."""

    round: int
    rounds: int
    case: int
    cases: int
    result: CaseResult


@dataclass
class _Account:
    """A case under way, the session's `number`th: its result so far and the counts behind it.

    `ended` is how a VM of it ends that had next to no ops; what more a VM's end takes is theirs.
    """

    number: int
    case: Case
    result: CaseResult
    ops: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    ended: Ended | None = None

    @property
    def open(self) -> bool:
        """Whether it can still be measured."""
        result = self.result
        return not (result.skipped or result.failed or result.incorrect)

    def add(self, taken: Taken, vm: int) -> None:
        """Add what VM number `vm` gave."""
        result = self.result
        result.iterations = result.iterations or taken.iterations
        if taken.proof is not None:
            proved = result.proof or {}
            tried = taken.proof.attempts
            result.proof = proved | {path: proved.get(path, 0) + n for path, n in tried.items()}
            reasons = taken.proof.absent.items()
            result.absent.update((PROOF_PREFIX + name, reason) for name, reason in reasons)
        result.absent.update(taken.absent)
        result.disturbed = disturbance.total(result.disturbed, taken.disturbed)
        per_tick = 1.0  # a machine that counts instructions has them for ticks
        if result.unit == UNITS["tsc"]:
            if taken.tsc_khz is None:
                raise KvmError("KVM_GET_TSC_KHZ", errno.EIO, "it told the frequency before")
            result.tsc_khz = taken.tsc_khz
            per_tick = 1e6 / taken.tsc_khz
        result.samples += [round(t * per_tick / taken.iterations, 4) for t in taken.ticks]
        result.vms += [vm] * len(taken.ticks)
        result.preempted += taken.preempted
        result.paces += [] if taken.pace is None else [round(taken.pace, 1)]
        if taken.vcpus > 1:
            each = len(taken.ticks) // taken.vcpus
            result.vcpus += [number for number in range(taken.vcpus) for _ in range(each)]
        end = ended_per_op(self.ended, taken.ended)
        result.deferred_samples += [round(ns + end, 4) for ns in taken.deferred]
        result.deferred_vms += [vm] * len(taken.deferred)
        self.ops += taken.ops
        for name, count in taken.counts.items():
            self.counts[name] = self.counts.get(name, 0) + count
        result.counters = dict(per_op(self.counts, self.ops))


def ended_per_op(short: Ended | None, ended: Ended | None) -> float:
    """Return what the end of a VM took for each of its ops, in ns; 0 where that is not told."""
    if short is None or ended is None or ended.ops <= short.ops:
        return 0.0
    return (ended.ns - short.ns) / (ended.ops - short.ops)


# Samples of one length may meet the same part of every tick, or of a neighbour's time slice: where
# they are calibrated, each VM's have another length, the first one's the calibrated one.
LENGTHS = (1.0, 0.83, 1.17, 0.91, 1.09)


def _nobody() -> Sequence[int | None]:
    return ()


class Session:
    """Cases being measured; `results` is theirs, in the order given, always up to date.

    A guest or an ioctl that fails ends its own case only: the reason stands in `failed`.
    Unless they are to be `traced`, a lab that traces hears nothing of the samples.
    """

    def __init__(
        self,
        system: System,
        cases: Sequence[Case],
        settings: Settings,
        opener: Opener = open_guest,
        clock: Clock = "tsc",
        others: Others = _nobody,
        traced: bool = True,
    ) -> None:
        self._system = system
        self._traced = traced
        self._others = others
        self._settings = settings
        self._opener = opener
        self._later = DeferredWork()
        # An emulated machine's clocks go on by one for each instruction.
        self._later.tick_ns = 1.0 if clock == "insn" else None
        self._paced = clock != "insn"
        if clock == "ticks":
            self._later.absent = (
                "ns of the kernel's clock are no ticks of a TSC without a frequency"
            )
        here = limits(system, vendor_module())
        self._accounts = [
            _Account(
                number,
                case,
                CaseResult(
                    case.name,
                    case.mode,
                    case.op,
                    dict(case.params),
                    unit=UNITS[clock],
                    skipped=why_infeasible(case, here),
                ),
            )
            for number, case in enumerate(cases)
        ]
        self._rounds = 0

    @property
    def measured(self) -> list[tuple[Case, CaseResult]]:
        """The cases that have samples, with their results."""
        return [(a.case, a.result) for a in self._accounts if a.result.samples]

    @property
    def results(self) -> list[CaseResult]:
        return [account.result for account in self._accounts]

    def measure(self, rounds: int, names: set[str] | None = None) -> Iterator[Turn]:
        """Give each case (of those in `names`) a fresh VM a round; yield after each.

        Every round begins with another case, so that drift hits all alike.
        """
        chosen = [a for a in self._accounts if names is None or a.case.name in names]
        last = self._rounds + rounds
        while self._rounds < last:
            turn = self._rounds % len(chosen)
            for number, account in enumerate(chosen[turn:] + chosen[:turn], 1):
                if account.open:
                    self._measure_one(account)
                yield Turn(self._rounds + 1, last, number, len(chosen), account.result)
            self._rounds += 1

    def _measure_one(self, account: _Account) -> None:
        settings, result = self._settings, account.result
        label = tracing.label(account.number, self._rounds)
        try:
            if account.ended is None and self._later.tells_all:
                account.ended = short_life(
                    self._system, account.case, settings, self._later, self._opener
                )
            taken = take(
                self._system,
                account.case,
                settings,
                samples=settings.samples_per_vm,
                iterations=self._iterations(result),
                sources=[KvmStats()],
                mark=TraceLabel(label) if self._traced else None,
                later=self._later,
                paced=self._paced,
                opener=self._opener,
            )
            account.add(taken, self._rounds)
            self._note_deferred(result)
            self._note_others(result)
        except Infeasible as error:
            result.skipped = str(error)
        except KvmIncorrect as error:
            result.discard(str(error))
        except (GuestError, KvmError) as error:
            result.failed = str(error)

    def _iterations(self, result: CaseResult) -> int | None:
        """Return the ops of this round's samples, None where they are still to be calibrated."""
        if result.iterations is None or self._settings.iterations is not None:
            return result.iterations
        return max(1, round(result.iterations * LENGTHS[self._rounds % len(LENGTHS)]))

    def _note_others(self, result: CaseResult) -> None:
        """Note the runs that were under way beside this one."""
        cpus = self._others()
        seen = result.disturbed
        seen.other_runs = max(seen.other_runs, len(cpus))
        seen.same_cpu |= any(cpu in (None, self._settings.cpu) for cpu in cpus)

    def _note_deferred(self, result: CaseResult) -> None:
        """Say by what the work that was deferred was read, or why there is none."""
        result.deferred_by = None if self._later.absent else self._later.by
        if self._later.absent:
            result.absent[DEFERRED] = self._later.absent
        elif not result.deferred_samples:
            result.absent[DEFERRED] = "one op a sample has nothing to be held against"
