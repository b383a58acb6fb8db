"""Which of the counters perf can be asked for on this kernel."""

from __future__ import annotations

from kvmharness.counters.perfstat import Event
from kvmharness.counters.tracefs import has_tracepoint
from kvmharness.model.counters import Counter, of


def event_of(counter: Counter) -> Event:
    """Return a tracepoint's or a hardware counter's row as perf's event."""
    assert counter.event is not None
    return Event(counter.name, counter.event, counter.filter)


TRACEPOINTS = tuple(map(event_of, of("tracepoint")))
HARDWARE = tuple(map(event_of, of("hardware")))


def present() -> tuple[list[Event], dict[str, str]]:
    """Return the tracepoints to ask perf for, and the reason for each that is not there."""
    events = [event for event in TRACEPOINTS if has_tracepoint(event.spec)]
    absent = {
        event.name: "this kernel has no such tracepoint"
        for event in TRACEPOINTS
        if event not in events
    }
    return events, absent
