"""Which kernel functions a vCPU's thread calls, and from where: ftrace's function tracer.

In a tracefs instance of our own, so that nobody else's tracing is disturbed; the graph tracer
cannot run in one before v6.12.  Calls and callers only: a time taken while every call is traced
would be the tracer's.
"""

from __future__ import annotations

import re
from collections import Counter
from contextlib import suppress
from pathlib import Path

from kvmharness.counters.source import Watched
from kvmharness.counters.tracefs import Instance

TRACER, NAME = "function", "calls"
# For each CPU: a few hundred thousand calls.
BUFFER_KIB = 16384
ARROW = " <-"
_CALL = re.compile(r": (\S+) <-(\S+)$", re.MULTILINE)
# As the compiler names what it made of a function.
_SUFFIX = re.compile(r"\.(isra|part|constprop|cold)\b.*$")


def parse(trace: str) -> Counter[str]:
    """Count `function <-caller` in the function tracer's text."""
    pairs = ((_SUFFIX.sub("", f), _SUFFIX.sub("", by)) for f, by in _CALL.findall(trace))
    return Counter(f"{function}{ARROW}{caller}" for function, caller in pairs)


def pair(name: str) -> tuple[str, str]:
    """Return function and caller of a count's name."""
    function, _, caller = name.partition(ARROW)
    return function, caller


class Calls:
    """Calls between two doorbells, as a counter source, through `instance`."""

    def __init__(self, instance: Instance) -> None:
        self.absent: dict[str, str] = {}
        self._instance = instance

    def _folder(self) -> Path | None:
        """Return where to trace, None where that failed."""
        if self._instance.failure:
            self.absent[NAME] = self._instance.failure
        return None if NAME in self.absent else self._instance.folder

    def _write(self, name: str, text: str) -> None:
        folder = self._folder()
        if folder is not None:
            try:
                (folder / name).write_text(text)
            except OSError as error:
                self.absent[NAME] = f"tracefs: {name}: {error.strerror}"

    def attach(self, guest: Watched) -> None:
        """Follow this guest's threads, and forget what was traced."""
        self._write("tracing_on", "0")
        self._write("buffer_size_kb", str(BUFFER_KIB))
        self._write("set_ftrace_pid", " ".join(map(str, guest.thread_ids)))
        self._write("trace", "")  # opening it to write empties the buffer
        self._write("current_tracer", TRACER)

    def begin(self) -> None:
        """Start tracing."""
        self._write("tracing_on", "1")

    def end(self) -> dict[str, int]:
        """Stop and return how often each function was called from where."""
        self._write("tracing_on", "0")
        folder = self._folder()
        if folder is None:
            return {}
        lost = sum(
            int(found)
            for path in folder.glob("per_cpu/cpu*/stats")
            for found in re.findall(r"^overrun: (\d+)", path.read_text(), re.MULTILINE)
        )
        if lost:
            self.absent[NAME] = f"tracefs: {lost} calls overran the buffer"
            return {}
        return dict(parse((folder / "trace").read_text(errors="replace")))

    def close(self) -> None:
        """Let the tracer go: its instance could not be removed."""
        folder = self._instance.folder
        if folder is not None:
            with suppress(OSError):
                (folder / "current_tracer").write_text("nop")
