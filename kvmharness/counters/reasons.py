"""Exits by reason and work by function, under the names that the kernel itself prints.

The kernel formats the events, in a tracefs instance of our own: perf would take tens of
seconds to start recording on an emulated machine, for the same text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from kvmharness.counters.source import Watched
from kvmharness.counters.tracefs import Instance

KVM_EXIT = Path("events/kvm/kvm_exit/enable")
QUEUE_WORK = Path("events/workqueue/workqueue_queue_work/enable")
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


class Traced:
    """One event by what it names, between two doorbells, as a counter source.

    `enable` is the event's switch in `instance`, `name` what `absent` calls all of it.
    """

    def __init__(
        self, instance: Instance, enable: Path, name: str, parse: Callable[[str], Counter[str]]
    ) -> None:
        self.absent: dict[str, str] = {}
        self._instance = instance
        self._enable, self._name, self._parse = enable, name, parse

    def _folder(self) -> Path | None:
        """Return where to trace, None where that failed."""
        if self._instance.failure:
            self.absent[self._name] = self._instance.failure
        return None if self._name in self.absent else self._instance.folder

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

    def _switch(self, on: bool) -> None:
        folder = self._folder()
        if folder is not None:
            try:
                (folder / self._enable).write_text("1" if on else "0")
            except OSError as error:
                self.absent[self._name] = f"tracefs: {self._enable}: {error.strerror}"

    def begin(self) -> None:
        """Start tracing."""
        self._switch(True)

    def end(self) -> dict[str, int]:
        """Stop and return how often each name came."""
        self._switch(False)
        folder = self._folder()
        if folder is None:
            return {}
        lost = sum(
            int(found)
            for path in folder.glob("per_cpu/cpu*/stats")
            for found in re.findall(r"^overrun: (\d+)", path.read_text(), re.MULTILINE)
        )
        if lost:
            self.absent[self._name] = f"tracefs: {lost} events overran the buffer"
            return {}
        return dict(self._parse((folder / "trace").read_text(errors="replace")))

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
