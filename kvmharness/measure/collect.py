"""The one driver of a run, on a host and inside a lab: record, time, count; no statistics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

import msgspec

from kvmharness import __version__
from kvmharness.guest import state
from kvmharness.kvm import raw
from kvmharness.kvm.fds import System
from kvmharness.measure import host
from kvmharness.measure.counting import Counting
from kvmharness.measure.session import Others, Session
from kvmharness.model.cases import Case
from kvmharness.model.clocks import Clock
from kvmharness.model.host import Host, Roles
from kvmharness.model.run import SCHEMA, Run, Settings, Tool, timestamp

Phase = Literal["begun", "measured", "counting", "counted"]


def _nothing_more(run: Run) -> set[str]:
    return set()


def _nobody() -> Sequence[int | None]:
    return ()


@dataclass(frozen=True)
class Plan:
    """What to measure and how.

    `roles` is the kernel's MMU-role code where that is known already.  With `warm_up` every
    case is measured once beforehand: the first VM after a boot differs, and is no sample.
    `others` names the CPUs of the runs beside this one.
    After all VMs of the settings, `again` names the cases that need as many more, at most
    `again_most` times.  Without `count` the passes of tracepoints and functions are left out.
    `below`: the level below is the lab's own monitor, and counts too.  With `by_call`
    perf is not started to count.
    """

    cases: Sequence[Case]
    settings: Settings
    suite: str | None
    clock: Clock = "tsc"
    roles: Roles | None = None
    warm_up: bool = False
    again: Callable[[Run], set[str]] = _nothing_more
    again_most: int = 0
    count: bool = True
    others: Others = _nobody
    below: bool = False
    by_call: bool = False


@dataclass(frozen=True)
class Step:
    """Where a run stands: with what it is busy, and which case of how many, from 1.

    `round` and `rounds` count VMs while measuring.
    """

    phase: Phase
    case: str = ""
    number: int = 0
    of: int = 0
    round: int = 0
    rounds: int = 0


OnStep = Callable[[Run, Step], None]


def collect(system: System, plan: Plan, on_step: OnStep) -> Run:
    """Measure and count a plan's cases; return the run.

    `on_step` is called with the run as far as it has come: whoever is interrupted has it all.
    """
    record = host.record(system, plan.roles, plan.settings.cpu)
    clock = plan.clock
    if clock == "tsc" and record.tsc_khz is None:
        clock = "ticks"
    if plan.warm_up:
        raw.trace_settled()
        once = msgspec.structs.replace(plan.settings, vms=1, samples_per_vm=1)
        for _ in Session(system, plan.cases, once, clock=clock, traced=False).measure(1):
            pass
    session = Session(system, plan.cases, plan.settings, clock=clock, others=plan.others)
    run = _begin(record, clock, session, plan)
    on_step(run, Step("begun"))
    _measure(session, run, plan.settings.vms, None, on_step)
    for _ in range(plan.again_most):
        names = plan.again(run)
        if not names:
            break
        _measure(session, run, plan.settings.vms, names, on_step)
    if plan.count:
        _count(system, session, run, plan, on_step)
    run.finished = timestamp()
    return run


def _begin(record: Host, clock: Clock, session: Session, plan: Plan) -> Run:
    """Return a run that holds the host's record, and the session's results as they come."""
    blobs = {result.mode: state.blob(result.mode).sha256 for result in session.results}
    return Run(
        schema=SCHEMA,
        started=timestamp(),
        tool=Tool(__version__, blobs),
        host=record,
        settings=plan.settings,
        suite=plan.suite,
        clock=clock,
        cases=session.results,
    )


def _measure(session: Session, run: Run, vms: int, names: set[str] | None, on_step: OnStep) -> None:
    for turn in session.measure(vms, names):
        name = turn.result.name
        step = Step("measured", name, turn.case, turn.cases, turn.round, turn.rounds)
        on_step(run, step)


def _count(system: System, session: Session, run: Run, plan: Plan, on_step: OnStep) -> None:
    measured = session.measured
    made = Counting(system, run.settings, by_call=plan.by_call, below=plan.below)
    with closing(made) as counting:
        for number, (case, result) in enumerate(measured, 1):
            on_step(run, Step("counting", case.name, number, len(measured)))
            counting.count(case, result)
            on_step(run, Step("counted", case.name, number, len(measured)))
