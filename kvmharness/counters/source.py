"""What every source of counts looks like to the one who measures."""

from __future__ import annotations

from typing import Protocol


class Source(Protocol):
    """Counts between the begin and the end doorbell of one measurement."""

    def begin(self) -> None:
        """Start counting; the guest stands at its begin doorbell."""

    def end(self) -> dict[str, int]:
        """Stop and return what was counted since begin(), by name."""
