"""Many jobs, of which a folder keeps what became of each: it may be interrupted at any time."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import dataclass, field

from kvmharness import __version__
from kvmharness.errors import LabLost, UsageError
from kvmharness.lab.ledger import Answer, Kept, Ledger
from kvmharness.lab.pool import GONE, Order, Pool, digest
from kvmharness.model import runfile
from kvmharness.model.note import Note

# So many times the jobs that are done at once are asked for: nobody waits for the next one.
AHEAD = 2
# So often a job is looked for that waits for a worker which is gone.
LOOK_S = 5.0


@dataclass(frozen=True)
class Ended:
    """What became of a job, and of what it brought; `differences` are alarms, a line each.

    `avoid` is who had done it before, and was not to do it once more.
    """

    order: Order
    answer: Answer
    kept: Kept
    differences: list[str] = field(default_factory=list)
    avoid: str = ""


@dataclass(frozen=True)
class _Asked:
    """A job that somebody was asked for: to be done `again` after that, not by `avoid`."""

    order: Order
    again: bool = False
    avoid: str = ""


def is_there(job: str, ledger: Ledger) -> bool:
    """Tell whether a job has been done, in vain perhaps."""
    return ledger.run(job) is not None or ledger.note(job) is not None


def _why_no_run(answer: Answer) -> str:
    """Return why what came is no run; empty where it is one."""
    if answer.sha256 != digest(answer.run):
        return f"the run came damaged from {answer.where}"
    try:
        runfile.decode(answer.run, answer.where)
    except UsageError as error:
        return str(error)
    return ""


def _checked(order: Order, answer: Answer) -> Answer:
    """Return an answer that is one to this order, or one that says what it is instead."""
    why = ""
    if answer.job != order.job:
        why = f"{answer.where} has other tools or files: it did {answer.job}; install the same ones"
    elif answer.state == "done":
        why = _why_no_run(answer)
    return Answer(order.job, "lost", why, where=answer.where) if why else answer


def _answer(order: Order, future: Future[Answer]) -> Answer:
    """Return what became of a job.  Raises LabLost where nobody is there who would do it."""
    try:
        return _checked(order, future.result())
    except CancelledError:
        raise LabLost(GONE) from None
    except Exception as error:
        return Answer(order.job, "lost", f"{type(error).__name__}: {error}")


def _note(order: Order, answer: Answer) -> Note:
    target = order.target
    return Note(
        answer.state,
        answer.reason,
        target.kernel.named,
        target.variant.name,
        target.machine.name,
        __version__,
        answer.console,
    )


def _keep(order: Order, answer: Answer, ledger: Ledger) -> tuple[Kept, list[str]]:
    """Keep what became of a job.  Raises UsageError, with the run elsewhere, where it cannot be."""
    try:
        return ledger.keep(answer, _note(order, answer))
    except UsageError as error:
        if not answer.run:
            raise
        descriptor, path = tempfile.mkstemp(prefix=f"{answer.job}-", suffix=".json")
        with os.fdopen(descriptor, "wb") as file:
            file.write(answer.run)
        raise UsageError(f"{error}; the run is in {path}") from None


def carry_out(
    orders: Iterable[Order], pool: Pool, ledger: Ledger, *, twice: bool = False
) -> Iterator[Ended]:
    """Have jobs done and keep what becomes of them, each as soon as it is known.

    `twice` has each done once more, elsewhere where there is an elsewhere, and compares.  Orders
    are taken when there is somebody to do them.  Raises LabLost where all who could are gone,
    UsageError where nothing can be kept.
    """
    source = iter(orders)
    waiting: dict[Future[Answer], _Asked] = {}
    more = True
    while more or waiting:
        while more and len(waiting) < AHEAD * pool.width():
            order = next(source, None)
            if order is None:
                more = False
            else:
                waiting[pool.submit(order)] = _Asked(order, again=twice)
        done = wait(waiting, LOOK_S, return_when=FIRST_COMPLETED).done
        for future in done:
            asked = waiting.pop(future)
            order, answer = asked.order, _answer(asked.order, future)
            kept, differences = _keep(order, answer, ledger)
            if asked.again and answer.state == "done":
                elsewhere = pool.submit(order, avoid=answer.where)
                waiting[elsewhere] = _Asked(order, avoid=answer.where)
            yield Ended(order, answer, kept, differences, asked.avoid)
        for future in [each for each in waiting if not each.done() and pool.stranded(each)]:
            asked = waiting.pop(future)
            future.cancel()
            waiting[pool.submit(asked.order, avoid=asked.avoid)] = asked
