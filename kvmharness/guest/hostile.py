"""Guests that do what no guest of ours does: each must end in time, by an error that says it.

They are bounded and harm nobody: a loop that the watchdog ends, or a few instructions.  What they
leave in the shared page are lies, which the host must not believe.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from kvmharness.errors import GuestError
from kvmharness.guest.state import Blob
from kvmharness.guest.vm import GuestVm
from kvmharness.kvm.fds import System
from kvmharness.kvm.raw import lib
from kvmharness.model.cases import Case

# No memslot, and no device of KVM's, is there.
NOWHERE = 0xF0000000
PATIENCE_S = 10.0
_PORT_80 = 0x80  # where firmware writes its progress: nobody's
_SHARED, _STAMPS = lib.GUEST_SHARED, lib.GUEST_SHARED + lib.SHARED_STAMPS


def _out(port: int, value: int) -> bytes:
    return bytes([0xB0, value, 0xE6, port])  # mov $value, %al; out %al, $port


def _store(address: int, value: int) -> bytes:
    """Store 32 bits in 64-bit mode: movl $value, address."""
    return b"\xc7\x04\x25" + struct.pack("<II", address, value)


def _fill(address: int, size: int, value: int) -> bytes:
    """Fill memory in a flat mode: mov to %edi, %ecx, %al; rep stosb."""
    return struct.pack("<BIBIBB", 0xBF, address, 0xB9, size, 0xB0, value) + b"\xf3\xaa"


def _stamps(begin: int, end: int) -> bytes:
    halves = struct.unpack("<4I", struct.pack("<QQ", begin, end))
    return b"".join(_store(_STAMPS + 4 * n, half) for n, half in enumerate(halves))


_BEGIN, _END = (_out(lib.PORT_DOORBELL, bell) for bell in (lib.DOORBELL_BEGIN, lib.DOORBELL_END))
_ENDED = _out(lib.PORT_SAMPLE, 0)
_DONE = _store(_SHARED + lib.SHARED_DONE, 1)
_SPIN = b"\xeb\xfe"  # jmp .
_BACK = b"\xeb\xfc"  # jmp to the two bytes before


@dataclass(frozen=True)
class Hostile:
    """A guest of `code` in a mode, and how the error that ends it begins, one of `ends`."""

    name: str
    code: bytes
    ends: tuple[str, ...]
    mode: str = "long64"
    params: dict[str, int] = field(default_factory=dict, hash=False)

    @property
    def endless(self) -> bool:
        """Whether only the watchdog ends it."""
        return not {*self.ends}.isdisjoint((*_SILENT, *_HALTED))


_TRIPLE = ("triple fault: KVM_EXIT_SHUTDOWN",)
_SILENT = ("rang no doorbell within",)
# Hardware faults where KVM's emulator gives up.
_LOST = ("triple fault", "KVM could not go on", "left its protocol: KVM_EXIT_MMIO")
_HALTED = ("halted early",)

HOSTILE = (
    Hostile("an endless loop", _SPIN, _SILENT),
    Hostile("an endless loop in real mode", _SPIN, _SILENT, "real16"),
    Hostile("an endless loop in a sample", _BEGIN + _SPIN, _SILENT),
    Hostile("interrupts off and a halt", b"\xfa\xf4", _HALTED),
    Hostile("the same without irqchip", b"\xfa\xf4", _HALTED, params={"irqchip": 0}),
    Hostile("interrupts on and a halt", b"\xfb\xf4", _HALTED),
    Hostile("a triple fault", b"\x0f\x0b", _TRIPLE),
    Hostile("a wild jump", b"\xb8" + struct.pack("<I", NOWHERE) + b"\xff\xe0", _TRIPLE),
    Hostile(
        "a wild jump unpaged", b"\xb8" + struct.pack("<I", NOWHERE) + b"\xff\xe0", _LOST, "flat32"
    ),
    Hostile("a read from nowhere", b"\xa1" + struct.pack("<I", NOWHERE), _LOST, "flat32"),
    Hostile("a write to nowhere", b"\xa3" + struct.pack("<I", NOWHERE), _LOST, "flat32"),
    Hostile("a port that is nobody's", _out(_PORT_80, 1), ("left its protocol: KVM_EXIT_IO",)),
    Hostile("a storm on the op pio's port", _out(lib.PORT_PIO, 0) + _BACK, _SILENT),
    Hostile(
        "a storm of ends of samples",
        _ENDED + _BACK,
        ("left its protocol: KVM_EXIT_IO",),
    ),
    Hostile("a doorbell out of order", _END, ("rang doorbell 02, not 1",)),
    Hostile("a doorbell that is none", _out(lib.PORT_DOORBELL, 77), ("rang doorbell 4d, not 1",)),
    Hostile("an end without samples", _BEGIN + _END, ("took 0 samples of 1",)),
    Hostile(
        "0xff all over the shared page",
        _BEGIN + _fill(_SHARED, lib.SHARED_SIZE, 0xFF) + _END,
        ("took 4294967295 samples of 1",),
    ),
    Hostile(
        "HLT all over its own code",
        _fill(lib.GUEST_CODE, 0x1000, 0xF4) + _SPIN,
        (*_HALTED, *_SILENT),
    ),
    Hostile(
        "a sample count that lies",
        _BEGIN + _store(_SHARED + lib.SHARED_DONE, 2) + _END,
        ("took 2 samples of 1",),
    ),
    Hostile(
        "stamps that run backwards",
        _BEGIN + _stamps(100, 50) + _DONE + _ENDED + _END,
        ("its TSC ran backwards inside a sample",),
    ),
    Hostile(
        "stamps further apart than it ran",
        _BEGIN + _stamps(0, 2**64 - 1) + _DONE + _ENDED + _END,
        ("its stamps are further apart than its time limit",),
    ),
    Hostile(
        "a sample whose end it does not tell",
        _BEGIN + _stamps(1, 100) + _DONE + _END,
        ("told the ends of 0 samples, took 1",),
    ),
    Hostile(
        "ends of samples that are none",
        _BEGIN + _stamps(1, 100) + _DONE + 3 * _ENDED + _END,
        ("told the ends of 3 samples, took 1",),
    ),
)


def provoke(system: System, hostile: Hostile, timeout_s: float) -> str:
    """Run a hostile guest; return why it ended, "" where it was taken for a good one.

    One that is endless is ended after `timeout_s` seconds.
    """
    symbols = dict.fromkeys(("op_empty",), lib.GUEST_CODE)
    blob = Blob(hostile.mode, hostile.code, "", symbols)
    case = Case(hostile.mode, "empty", hostile.params)
    # Who ends by itself needs a busy machine's patience, which costs nothing.
    limit = timeout_s if hostile.endless else timeout_s + PATIENCE_S
    with GuestVm(system, case, timeout_s=limit, blob=blob) as guest:
        try:
            guest.measure(1, 1)
        except GuestError as error:
            return error.reason
    return ""
