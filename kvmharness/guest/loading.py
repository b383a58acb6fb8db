"""Set a VM up for a case: its memory, and its vCPUs before their first instruction."""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from typing import Any

from kvmharness.guest import state
from kvmharness.guest.paging import PAGE, Roots, page_size
from kvmharness.kvm.fds import Vcpu, Vm
from kvmharness.kvm.raw import lib
from kvmharness.model.cases import PAGED, Case

# Below 4 GiB and above any guest's memory, where other VMMs put them too.
IDENTITY_MAP_ADDR = 0xFFFBC000
TSS_ADDR = 0xFFFBD000


def prepare(vm: Vm, case: Case) -> mmap.mmap:
    """Give a VM what it must have before its vCPUs; return its RAM."""
    vm.set_identity_map_addr(IDENTITY_MAP_ADDR)
    vm.set_tss_addr(TSS_ADDR)
    if case["irqchip"]:
        vm.create_irqchip()
    return _create_memory(vm, case)


def _create_memory(vm: Vm, case: Case) -> mmap.mmap:
    """Create the memslots: RAM, the pages to touch, and those that nobody uses."""
    memory = vm.set_user_memory_region(0, 0, lib.GUEST_MEMORY)
    slots = 1
    if case["pages"]:
        at = lib.GUEST_HUGE_PAGES if case["huge"] else lib.GUEST_PAGES
        size = page_size(case) * case["pages"]
        vm.set_user_memory_region(slots, at, size, huge=bool(case["huge"]), populate=True)
        slots += 1
    for slot in range(slots, case["slots"]):
        vm.set_user_memory_region(slot, lib.GUEST_SLOTS + 2 * PAGE * slot, PAGE)
    return memory


@dataclass(frozen=True)
class Loaded:
    """A case's guest in the memory of its VM; `roots` are those of its page tables, if any."""

    case: Case
    blob: state.Blob
    memory: mmap.mmap
    roots: Roots | None

    def _entry(self, symbol: str) -> int:
        suffix = "_pages" if self.case["pages"] and symbol == "op" else ""
        return self.blob.symbols[f"{symbol}_{self.case.op}{suffix}"]

    def start(self, vcpu: Vcpu, cpuid: Any, number: int, *, proves: bool) -> None:
        """Put vCPU `number` before its first instruction: of the proof if it `proves`.

        `cpuid` is a `struct kvm_cpuid2 *`.
        """
        vcpu.set_cpuid2(cpuid)
        sregs = vcpu.get_sregs()
        state.set_mode(sregs, self.case, self.roots)
        vcpu.set_sregs(sregs)
        entry = self._entry("prove" if proves else "op")
        vcpu.set_regs(state.registers(self.case, entry, number))
        if number and self.case["irqchip"]:
            # Otherwise it waits for the INIT and SIPI that a firmware would send.
            vcpu.set_mp_state(lib.KVM_MP_STATE_RUNNABLE)
        self._write_parameters(number)

    def _write_parameters(self, vcpu: int) -> None:
        """Fill in what of a vCPU's shared page does not change between measurements."""
        case, page, offset = self.case, state.shared_page(vcpu), state.offset(self.case)
        small = lib.GUEST_PAGES_AT if case.mode in PAGED else lib.GUEST_PAGES
        at = lib.GUEST_HUGE_PAGES if case["huge"] else small
        switch = self.roots.first ^ self.roots.second if self.roots else 0
        barrier = offset + lib.GUEST_SHARED + lib.SHARED_ARRIVED
        for where, form, value in (
            (lib.SHARED_NEXT, "<Q", offset + self._entry("op")),
            (lib.SHARED_BARRIER, "<Q", barrier),
            (lib.SHARED_CR3_XOR, "<I", switch),
            (lib.SHARED_TOUCH_AT, "<Q", at),
            (lib.SHARED_TOUCH_STRIDE, "<I", page_size(case)),
            (lib.SHARED_TOUCH_PAGES, "<I", case["pages"]),
            (lib.SHARED_WORK, "<I", case["work"]),
            (lib.SHARED_FAULT_ENTRY, "<Q", self.roots.fault_entry if self.roots else 0),
        ):
            struct.pack_into(form, self.memory, page + where, value)
