"""What `perf stat` counts between two doorbells, and which of it is believed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from kvmharness.counters.perf import PerfError, PerfSource

# The share of the time, in %, that an event was counted, as perf prints it.
WHOLE = 100.0


@dataclass(frozen=True)
class Event:
    """One thing perf counts: `spec` as perf spells it, `filter` for a tracepoint."""

    name: str
    spec: str
    filter: str | None = None

    def arguments(self) -> list[str]:
        """Return perf's options for this event."""
        return ["-e", self.spec] + (["--filter", self.filter] if self.filter else [])


def part_of_the_time(percent: float) -> str:
    """Return why an event has no count that shared the CPU's counters with others."""
    return f"counted {percent:g} % of the time only, the rest is a guess"


def parse_counts(text: str, events: Sequence[Event]) -> tuple[dict[str, int], dict[str, str]]:
    """Read `perf stat -j`'s lines, one an event in the order asked.

    Returns counts by the events' names, and the reason for each event that has none: one that
    shared the CPU's counters with others was counted part of the time, and what perf gives is
    an estimate.  Raises PerfError where the lines are not those of `events`.
    """
    lines = [line for line in text.splitlines() if line.startswith("{")]
    if len(lines) != len(events):
        raise PerfError(f"perf stat gave {len(lines)} counts for {len(events)} events")
    counts: dict[str, int] = {}
    absent: dict[str, str] = {}
    for event, line in zip(events, lines, strict=True):
        try:
            said = json.loads(line)
            value, running = said["counter-value"], float(said["pcnt-running"])
        except (ValueError, KeyError, TypeError):
            raise PerfError(f"perf stat: not its JSON: {line[:80]!r}") from None
        try:
            count = round(float(value))
        except (ValueError, OverflowError):
            absent[event.name] = f"perf says {value}"
            continue
        if running >= WHOLE:
            counts[event.name] = count
        else:
            absent[event.name] = part_of_the_time(running)
    return counts, absent


def tried(events: Sequence[Event]) -> PerfStat:
    """Count nothing with `events`: its `failure` and `absent` tell what perf can do here."""
    with closing(PerfStat(events)) as stat:
        stat.attach_to(())
        stat.begin()
        stat.end()
    return stat


class PerfStat(PerfSource):
    """Counts of `events`; `absent` says why single ones have none."""

    def __init__(self, events: Sequence[Event], command: str = "perf") -> None:
        self._events = events
        options = [part for event in events for part in event.arguments()]
        names = [event.name for event in events]
        super().__init__(["stat", "-j", "--no-inherit", *options], names, command)

    def collect(self, output: Path) -> dict[str, int]:
        """Read perf stat's JSON."""
        counts, self.absent = parse_counts(output.read_text(errors="replace"), self._events)
        return counts
