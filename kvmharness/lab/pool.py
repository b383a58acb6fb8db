"""Jobs that are carried out one by one, here or elsewhere: what one is, and who does it.

A job is pure: by a clock of instructions it has the same figures wherever it is done.
"""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, Self

from kvmharness.errors import HarnessError, LabBug
from kvmharness.lab import ledger, matrix
from kvmharness.lab.capsule import Part
from kvmharness.lab.engine import Runner
from kvmharness.lab.ledger import Answer
from kvmharness.lab.planning import LabPlan, Result, Target
from kvmharness.model import runfile
from kvmharness.model.note import State

HERE = "here"
# Why nobody does a job any more.
GONE = "the scheduler is gone; the same command goes on from here"


@dataclass(frozen=True)
class Order:
    """A job: what to boot, what to measure in it, and the name that stands for all of that."""

    job: str
    target: Target
    plan: LabPlan


class Pool(Protocol):
    """Whoever carries out orders, several at once; closing it ends what is under way."""

    def width(self) -> int:
        """Return how many jobs are done at once."""

    def submit(self, order: Order, avoid: str = "") -> Future[Answer]:
        """Have a job done, by another one than `avoid` where there is another."""

    def stranded(self, future: Future[Answer]) -> bool:
        """Tell whether a job waits for others than it was to avoid, and they are gone."""

    def close(self) -> None:
        """End all that is under way."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def order(target: Target, plan: LabPlan, parts: Sequence[Part]) -> Order:
    """Return the job of a target.  Raises UsageError for a kernel that cannot be read."""
    return Order(ledger.name_of(target, plan, parts), target, plan)


def digest(data: bytes) -> str:
    """Return the sha256 that goes with a run on its way."""
    return hashlib.sha256(data).hexdigest()


def perform(order: Order, runner: Runner | None = None, where: str = HERE) -> Answer:
    """Boot and measure; return what became of it, whatever that is.

    `runner` may be stopped from another thread, `where` is what to call this machine.
    """
    try:
        (result,) = matrix.measure([order.target], order.plan, 1, lambda *_: None, runner)
    except HarnessError as error:
        return Answer(order.job, "lost", str(error), where=where)
    return _answer(order, result, where)


def _answer(order: Order, result: Result, where: str) -> Answer:
    run = runfile.encode(result.run) if result.run else b""
    reason, console = result.skipped or "", ""
    state: State = "skipped" if result.skipped else "done"
    if result.lost:
        state = "bug" if isinstance(result.lost, LabBug) else "lost"
        reason, console = str(result.lost), result.lost.console
    elif result.bug:
        state, reason = "bug", f"{type(result.bug).__name__}: {result.bug}"
        console = "".join(traceback.format_exception(result.bug))
    return Answer(order.job, state, reason, run, digest(run), console, where)


class Local:
    """Carries out orders on this machine, in threads."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._runner = Runner()
        self._threads = ThreadPoolExecutor(jobs)

    def width(self) -> int:
        return self._jobs

    def submit(self, order: Order, avoid: str = "") -> Future[Answer]:
        """Have a job done; there is nobody else to do it than this machine."""
        return self._threads.submit(perform, order, self._runner)

    def stranded(self, future: Future[Answer]) -> bool:
        """Tell whether a job waits for somebody who is gone: it does not."""
        return False

    def close(self) -> None:
        self._runner.stop()
        self._threads.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
