"""Probes on KVM's own functions, for perf to count.

By kprobes where the kernel has them (Debian's have), else by ftrace's function event with a
filter; where neither is to be had, the reason.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from kvmharness.counters.perfstat import Event
from kvmharness.counters.tracefs import NOT_MOUNTED, abandoned, owner, tracing
from kvmharness.model.counters import KPROBE_PREFIX, of

KALLSYMS = Path("/proc/kallsyms")
GROUP = "kvmharness_"
FUNCTIONS = tuple(counter.event for counter in of("kprobe") if counter.event)


def symbols(kallsyms: bytes, functions: tuple[str, ...] = FUNCTIONS) -> dict[str, str]:
    """Return each function's symbol: its own name, or a compiler's copy such as `NAME.isra.0`.

    A `.cold` part is not the function.  Functions without a symbol are left out.
    """
    names = "|".join(map(re.escape, functions))
    pattern = rf"^[0-9a-f]+ [tTwW] (({names})(?:\.(?!cold)[\w.]+)?)(?:\t.*)?$"
    found: dict[str, str] = {}
    for match in re.finditer(pattern.encode(), kallsyms, re.MULTILINE):
        symbol, function = match.group(1).decode(), match.group(2).decode()
        if function not in found or symbol == function:
            found[function] = symbol
    return found


class Probes:
    """Probes that stand while the object is open; `events` count them, `absent` says why not."""

    def __init__(self, root: Path | None = None) -> None:
        self.events: list[Event] = []
        self.absent: dict[str, str] = {}
        self._root = root or tracing()
        self._set: list[str] = []
        if self._root is None:
            self._give_up(NOT_MOUNTED)
            return
        self._control = self._root / "kprobe_events"
        self._sweep()
        if self._control.exists():
            # Mostly a function has its own name; reading all symbols takes long where the CPU
            # is emulated.
            rest = [function for function in FUNCTIONS if self._kprobe(function, function)]
            self._by_symbol(rest, self._kprobe)
        else:
            self._by_symbol(list(FUNCTIONS), self._ftrace)

    def _by_symbol(self, functions: list[str], add: Callable[[str, str], str | None]) -> None:
        """Add those of the functions that have a symbol; note why not for the others."""
        try:
            known = symbols(KALLSYMS.read_bytes()) if functions else {}
        except OSError as error:
            for name in functions:
                self._absent(name, f"{KALLSYMS}: {error.strerror}")
            return
        for name in functions:
            reason = add(name, known[name]) if name in known else "this kernel has no such symbol"
            if reason:
                self._absent(name, reason)

    def _absent(self, function: str, reason: str) -> None:
        self.absent[KPROBE_PREFIX + function] = reason

    def _give_up(self, reason: str) -> None:
        for function in FUNCTIONS:
            self._absent(function, reason)

    def _write(self, line: str) -> None:
        # Appending: to open it for writing would remove everybody's probes.  Not by open(),
        # which seeks to the end: tracefs refuses that.
        descriptor = os.open(self._control, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            os.write(descriptor, f"{line}\n".encode())
        finally:
            os.close(descriptor)

    def _sweep(self) -> None:
        """Remove the probes of a kvmharness that was killed: its process is gone."""
        try:
            lines = self._control.read_text().splitlines()
        except OSError:  # no kprobes here, or none for us
            return
        for line in lines:
            match = re.match(rf"p\d*:({GROUP}(\d+_\d+)/\w+) ", line)
            if match and abandoned(match.group(2)):
                with suppress(OSError):
                    self._write(f"-:{match.group(1)}")

    def _kprobe(self, function: str, symbol: str) -> str | None:
        """Set a probe; return why it cannot be."""
        probe = f"{GROUP}{owner()}/{function}"
        try:
            self._write(f"p:{probe} {symbol}")
        except OSError as error:
            return f"kprobe_events: {error.strerror}"
        self._set.append(probe)
        self.events.append(Event(KPROBE_PREFIX + function, probe.replace("/", ":")))
        return None

    def _ftrace(self, function: str, symbol: str) -> None:
        event = Event(KPROBE_PREFIX + function, "ftrace:function", f"ip == {symbol}")
        self.events.append(event)

    def close(self) -> None:
        """Remove the probes that were set; perf must have ended."""
        while self._set:
            with suppress(OSError):
                self._write(f"-:{self._set.pop()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
