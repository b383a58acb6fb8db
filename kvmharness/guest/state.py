"""The guests' blobs, and the CPU state that each one starts from."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from mmap import mmap
from typing import Any

from kvmharness.guest import paging
from kvmharness.kvm.raw import lib, new
from kvmharness.model.cases import PAGED, Case

CR0_PE, CR0_ET, CR0_NE, CR0_WP, CR0_PG = 1 << 0, 1 << 4, 1 << 5, 1 << 16, 1 << 31
CR4_PSE, CR4_PAE, CR4_LA57, CR4_PCIDE = 1 << 4, 1 << 5, 1 << 12, 1 << 17
EFER_LME, EFER_LMA = 1 << 8, 1 << 10
RFLAGS_RESERVED = 1 << 1

SEGMENT_CODE, SEGMENT_DATA = 0b1011, 0b0011  # accessed; execute-read, read-write
# Flat segments of 4 GiB for the GDT: 32-bit code, 64-bit code, data (Intel SDM vol. 3, 3.4.5).
DESCRIPTOR_CODE32, DESCRIPTOR_CODE64 = 0x00CF9B000000FFFF, 0x00AF9B000000FFFF
DESCRIPTOR_DATA = 0x00CF93000000FFFF
GATE_INTERRUPT = 0x8E00  # present, DPL 0, interrupt gate of the mode's width

HANDLERS = {"page_fault": lib.VECTOR_PF, "undefined": lib.VECTOR_UD}

CR0 = {
    "real16": CR0_ET,
    "flat32": CR0_ET | CR0_PE,
    **dict.fromkeys(PAGED, CR0_PG | CR0_WP | CR0_NE | CR0_ET | CR0_PE),
}
CR4 = {"real16": 0, "flat32": 0, "prot32": CR4_PSE, "pae32": CR4_PAE, "long64": CR4_PAE}


@dataclass(frozen=True)
class Blob:
    """An assembled guest: its flat `code` for GUEST_CODE and the addresses of its symbols."""

    name: str
    code: bytes
    sha256: str
    symbols: dict[str, int]

    def place(self, address: int) -> str | None:
        """Return an address as the nearest symbol below and an offset; None outside the code."""
        if not lib.GUEST_CODE <= address < lib.GUEST_CODE + len(self.code):
            return None
        below = [(at, name) for name, at in self.symbols.items() if at <= address]
        if not below:
            return None
        at, name = max(below)
        return f"{name}+{address - at:#x}"


@cache
def blob(name: str) -> Blob:
    """Return the guest `name` as it was built into the package."""
    folder = files("kvmharness") / "blobs"
    symbols = json.loads((folder / "index.json").read_text())[name]["symbols"]
    code = (folder / f"{name}.bin").read_bytes()
    return Blob(name, code, hashlib.sha256(code).hexdigest(), symbols)


def _segment(segment: Any, kind: int, selector: int, *, long_code: bool = False) -> None:
    segment.base, segment.limit, segment.selector = 0, 0xFFFFFFFF, selector
    segment.type, segment.present, segment.s, segment.g = kind, 1, 1, 1
    segment.l, segment.db = int(long_code), int(not long_code)


def _gate(address: int, *, wide: bool) -> bytes:
    """Return an interrupt gate, 8 bytes or in 64-bit mode 16 (Intel SDM vol. 3, 6.11, 6.14.1)."""
    low, high = address & 0xFFFF, address >> 16 & 0xFFFF
    gate = struct.pack("<HHHH", low, lib.GUEST_CS, GATE_INTERRUPT, high)
    return gate + struct.pack("<II", address >> 32, 0) if wide else gate


def _write(memory: mmap, address: int, data: bytes) -> None:
    memory[address : address + len(data)] = data


def offset(case: Case) -> int:
    """Return what the case's virtual addresses lie above its low ones."""
    return int(lib.GUEST_HIGH_HALF) if case["high"] else 0


def shared_page(vcpu: int) -> int:
    """Return the guest-physical address of a vCPU's shared page."""
    return int(lib.GUEST_SHARED_MORE + vcpu * lib.SHARED_SIZE if vcpu else lib.GUEST_SHARED)


def load(code: Blob, case: Case, memory: mmap) -> paging.Roots | None:
    """Put a guest with its tables into `memory`, mapped at 0; return its page-table roots."""
    _write(memory, lib.GUEST_CODE, code.code)
    if case.mode == "real16":
        return None
    wide = case.mode == "long64"
    descriptors = (0, DESCRIPTOR_CODE64 if wide else DESCRIPTOR_CODE32, DESCRIPTOR_DATA)
    _write(memory, lib.GUEST_GDT, struct.pack("<3Q", *descriptors))
    for symbol, vector in HANDLERS.items():
        if symbol in code.symbols:
            gate = _gate(offset(case) + code.symbols[symbol], wide=wide)
            _write(memory, lib.GUEST_IDT + vector * len(gate), gate)
    return paging.build(memory, case) if case.mode in PAGED else None


def forget_undefined(case: Case, memory: mmap) -> None:
    """Take the gate for undefined instructions away: from here on nobody expects one."""
    size = 16 if case.mode == "long64" else 8
    _write(memory, lib.GUEST_IDT + lib.VECTOR_UD * size, bytes(size))


def set_flat(sregs: Any, *, wide: bool = False) -> None:
    """Set segments that span all memory, the code's of 32 bits or, `wide`, of 64."""
    _segment(sregs.cs, SEGMENT_CODE, lib.GUEST_CS, long_code=wide)
    for name in ("ds", "es", "fs", "gs", "ss"):
        _segment(getattr(sregs, name), SEGMENT_DATA, lib.GUEST_DS)


def set_mode(sregs: Any, case: Case, roots: paging.Roots | None) -> None:
    """Set the case's CPU mode in `sregs`, the `struct kvm_sregs *` of a reset vCPU."""
    wide = case.mode == "long64"
    sregs.cr0, sregs.cr4 = CR0[case.mode], CR4[case.mode]
    if case.mode == "real16":
        sregs.cs.base = sregs.cs.selector = 0
        return
    set_flat(sregs, wide=wide)
    sregs.gdt.base, sregs.gdt.limit = lib.GUEST_GDT, 3 * 8 - 1
    sregs.idt.base, sregs.idt.limit = lib.GUEST_IDT, (lib.VECTOR_PF + 1) * (16 if wide else 8) - 1
    if roots:
        sregs.cr3 = roots.first
    if wide:
        sregs.efer = EFER_LMA | EFER_LME
        sregs.cr4 |= CR4_LA57 * case["la57"] | CR4_PCIDE * case["pcid"]


def registers(case: Case, entry: int, vcpu: int) -> Any:
    """Return the `struct kvm_regs *` that starts a vCPU at the symbol address `entry`."""
    regs = new("struct kvm_regs *")
    regs.rip = offset(case) + entry
    regs.rbp = offset(case) + shared_page(vcpu)
    regs.rsp = offset(case) + lib.GUEST_STACK
    regs.rflags = RFLAGS_RESERVED
    return regs
