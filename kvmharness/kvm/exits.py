"""Exits of KVM_RUN to user space, typed and with their payload (KVM API, section 5)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kvmharness.kvm.raw import ffi, lib


@dataclass(frozen=True)
class Exit:
    """An exit that carries no payload, or none that we read; `name` as in KVM_EXIT_<name>."""

    name: str

    def __str__(self) -> str:
        fields = ", ".join(
            f"{k}={v:#x}" if isinstance(v, int) else f"{k}={v!r}"
            for k, v in vars(self).items()
            if k != "name"
        )
        return f"KVM_EXIT_{self.name}({fields})" if fields else f"KVM_EXIT_{self.name}"


@dataclass(frozen=True)
class Unknown(Exit):
    """An exit reason that the header of the build did not know yet."""

    reason: int

    def __str__(self) -> str:
        return f"Unknown({self.reason})"


@dataclass(frozen=True)
class Hardware(Exit):
    """KVM_EXIT_UNKNOWN: the hardware left for a reason that KVM does not know."""

    hardware_exit_reason: int


@dataclass(frozen=True)
class FailEntry(Exit):
    """The hardware refused to enter the guest."""

    hardware_entry_failure_reason: int


@dataclass(frozen=True)
class GuestException(Exit):
    """KVM_EXIT_EXCEPTION: a vector and its error code."""

    exception: int
    error_code: int


@dataclass(frozen=True)
class Io(Exit):
    """A port access; `data` holds what an OUT wrote, `count` items of `size` bytes."""

    write: bool
    port: int
    size: int
    count: int
    data: bytes


@dataclass(frozen=True)
class Mmio(Exit):
    """An access to guest-physical memory that no memslot backs."""

    write: bool
    phys_addr: int
    data: bytes


@dataclass(frozen=True)
class Hypercall(Exit):
    """A hypercall that KVM leaves to user space."""

    nr: int
    args: tuple[int, ...]


@dataclass(frozen=True)
class InternalError(Exit):
    """KVM gave up: `suberror` 1 is an instruction that its emulator does not know."""

    suberror: int
    data: tuple[int, ...]


@dataclass(frozen=True)
class SystemEvent(Exit):
    """A shutdown, reset or crash that the guest asked for."""

    type: int


@dataclass(frozen=True)
class IoapicEoi(Exit):
    """An end of interrupt for a split irqchip."""

    vector: int


@dataclass(frozen=True)
class Msr(Exit):
    """X86_RDMSR or X86_WRMSR left to user space."""

    reason: int
    index: int
    data: int


def _io(run: Any) -> Exit:
    io = run.io
    write = io.direction == lib.KVM_EXIT_IO_OUT
    begin = ffi.cast("uint8_t *", run) + io.data_offset
    data = bytes(ffi.buffer(begin, io.size * io.count)) if write else b""
    return Io("IO", write, io.port, io.size, io.count, data)


def _mmio(run: Any) -> Exit:
    mmio = run.mmio
    length = min(mmio.len, len(mmio.data))
    data = bytes(ffi.buffer(mmio.data))[:length]
    return Mmio("MMIO", bool(mmio.is_write), mmio.phys_addr, data)


def _internal(run: Any) -> Exit:
    internal = run.internal
    ndata = min(internal.ndata, len(internal.data))
    return InternalError("INTERNAL_ERROR", internal.suberror, tuple(internal.data)[:ndata])


def _msr(name: str) -> Callable[[Any], Exit]:
    return lambda run: Msr(name, run.msr.reason, run.msr.index, run.msr.data)


_READERS: dict[str, Callable[[Any], Exit]] = {
    "UNKNOWN": lambda run: Hardware("UNKNOWN", run.hw.hardware_exit_reason),
    "FAIL_ENTRY": lambda run: FailEntry("FAIL_ENTRY", run.fail_entry.hardware_entry_failure_reason),
    "EXCEPTION": lambda run: GuestException("EXCEPTION", run.ex.exception, run.ex.error_code),
    "IO": _io,
    "MMIO": _mmio,
    "HYPERCALL": lambda run: Hypercall("HYPERCALL", run.hypercall.nr, tuple(run.hypercall.args)),
    "INTERNAL_ERROR": _internal,
    "SYSTEM_EVENT": lambda run: SystemEvent("SYSTEM_EVENT", run.system_event.type),
    "IOAPIC_EOI": lambda run: IoapicEoi("IOAPIC_EOI", run.eoi.vector),
    "X86_RDMSR": _msr("X86_RDMSR"),
    "X86_WRMSR": _msr("X86_WRMSR"),
}


def _reasons() -> dict[int, str]:
    """Number to name of every exit reason in the build's header.

    The header also names values inside payloads: KVM_EXIT_IO_IN begins with the whole name
    of a reason and an underscore, which no reason does.
    """
    names = [n.removeprefix("KVM_EXIT_") for n in dir(lib) if re.match(r"KVM_EXIT_", n)]
    reasons = [n for n in names if not any(n.startswith(f"{other}_") for other in names)]
    return {getattr(lib, f"KVM_EXIT_{n}"): n for n in reasons}


REASONS = _reasons()


def read(run: Any) -> Exit:
    """Read the exit that the mapped `struct kvm_run` describes."""
    reason = int(run.exit_reason)
    name = REASONS.get(reason)
    if name is None:
        return Unknown("unknown to the build's header", reason)
    reader = _READERS.get(name)
    return reader(run) if reader else Exit(name)
