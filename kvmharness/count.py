"""The counting passes: the same cases again, with perf attached and no clock read.

Tracing perturbs, so nothing here goes into a time.  Three passes a case, each on a VM of its
own: tracepoints, hardware counters, KVM's functions; then exits by reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager

from kvmharness.cases import Case
from kvmharness.counters import events, perf
from kvmharness.counters.functions import Probes
from kvmharness.counters.perf import PerfError, PerfStat
from kvmharness.counters.reasons import MOST_OPS, ExitReasons
from kvmharness.errors import GuestError, Infeasible, KvmError, KvmIncorrect
from kvmharness.kvm import System
from kvmharness.machine import Machine
from kvmharness.measure import Opener, open_machine
from kvmharness.results import CaseResult, Settings, condemn, per_op

SAMPLES = 2


class Counting:
    """What can be counted on this kernel; probes stand until it is closed.

    `absent` names what no case will have, with the reason.
    """

    def __init__(self, system: System, settings: Settings, opener: Opener = open_machine) -> None:
        self._system = system
        self._settings = settings
        self._opener = opener
        self._stack = ExitStack()
        self._passes: list[list[perf.Event]] = []
        self.absent: dict[str, str] = {}
        try:
            perf.probe()
        except PerfError as error:
            names = [event.name for event in (*events.TRACEPOINTS, *events.HARDWARE)]
            functions = [events.FUNCTION_PREFIX + name for name in events.FUNCTIONS]
            self.absent = dict.fromkeys([*names, *functions], str(error))
            return
        tracepoints, self.absent = events.present()
        probes = self._stack.enter_context(Probes())
        self.absent.update(probes.absent)
        for wanted in (tracepoints, list(events.HARDWARE), probes.events):
            self._add_pass(wanted)

    def _add_pass(self, wanted: list[perf.Event]) -> None:
        """Plan a pass for those of the events that perf can count here."""
        if not wanted:
            return
        stat = perf.tried(wanted)
        if stat.failure:
            self.absent.update((event.name, stat.failure) for event in wanted)
            return
        self.absent.update(stat.absent)
        able = [event for event in wanted if event.name not in stat.absent]
        if able:
            self._passes.append(able)

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
            self._warm(case, iterations) as machine,
            closing(PerfStat(wanted, threads=machine.thread_ids)) as stat,
        ):
            measured = machine.measure(iterations, SAMPLES, [stat])
            ops = iterations * len(measured.ticks)
            result.counters.update(per_op(measured.counts, ops))
            result.absent.update(stat.absent)
            if stat.failure:
                result.absent.update((event.name, stat.failure) for event in wanted)

    def _add_reasons(self, case: Case, result: CaseResult) -> None:
        iterations = min(result.iterations or 1, MOST_OPS)
        with (
            self._warm(case, iterations) as machine,
            closing(ExitReasons(machine.thread_ids)) as reasons,
        ):
            measured = machine.measure(iterations, 1, [reasons])
            result.exit_reasons = per_op(measured.counts, iterations * len(measured.ticks))
            if reasons.failure:
                result.absent["exit_reasons"] = reasons.failure

    @contextmanager
    def _warm(self, case: Case, iterations: int) -> Iterator[Machine]:
        """Open a VM for the case that has run it before."""
        with self._opener(self._system, case, self._settings) as machine:
            machine.measure(min(iterations, MOST_OPS), 1)
            yield machine

    def close(self) -> None:
        """Remove the probes."""
        self._stack.close()


