"""Names the samples that come next to a lab that traces; counts nothing."""

from __future__ import annotations

from kvmharness.counters.source import Watched
from kvmharness.kvm import raw


class TraceLabel:
    """Asks for a trace of the samples under a label; where no lab traces nobody hears of it.

    Without a label it takes as long, and asks for none.
    """

    def __init__(self, label: int | None) -> None:
        self._label = label
        self.absent: dict[str, str] = {}

    def attach(self, guest: Watched) -> None:
        """Do nothing: there is nothing to get ready."""

    def begin(self) -> None:
        """Say the label."""
        if self._label is None:
            raw.trace_over()
        else:
            raw.trace_next(self._label)

    def end(self) -> dict[str, int]:
        """Say that the samples are over, and return no counts."""
        raw.trace_over()
        return {}

    def close(self) -> None:
        """Do nothing: nothing was opened."""
