"""The page tables, walked as the CPU would."""

from __future__ import annotations

import mmap
import struct

import pytest

from kvmharness.guest import paging
from kvmharness.kvm.fds import HUGE_PAGE
from kvmharness.kvm.raw import lib
from kvmharness.model.cases import Case, select

PAGE = 4096


def walk(memory: mmap.mmap, case: Case, root: int, virtual: int) -> tuple[int, bool, bool]:
    """Return the guest-physical address, whether it is writable, and whether it is the user's."""
    width, bits, levels = {
        "prot32": (4, 10, 2),
        "pae32": (8, 9, 3),
        "long64": (8, 9, 5 if case["la57"] else 4),
    }[case.mode]
    table, user = root & ~0xFFF, True
    for level in reversed(range(levels)):
        shift = 12 + bits * level
        index = virtual >> shift & ((1 << bits) - 1)
        form = "<I" if width == 4 else "<Q"
        (entry,) = struct.unpack_from(form, memory, table + width * index)
        assert entry & paging.PRESENT, f"level {level} of {virtual:#x}"
        if case.mode != "pae32" or level < 2:  # pointers to PAE's directories have no such bit
            user &= bool(entry & paging.USER)
        if level == 0 or (level == 1 and entry & paging.LARGE):
            mask = (1 << shift) - 1
            at = (entry & ~0xFFF & ~mask) | (virtual & mask)
            return at, bool(entry & paging.WRITE), user
        table = entry & ~0xFFF
    raise AssertionError


NAMES = [
    "prot32/cr0_wp",
    "pae32/cr0_wp",
    "long64/cr0_wp",
    "long64/cr0_wp@la57=1",
    "prot32/cr0_wp@pages=4096",
    "pae32/cr0_wp@pages=4096",
    "long64/cr0_wp@pages=4096",
    "long64/cr0_wp@pages=600,huge=1",
    "long64/cr0_wp@pcid=1",
]


@pytest.mark.parametrize("name", NAMES)
def test_both_roots_map_what_the_guest_needs(name: str) -> None:
    (case,) = select([name])
    memory = mmap.mmap(-1, lib.GUEST_MEMORY)
    roots = paging.build(memory, case)
    expected = {a: (a, True, False) for a in (lib.GUEST_CODE, lib.GUEST_SHARED, 0x1FFFFF)}
    expected[lib.GUEST_WINDOW] = (lib.GUEST_READ_ONLY, False, False)
    expected[lib.GUEST_USER_WINDOW] = (lib.GUEST_READ_ONLY, False, True)
    if case["pages"]:
        last = case["pages"] - 1
        if case["huge"]:
            at = lib.GUEST_HUGE_PAGES + last * HUGE_PAGE
            expected[at] = (at, True, False)
        else:
            at = last * PAGE
            expected[lib.GUEST_PAGES_AT + at] = (lib.GUEST_PAGES + at, True, False)
    if case.mode == "long64":
        expected[lib.GUEST_HIGH_HALF + lib.GUEST_CODE] = (lib.GUEST_CODE, True, False)
    assert roots.first != roots.second
    for root in (roots.first, roots.second):
        assert {a: walk(memory, case, root, a) for a in expected} == expected


def test_a_marked_pdpte_is_seen_where_it_would_fault() -> None:
    (pge, wp) = select(["pae32/cr4_pge", "pae32/cr0_wp"])
    memory = mmap.mmap(-1, lib.GUEST_MEMORY)
    roots = paging.build(memory, pge)
    assert paging.why_no_reload(memory, pge, roots) is None
    memory[roots.first] |= paging.PDPTE_RESERVED
    assert "reserved, so cr4_pge would fault" in (paging.why_no_reload(memory, pge, roots) or "")
    assert paging.why_no_reload(memory, wp, roots) is None


def test_pcids_differ_only_with_pcid() -> None:
    memory = mmap.mmap(-1, lib.GUEST_MEMORY)
    (plain, tagged) = select(["long64/cr3_switch", "long64/cr3_switch@pcid=1"])
    roots = paging.build(memory, plain)
    assert (roots.first & 0xFFF, roots.second & 0xFFF) == (0, 0)
    roots = paging.build(mmap.mmap(-1, lib.GUEST_MEMORY), tagged)
    assert (roots.first & 0xFFF, roots.second & 0xFFF) == (1, 2)
