"""Exits by reason and work by function, under the names that the kernel itself prints.

The kernel formats the events, in a tracefs instance of our own: perf would take tens of
seconds to start recording on an emulated machine, for the same text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

from kvmharness.counters.source import Watched
from kvmharness.counters.tracefs import Instance, TextSource

KVM_EXIT = "events/kvm/kvm_exit/enable"
QUEUE_WORK = "events/workqueue/workqueue_queue_work/enable"
# Enough to see every reason of a loop, few enough for the instance's buffer.
MOST_OPS = 1000
NAME = "exit_reasons"
WORK_ITEMS = "work_items"


def parse(trace: str) -> Counter[str]:
    """Count the reasons in the text of kvm:kvm_exit events."""
    return Counter(re.findall(r"\bkvm_exit: .*?\breason (\S+)", trace))


def parse_work(trace: str) -> Counter[str]:
    """Count the functions in the text of workqueue:workqueue_queue_work events."""
    return Counter(re.findall(r"\bworkqueue_queue_work: .*?\bfunction=(\S+)", trace))


class Traced(TextSource):
    """One event by what it names, between two doorbells, as a counter source.

    `enable` is the event's switch in `instance`, `name` what `absent` calls all of it.
    """

    def __init__(
        self, instance: Instance, enable: str, name: str, parse: Callable[[str], Counter[str]]
    ) -> None:
        super().__init__(instance, enable, name, "events", parse)

    def attach(self, guest: Watched) -> None:
        """Trace this guest's threads, and forget what was counted."""
        folder = self._folder()
        if folder is None:
            return
        try:
            (folder / "set_event_pid").write_text(" ".join(map(str, guest.thread_ids)))
            (folder / "trace").write_text("")  # opening it to write empties the buffer
        except OSError as error:
            self.absent[self._name] = f"tracefs: {error.strerror}; run as root"

    def close(self) -> None:
        """Nothing of a guest's is held."""


class ExitReasons(Traced):
    """Exits by reason."""

    def __init__(self, instance: Instance) -> None:
        super().__init__(instance, KVM_EXIT, NAME, parse)


class WorkItems(Traced):
    """What the vCPUs' threads queue to kworkers, by the function that is to run."""

    def __init__(self, instance: Instance) -> None:
        super().__init__(instance, QUEUE_WORK, WORK_ITEMS, parse_work)
