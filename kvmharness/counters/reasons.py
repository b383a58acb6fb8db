"""Exits by reason, under the names that the kernel itself prints, from kvm:kvm_exit.

The kernel formats the events, in a tracefs instance of our own: perf would take tens of
seconds to start recording on an emulated machine, for the same text.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from kvmharness.counters.source import Watched
from kvmharness.counters.tracefs import Instance

EVENT = Path("events/kvm/kvm_exit/enable")
# Enough to see every reason of a loop, few enough for the instance's buffer.
MOST_OPS = 1000
NAME = "exit_reasons"


def parse(trace: str) -> Counter[str]:
    """Count the reasons in the text of kvm:kvm_exit events."""
    return Counter(re.findall(r"\bkvm_exit: .*?\breason (\S+)", trace))


class ExitReasons:
    """Exits by reason between two doorbells, as a counter source, through `instance`."""

    def __init__(self, instance: Instance) -> None:
        self.absent: dict[str, str] = {}
        self._instance = instance

    def _folder(self) -> Path | None:
        """Return where to trace, None where that failed."""
        if self._instance.failure:
            self.absent[NAME] = self._instance.failure
        return None if NAME in self.absent else self._instance.folder

    def attach(self, guest: Watched) -> None:
        """Count the exits of this guest's threads, and forget what was counted."""
        folder = self._folder()
        if folder is None:
            return
        try:
            (folder / "set_event_pid").write_text(" ".join(map(str, guest.thread_ids)))
            (folder / "trace").write_text("")  # opening it to write empties the buffer
        except OSError as error:
            self.absent[NAME] = f"tracefs: {error.strerror}; run as root"

    def _switch(self, on: bool) -> None:
        folder = self._folder()
        if folder is not None:
            try:
                (folder / EVENT).write_text("1" if on else "0")
            except OSError as error:
                self.absent[NAME] = f"tracefs: {EVENT}: {error.strerror}"

    def begin(self) -> None:
        """Start tracing."""
        self._switch(True)

    def end(self) -> dict[str, int]:
        """Stop and return how often each reason came."""
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
            self.absent[NAME] = f"tracefs: {lost} events overran the buffer"
            return {}
        return dict(parse((folder / "trace").read_text(errors="replace")))

    def close(self) -> None:
        """Nothing of a guest's is held."""
