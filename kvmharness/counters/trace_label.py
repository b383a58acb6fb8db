"""Names the samples that come next to a lab that traces; counts nothing."""

from __future__ import annotations

from kvmharness.counters.source import Watched
from kvmharness.kvm import raw
from kvmharness.model import tracing


class TraceLabel:
    """Asks for a trace of the samples under a label; where no lab traces nobody hears of it."""

    def __init__(self, label: int) -> None:
        self._label = label
        self.absent: dict[str, str] = {}

    @property
    def single(self) -> TraceLabel:
        """The mark of the samples of a single op that are held against this one's."""
        return TraceLabel(self._label | tracing.SINGLE)

    def attach(self, guest: Watched) -> None:
        """Do nothing: there is nothing to get ready."""

    def begin(self) -> None:
        """Say the label."""
        raw.trace_next(self._label)

    def end(self) -> dict[str, int]:
        """Return no counts."""
        return {}

    def settled(self) -> None:
        """Say that what the samples left for later is done."""
        raw.trace_settled()

    def close(self) -> None:
        """Do nothing: nothing was opened."""
