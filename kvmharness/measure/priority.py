"""Real-time priority for the vCPUs' threads while they are timed, so that nobody preempts them.

A VM's samples take milliseconds, far less than the 950 ms a second that the kernel leaves to
real-time threads (sched_rt_runtime_us), and all else runs as before.  The watchdog's signal comes
from a timer interrupt: a guest that spins is stopped at any priority.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

# Above all who share the CPU, below what the kernel has at 99.
DEFAULT = 50
_POLICY = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK  # perf, our child, must not have it too


@contextmanager
def raised(priority: int | None, threads: Sequence[int]) -> Iterator[None]:
    """Give threads, by the kernel's ids, real-time priority meanwhile (None: leave them alone).

    Raises PermissionError where this process may not.
    """
    if priority is None:
        yield
        return
    before = [
        (thread, os.sched_getscheduler(thread), os.sched_getparam(thread)) for thread in threads
    ]
    try:
        for thread in threads:
            os.sched_setscheduler(thread, _POLICY, os.sched_param(priority))
        yield
    finally:
        for thread, policy, param in before:
            # Only who may set priorities may take this flag back; it harms nobody.
            for flag in (0, os.SCHED_RESET_ON_FORK):
                with suppress(OSError):
                    os.sched_setscheduler(thread, policy | flag, param)
                    break


def why_not(priority: int) -> str | None:
    """Return why this process may not have a priority, None if it may."""
    try:
        with raised(priority, [threading.get_native_id()]):
            return None
    except (PermissionError, OSError) as error:
        return f"{error.strerror}; run as root, or raise the limit: ulimit -r {priority}"
