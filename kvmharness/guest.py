"""The guests' blobs, and the CPU state and page tables that each one starts from."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from mmap import mmap
from typing import Any

from kvmharness.raw import lib, new

CR0_PE, CR0_ET, CR0_NE, CR0_WP, CR0_PG = 1 << 0, 1 << 4, 1 << 5, 1 << 16, 1 << 31
CR4_PAE = 1 << 5
EFER_LME, EFER_LMA = 1 << 8, 1 << 10
PTE_PRESENT, PTE_WRITE, PTE_LARGE = 1 << 0, 1 << 1, 1 << 7
RFLAGS_RESERVED = 1 << 1

SEGMENT_CODE, SEGMENT_DATA = 0b1011, 0b0011  # accessed; execute-read, read-write
PAGE = 0x1000


@dataclass(frozen=True)
class Blob:
    """An assembled guest: its flat `code` for GUEST_CODE and the address of each op."""

    name: str
    code: bytes
    sha256: str
    entries: dict[str, int]


@cache
def blob(name: str) -> Blob:
    """Return the guest `name` as it was built into the package."""
    folder = files("kvmharness") / "blobs"
    entries = json.loads((folder / "index.json").read_text())[name]["entries"]
    code = (folder / f"{name}.bin").read_bytes()
    return Blob(name, code, hashlib.sha256(code).hexdigest(), entries)


def _segment(segment: Any, kind: int, selector: int, *, long_code: bool = False) -> None:
    segment.base, segment.limit, segment.selector = 0, 0xFFFFFFFF, selector
    segment.type, segment.present, segment.s, segment.g = kind, 1, 1, 1
    segment.l, segment.db = int(long_code), int(not long_code)


def _real_mode(sregs: Any, memory: mmap, high: int) -> None:
    """Set what a reset leaves, with CR0.CD and CR0.NW cleared and code at address 0."""
    sregs.cr0 = CR0_ET
    sregs.cs.base = sregs.cs.selector = 0


def _long_mode(sregs: Any, memory: mmap, high: int) -> None:
    """Map the first 2 MiB at 0 and at GUEST_HIGH_HALF by one large page each."""
    pml4 = lib.GUEST_PAGE_TABLES
    low, upper, directory = pml4 + PAGE, pml4 + 2 * PAGE, pml4 + 3 * PAGE
    table = PTE_PRESENT | PTE_WRITE
    entries = {
        pml4: low | table,
        pml4 + 8 * 511: upper | table,
        low: directory | table,
        upper + 8 * 510: directory | table,
        directory: table | PTE_LARGE,
    }
    for address, entry in entries.items():
        struct.pack_into("<Q", memory, address, entry)
    sregs.cr0 = CR0_PG | CR0_WP | CR0_NE | CR0_ET | CR0_PE
    sregs.cr3, sregs.cr4, sregs.efer = pml4, CR4_PAE, EFER_LMA | EFER_LME
    _segment(sregs.cs, SEGMENT_CODE, 8, long_code=True)
    for name in ("ds", "es", "fs", "gs", "ss"):
        _segment(getattr(sregs, name), SEGMENT_DATA, 16)


_MODES = {"real16": _real_mode, "long64": _long_mode}


def load(blob: Blob, op: str, high: int, memory: mmap, sregs: Any) -> Any:
    """Put a guest into `memory` (mapped at 0) and its mode into `sregs`.

    `sregs` is the reset `struct kvm_sregs *`, changed in place.  Returns the
    `struct kvm_regs *` that starts the op.
    """
    memory[lib.GUEST_CODE : lib.GUEST_CODE + len(blob.code)] = blob.code
    _MODES[blob.name](sregs, memory, high)
    offset = lib.GUEST_HIGH_HALF if high else 0
    regs = new("struct kvm_regs *")
    regs.rip = offset + blob.entries[op]
    regs.rbp = offset + lib.GUEST_SHARED
    regs.rflags = RFLAGS_RESERVED
    return regs
