"""The counting passes: the same cases again, with perf attached and no clock read.

Tracing perturbs, so nothing here goes into a time.  Three passes a case, each on a VM of its
own: tracepoints and hardware counters, KVM's functions, exits by reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager

from kvmharness.cases import Case
from kvmharness.counters import events, perf
from kvmharness.counters.functions import Probes
from kvmharness.counters.perf import PerfError, PerfStat
from kvmharness.counters.reasons import MOST_OPS, ExitReasons
from kvmharness.errors import GuestError, KvmError, KvmIncorrect
from kvmharness.kvm import System
from kvmharness.machine import Machine
from kvmharness.measure import Opener, open_machine
from kvmharness.results import CaseResult, Settings, per_op

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
        self._events: list[perf.Event] = []
        self._functions: list[perf.Event] = []
        self.absent: dict[str, str] = {}
        try:
            perf.probe()
        except PerfError as error:
            names = [event.name for event in (*events.TRACEPOINTS, *events.HARDWARE)]
            functions = [events.FUNCTION_PREFIX + name for name in events.FUNCTIONS]
            self.absent = dict.fromkeys([*names, *functions], str(error))
            return
        self._events, self.absent = events.present()
        probes = self._stack.enter_context(Probes())
        self._functions = probes.events
        self.absent.update(probes.absent)

    def count(self, case: Case, result: CaseResult) -> None:
        """Add to `result` what one op costs in events, functions and exits by reason."""
        result.absent.update(self.absent)
        try:
            if self._events:
                self._add(case, result, self._events)
            if self._functions:
                self._add(case, result, self._functions)
            if (result.counters.get("kvm:kvm_exit") or 0) * MOST_OPS >= 1:
                self._add_reasons(case, result)
        except (GuestError, KvmError, KvmIncorrect) as error:
            result.absent["perf"] = str(error)
        for name in result.absent:
            if name not in {"perf", "kvm.*"}:
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


