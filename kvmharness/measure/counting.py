"""The counting passes: the same cases again, with perf attached and no clock read.

Tracing perturbs, so nothing here goes into a time.  Two passes a case, each on a VM of its own:
tracepoints with KVM's functions, and hardware counters; then exits by reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager

from kvmharness.counters import events, perf
from kvmharness.counters.functions import Probes
from kvmharness.counters.perf import PerfError, PerfStat
from kvmharness.counters.reasons import MOST_OPS, ExitReasons
from kvmharness.errors import GuestError, Infeasible, KvmError, KvmIncorrect
from kvmharness.guest.vm import GuestVm
from kvmharness.kvm.fds import System
from kvmharness.measure.session import Opener, open_guest
from kvmharness.model.cases import Case
from kvmharness.model.counters import of
from kvmharness.model.run import CaseResult, Settings, condemn, per_op

SAMPLES = 2


class Counting:
    """What can be counted on this kernel; probes stand until it is closed.

    `absent` names what no case will have, with the reason.
    """

    def __init__(self, system: System, settings: Settings, opener: Opener = open_guest) -> None:
        self._system = system
        self._settings = settings
        self._opener = opener
        self._stack = ExitStack()
        self._reasons: ExitReasons | None = None
        self._passes: list[list[perf.Event]] = []
        self.absent: dict[str, str] = {}
        try:
            self._plan()
        except PerfError as error:
            names = [counter.name for counter in of("tracepoint", "hardware", "kprobe")]
            self.absent = dict.fromkeys(names, str(error))

    def _plan(self) -> None:
        """Find out what can be counted here.  Raises PerfError where nothing can."""
        if perf.tracing() is None:
            perf.probe()  # it mounts tracefs
        tracepoints, self.absent = events.present()
        probes = self._stack.enter_context(Probes())
        self.absent.update(probes.absent)
        able = self._able([tracepoints, probes.events, list(events.HARDWARE)])
        # Software events together, since each is counted whatever else is; hardware alone,
        # since cycles are not.
        self._passes = [wanted for wanted in ([*able[0], *able[1]], able[2]) if wanted]

    def _able(self, kinds: list[list[perf.Event]]) -> list[list[perf.Event]]:
        """Return those of each kind's events that perf can count here; the others are absent.

        Raises PerfError where it counts nothing at all.  All are tried at once, as a start of
        perf takes long where the CPU is emulated; where that fails, each kind apart.
        """
        everything = [event for wanted in kinds for event in wanted]
        stat = perf.tried(everything)
        if stat.failure is None:
            self.absent.update(stat.absent)
            return [[e for e in wanted if e.name not in stat.absent] for wanted in kinds]
        if len(kinds) == 1:
            self.absent.update((event.name, stat.failure) for event in everything)
            return [[]]
        perf.probe()
        return [self._able([wanted])[0] if wanted else [] for wanted in kinds]

    def count(self, case: Case, result: CaseResult) -> None:
        """Add to `result` what one op costs in events, functions and exits by reason."""
        result.absent.update(self.absent)
        try:
            for wanted in self._passes:
                self._add(case, result, wanted)
            if (result.counters.get("kvm:kvm_exit") or 0) * MOST_OPS >= 1:
                self._add_reasons(case, result)
        except KvmIncorrect as error:
            condemn(result, str(error))
            return
        except (GuestError, KvmError, Infeasible) as error:
            result.absent["perf"] = str(error)
        for name in result.absent:
            if name not in {"perf", "kvm.*", "exit_reasons"}:  # those are no counters
                result.counters.setdefault(name, None)

    def _add(self, case: Case, result: CaseResult, wanted: Sequence[perf.Event]) -> None:
        iterations = result.iterations or 1
        with (
            self._warm(case, iterations) as guest,
            closing(PerfStat(wanted, threads=guest.thread_ids)) as stat,
        ):
            measured = guest.measure(iterations, SAMPLES, [stat])
            ops = iterations * len(measured.ticks)
            result.counters.update(per_op(measured.counts, ops))
            result.absent.update(stat.absent)
            if stat.failure:
                result.absent.update((event.name, stat.failure) for event in wanted)

    def _add_reasons(self, case: Case, result: CaseResult) -> None:
        iterations = min(result.iterations or 1, MOST_OPS)
        if self._reasons is None:
            self._reasons = self._stack.enter_context(closing(ExitReasons()))
        reasons = self._reasons
        with self._warm(case, iterations) as guest:
            reasons.watch(guest.thread_ids)
            measured = guest.measure(iterations, 1, [reasons])
            result.exit_reasons = per_op(measured.counts, iterations * len(measured.ticks))
            if reasons.failure:
                result.absent["exit_reasons"] = reasons.failure

    @contextmanager
    def _warm(self, case: Case, iterations: int) -> Iterator[GuestVm]:
        """Open a VM for the case that has run it before."""
        with self._opener(self._system, case, self._settings) as guest:
            guest.measure(min(iterations, MOST_OPS), 1)
            yield guest

    def close(self) -> None:
        """Remove the probes."""
        self._stack.close()
