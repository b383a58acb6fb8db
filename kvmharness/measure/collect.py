"""A run without its statistics: what is done on every kernel, in a lab or not, and is light."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

from kvmharness import __version__
from kvmharness.guest import state
from kvmharness.kvm.fds import System
from kvmharness.measure import host
from kvmharness.measure.counting import Counting
from kvmharness.measure.session import Session
from kvmharness.model import run
from kvmharness.model.run import Clock, Roles, Run, Settings


def begin(
    system: System,
    session: Session,
    settings: Settings,
    suite: str | None,
    clock: Clock = "tsc",
    found: Roles | None = None,
) -> Run:
    """Return a run that holds the host's record and the session's results, filled as it goes on.

    `found` is the kernel's MMU-role code where that is known already.
    """
    blobs = {result.guest: state.blob(result.guest).sha256 for result in session.results}
    return Run(
        schema=run.SCHEMA,
        started=run.timestamp(),
        tool=run.Tool(__version__, blobs),
        host=host.record(system, found),
        settings=settings,
        suite=suite,
        clock=clock,
        cases=session.results,
    )


def count(
    system: System,
    session: Session,
    settings: Settings,
    before: Callable[[str], None],
    after: Callable[[], None],
) -> None:
    """Run the counting passes; `before` hears each case's name, `after` that it was counted."""
    with closing(Counting(system, settings)) as counting:
        for case, result in session.measured:
            before(case.name)
            counting.count(case, result)
            after()
