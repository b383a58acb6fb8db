"""What every source of counts looks like to the one who measures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from kvmharness.kvm.fds import Vcpu, Vm


class Watched(Protocol):
    """What a source is attached to: one guest's VM, its vCPUs and the threads that run them."""

    @property
    def vm(self) -> Vm: ...

    @property
    def vcpus(self) -> Sequence[Vcpu]: ...

    @property
    def thread_ids(self) -> Sequence[int]: ...


class Source(Protocol):
    """Counts between the begin and the end doorbell of one measurement.

    A source never ends a measurement: what it cannot count stands in `absent`, name to reason
    (a name that ends in `*` stands for all that begin so), and is missing from end().
    tests/counters/test_contract.py holds every source to this.
    """

    @property
    def absent(self) -> dict[str, str]: ...

    def attach(self, guest: Watched) -> None:
        """Get ready to count what this guest causes, before its begin doorbell."""

    def begin(self) -> None:
        """Start counting; the guest stands at its begin doorbell."""

    def end(self) -> dict[str, int]:
        """Stop and return what was counted since begin(), by name."""

    def close(self) -> None:
        """Let go of the guest; a second call does nothing, attach() may follow."""
