"""Exits by reason, under the names that the kernel itself prints, from kvm:kvm_exit.

The kernel formats the events, in a tracefs instance of our own: perf would take tens of
seconds to start recording on an emulated machine, for the same text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from kvmharness.counters.perf import abandoned, owner, tracing

EVENT = Path("events/kvm/kvm_exit/enable")
# Enough to see every reason of a loop, few enough for the instance's buffer.
MOST_OPS = 1000


def parse(trace: str) -> Counter[str]:
    """Count the reasons in the text of kvm:kvm_exit events."""
    return Counter(re.findall(r"\bkvm_exit: .*?\breason (\S+)", trace))


class ExitReasons:
    """Exits by reason between two doorbells, as a counter source; watch() says of which threads.

    `failure` says why there are none.  The instance is kept until close(): the kernel makes
    thousands of files for it.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.failure: str | None = None
        self._instance: Path | None = None
        root = root or tracing()
        if root is None:
            self.failure = "tracefs is not mounted: mount -t tracefs none /sys/kernel/tracing"
            return
        for left in (root / "instances").glob("kvmharness_*"):
            if abandoned(left.name.partition("_")[2]):
                with suppress(OSError):  # of a kvmharness that was killed
                    left.rmdir()
        instance = root / "instances" / f"kvmharness_{owner()}"
        try:
            instance.mkdir()
            self._instance = instance
        except OSError as error:
            self.failure = f"tracefs: {error.strerror}; run as root"

    def watch(self, threads: Sequence[int]) -> None:
        """Count the exits of these threads from now on, and forget what was counted."""
        if self._instance is None or self.failure is not None:
            return
        try:
            (self._instance / "set_event_pid").write_text(" ".join(map(str, threads)))
            (self._instance / "trace").write_text("")  # opening it to write empties the buffer
        except OSError as error:
            self.failure = f"tracefs: {error.strerror}; run as root"

    def _switch(self, on: bool) -> None:
        if self._instance is not None and self.failure is None:
            try:
                (self._instance / EVENT).write_text("1" if on else "0")
            except OSError as error:
                self.failure = f"tracefs: {EVENT}: {error.strerror}"

    def begin(self) -> None:
        """Start tracing."""
        self._switch(True)

    def end(self) -> dict[str, int]:
        """Stop and return how often each reason came."""
        self._switch(False)
        if self._instance is None or self.failure is not None:
            return {}
        lost = sum(
            int(found)
            for path in self._instance.glob("per_cpu/cpu*/stats")
            for found in re.findall(r"^overrun: (\d+)", path.read_text(), re.MULTILINE)
        )
        if lost:
            self.failure = f"tracefs: {lost} events overran the buffer"
            return {}
        return dict(parse((self._instance / "trace").read_text(errors="replace")))

    def close(self) -> None:
        """Remove the instance."""
        if self._instance is not None:
            with suppress(OSError):
                self._instance.rmdir()
            self._instance = None
