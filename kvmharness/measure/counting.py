"""The counting passes: the same cases again, with perf attached and no clock read.

Tracing perturbs, so nothing here goes into a time.  Each kind of count gets a pass of its own,
on a VM of its own: tracepoints with KVM's functions, and hardware counters; then exits by reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing

from kvmharness.counters import events, perf, trust
from kvmharness.counters.below import ABSENT as NONE_BELOW
from kvmharness.counters.below import EVENTS, REASONS, Below
from kvmharness.counters.functions import Probes
from kvmharness.counters.opened import OpenedEvents, Pool
from kvmharness.counters.perf import PerfError
from kvmharness.counters.perfstat import Event, PerfStat
from kvmharness.counters.reasons import MOST_OPS, WORK_ITEMS, ExitReasons, WorkItems
from kvmharness.counters.reasons import NAME as EXIT_REASONS
from kvmharness.counters.source import Source
from kvmharness.counters.tracefs import Instance, tracing
from kvmharness.errors import GuestError, Infeasible, KvmError, KvmIncorrect
from kvmharness.kvm.fds import System
from kvmharness.measure.host import vendor_module
from kvmharness.measure.take import Opener, Taken, open_guest, pinned, take
from kvmharness.model.cases import Case, select
from kvmharness.model.counters import KVM_PREFIX, of
from kvmharness.model.run import DEFERRED, PROOF_PREFIX, CaseResult, Settings, per_op

SAMPLES = 2
# What the level below counts, and over how many samples: more, as what this level itself does
# between the marks is divided by all their ops; few where each exit is a line of text.
BELOW = {EVENTS: 10, REASONS: 1}
# Of what is queued to kworkers, the functions are told apart.
QUEUED = "workqueue:workqueue_queue_work"
# Whose life every probe is tried on: it is given a paging mode, and proves W^X.
THROWN_AWAY = Case("long64", "empty")
# Why nothing was counted, beside the reasons for single counters.
PERF = "perf"
# Keys of `absent` that are no counters.
NO_COUNTERS = frozenset({PERF, EXIT_REASONS, WORK_ITEMS, f"{KVM_PREFIX}*", DEFERRED, NONE_BELOW})


CountEvents = Callable[[Sequence[Event]], PerfStat | OpenedEvents]


class Counting:
    """What can be counted on this kernel; probes stand until it is closed.

    `absent` names what no case will have, with the reason.  With `by_call` events are counted by
    the kernel's own call, and no perf is started.  With `below` the level below, a monitor of the
    lab's own, is asked what it counts.
    """

    def __init__(
        self,
        system: System,
        settings: Settings,
        opener: Opener = open_guest,
        *,
        by_call: bool = False,
        below: bool = False,
    ) -> None:
        self._system = system
        self._by_call = by_call
        self._count: CountEvents = PerfStat
        self._settings = settings
        self._opener = opener
        self._below = below
        self._stack = ExitStack()
        self._instance: Instance | None = None
        self._passes: list[list[Event]] = []
        self._around: dict[tuple[str, int], Taken] = {}
        self.absent: dict[str, str] = {}
        try:
            self._plan()
        except PerfError as error:
            names = [counter.name for counter in of("tracepoint", "hardware", "kprobe")]
            self.absent = dict.fromkeys(names, str(error))

    def _plan(self) -> None:
        """Find out what can be counted here.  Raises PerfError where nothing can."""
        if tracing() is None and not self._by_call:
            perf.probe()  # it mounts tracefs
        tracepoints, self.absent = events.present()
        probes = self._stack.enter_context(Probes())
        self.absent.update(probes.absent)
        if self._by_call:
            self._count = self._stack.enter_context(Pool()).source
        able = self._able([tracepoints, probes.events, list(events.HARDWARE)])
        # Software events together, since each is counted whatever else is; hardware alone,
        # since cycles are not.
        self._passes = [wanted for wanted in ([*able[0], *able[1]], able[2]) if wanted]

    def _able(self, kinds: list[list[Event]]) -> list[list[Event]]:
        """Return those of each kind's events that perf can count here; the others are absent.

        Raises PerfError where it counts nothing at all.  All are tried at once, as a start of
        perf takes long where the CPU is emulated; where that fails, each kind apart.
        """
        everything = [event for wanted in kinds for event in wanted]
        stat, doubts = self._tried(everything)
        if stat.failure is None:
            absent = doubts | stat.absent
            self.absent.update(absent)
            return [[e for e in wanted if e.name not in absent] for wanted in kinds]
        if len(kinds) == 1:
            self.absent.update(stat.absent)
            return [[]]
        perf.probe()
        return [self._able([wanted])[0] if wanted else [] for wanted in kinds]

    def _tried(self, wanted: list[Event]) -> tuple[PerfStat | OpenedEvents, dict[str, str]]:
        """Count the whole life of a VM; return what perf can count, and what cannot be trusted."""
        with closing(self._count(wanted)) as stat:
            stat.attach_to(())
            stat.begin()
            failed = self._throw_away()
            counts = stat.end()
        doubts = trust.silent(counts, vendor_module()) | trust.overtaken(counts)
        if failed:
            doubts = dict.fromkeys(doubts, f"not seen to fire where it must: {failed}")
        return stat, doubts

    def _throw_away(self) -> str | None:
        """Make a VM, run it and let go of it; return what failed, None where it did well."""
        try:
            with (
                pinned(self._settings.cpu),
                self._opener(self._system, THROWN_AWAY, self._settings) as guest,
            ):
                guest.measure(1, 1)
        except (GuestError, KvmError, KvmIncorrect, Infeasible) as error:
            return str(error)
        return None

    def count(self, case: Case, result: CaseResult) -> None:
        """Add to `result` what one op costs in events, functions and exits by reason."""
        result.absent.update(self.absent)
        try:
            for kind, samples in BELOW.items() if self._below else ():
                taken = self._take(case, result.iterations or 1, samples, Below(kind))
                result.counters.update(per_op(taken.counts, taken.ops))
                result.absent.update(taken.absent)
            for number, wanted in enumerate(self._passes):
                taken = self._take(case, result.iterations or 1, SAMPLES, self._count(wanted))
                result.counters.update(self._net(case, taken, number))
                result.absent.update(taken.absent)
            self._doubt(result)
            if (result.counters.get("kvm:kvm_exit") or 0) * MOST_OPS >= 1:
                result.exit_reasons = self._traced(case, result, ExitReasons)
            if (result.counters.get(QUEUED) or 0) * MOST_OPS >= 1:
                result.work_items = self._traced(case, result, WorkItems)
        except KvmIncorrect as error:
            result.discard(str(error))
            return
        except (GuestError, KvmError, Infeasible) as error:
            result.absent[PERF] = str(error)
        for name in result.absent:
            if name not in NO_COUNTERS and not name.startswith(PROOF_PREFIX):
                result.counters.setdefault(name, None)

    def _net(self, case: Case, taken: Taken, number: int) -> dict[str, float]:
        """Return the counts per op of pass `number`, without what lies around the loop.

        That is what `empty` shows with a single op, whose own count is the loop's and the less
        the more ops a sample has.
        """
        if taken.iterations == 1:
            return per_op(taken.counts, taken.ops)
        around = self._around.get((case.baseline, number))
        if around is None:
            (empty,) = select([case.baseline])
            around = self._take(empty, 1, SAMPLES, self._count(self._passes[number]))
            self._around[case.baseline, number] = around
        net = {name: count - around.counts.get(name, 0) for name, count in taken.counts.items()}
        return per_op(net, taken.ops - (around.ops if case.name == case.baseline else 0))

    def _doubt(self, result: CaseResult) -> None:
        """Take back the counts that others contradict."""
        doubts = trust.overtaken(result.counters)
        result.absent.update(doubts)
        result.counters.update(dict.fromkeys(doubts))

    def _traced(
        self, case: Case, result: CaseResult, kind: type[ExitReasons] | type[WorkItems]
    ) -> dict[str, float]:
        """Return an event's names per op, from the text of a trace."""
        if self._instance is None:
            self._instance = self._stack.enter_context(Instance())
        source = kind(self._instance)
        taken = self._take(case, min(result.iterations or 1, MOST_OPS), 1, source)
        result.absent.update(taken.absent)
        return per_op(taken.counts, taken.ops)

    def _take(self, case: Case, iterations: int, samples: int, source: Source) -> Taken:
        return take(
            self._system,
            case,
            self._settings,
            samples=samples,
            iterations=iterations,
            sources=[source],
            opener=self._opener,
        )

    def close(self) -> None:
        """Remove the probes."""
        self._stack.close()
