"""Which kernel functions a vCPU's thread calls, and from where: ftrace's function tracer.

In a tracefs instance of our own, so that nobody else's tracing is disturbed; the graph tracer
cannot run in one before v6.12.  Calls and callers only: a time taken while every call is traced
would be the tracer's.
"""

from __future__ import annotations

import re
from collections import Counter
from contextlib import suppress

from kvmharness.counters.source import Watched
from kvmharness.counters.tracefs import Instance, TextSource

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


class Calls(TextSource):
    """Calls between two doorbells, as a counter source, through `instance`."""

    def __init__(self, instance: Instance) -> None:
        super().__init__(instance, "tracing_on", NAME, "calls", parse)

    def attach(self, guest: Watched) -> None:
        """Follow this guest's threads, and forget what was traced."""
        self._write("tracing_on", "0")
        self._write("buffer_size_kb", str(BUFFER_KIB))
        self._write("set_ftrace_pid", " ".join(map(str, guest.thread_ids)))
        self._write("trace", "")  # opening it to write empties the buffer
        self._write("current_tracer", TRACER)

    def close(self) -> None:
        """Let the tracer go: an instance that has one cannot be removed."""
        folder = self._instance.folder
        if folder is not None:
            with suppress(OSError):
                (folder / "current_tracer").write_text("nop")
