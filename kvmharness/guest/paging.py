"""The page tables that the harness builds for guests that page.

Every mode maps the first 2 MiB (4 MiB with 32-bit paging) as they are by one large page, the
window read-only by a 4 KiB page, once for the supervisor and once for user mode too, and the
case's @pages.  Intel SDM vol. 3, chapter 4.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from mmap import mmap

from kvmharness.kvm.fds import HUGE_PAGE
from kvmharness.kvm.raw import lib
from kvmharness.model.cases import Case

PAGE = 0x1000
PRESENT, WRITE, USER, LARGE = 1 << 0, 1 << 1, 1 << 2, 1 << 7
TABLE = PRESENT | WRITE
GIB = 1 << 30
ENTRY64 = 8  # bytes of an entry in long mode


# Reserved in a PAE page-directory-pointer entry: MOV to CR4 that flips PGE or SMEP loads the
# entries anew and faults on it (Intel SDM vol. 3, 4.4.1; KVM's load_pdptrs()).
PDPTE_RESERVED = 1 << 5
RELOADS_PDPTES = frozenset({"cr4_pge", "cr4_smep"})


@dataclass(frozen=True)
class Roots:
    """Two CR3 values whose tables map the same.

    `window_entry` is where the window's PTE lies, `fault_entry` the one of GUEST_FAULT_AT.
    """

    first: int
    second: int
    window_entry: int

    @property
    def fault_entry(self) -> int:
        return self.window_entry + _in_window(lib.GUEST_FAULT_AT) * ENTRY64


class _Tables:
    """Hands out zeroed pages from GUEST_PAGE_TABLES on and writes entries of one width."""

    def __init__(self, memory: mmap, width: int) -> None:
        self._memory = memory
        self._format = "<I" if width == 4 else "<Q"
        self.width = width
        self.entries = PAGE // width
        self._next = int(lib.GUEST_PAGE_TABLES)

    def new(self) -> int:
        page = self._next
        self._next += PAGE
        if self._next > lib.GUEST_SHARED_MORE:
            raise ValueError("the page tables reach into the vCPUs' shared pages")
        return page

    def set(self, table: int, index: int, entry: int) -> int:
        """Write an entry; return where it lies."""
        at = table + index * self.width
        struct.pack_into(self._format, self._memory, at, entry)
        return at

    def map_pages(self, directory: int, virtual: int, physical: int, pages: int) -> None:
        """Map 4 KiB pages by as many tables as they need, from an aligned virtual address."""
        reach = self.entries * PAGE
        for first in range(0, pages, self.entries):
            table = self.new()
            self.set(directory, virtual // reach + first // self.entries, table | TABLE)
            for i in range(first, min(first + self.entries, pages)):
                self.set(table, i - first, (physical + i * PAGE) | TABLE)

    def copy(self, table: int) -> int:
        page = self.new()
        self._memory[page : page + PAGE] = self._memory[table : table + PAGE]
        return page


def _in_window(address: int) -> int:
    """Return an address's place in the table that maps the window."""
    return int(address - lib.GUEST_WINDOW) // PAGE


def _directory(tables: _Tables, case: Case) -> tuple[int, int]:
    """Build the page directory of the lowest addresses; return it and the window's entry."""
    directory, window = tables.new(), tables.new()
    tables.set(directory, 0, TABLE | LARGE)
    tables.set(directory, lib.GUEST_WINDOW // (tables.entries * PAGE), window | TABLE | USER)
    window_entry = tables.set(window, 0, lib.GUEST_READ_ONLY | PRESENT)
    user = PRESENT | USER
    tables.set(window, _in_window(lib.GUEST_USER_WINDOW), lib.GUEST_READ_ONLY | user)
    tables.set(window, _in_window(lib.GUEST_USER_CODE_AT), lib.GUEST_USER_CODE | user)
    tables.set(window, _in_window(lib.GUEST_FAULT_AT), lib.GUEST_USER_CODE)
    if not case["huge"]:
        tables.map_pages(directory, lib.GUEST_PAGES_AT, lib.GUEST_PAGES, case["pages"])
    return directory, window_entry


def _huge_pages(tables: _Tables, pointers: int, pages: int) -> None:
    """Map 2 MiB pages from GUEST_HUGE_PAGES on, one directory per GiB."""
    for first in range(0, pages, tables.entries):
        directory = tables.new()
        at = lib.GUEST_HUGE_PAGES + first * HUGE_PAGE
        tables.set(pointers, at // GIB, directory | TABLE)
        for i in range(min(tables.entries, pages - first)):
            tables.set(directory, i, (at + i * HUGE_PAGE) | TABLE | LARGE)


def _prot32(memory: mmap, case: Case) -> Roots:
    tables = _Tables(memory, 4)
    directory, window_entry = _directory(tables, case)
    return Roots(directory, tables.copy(directory), window_entry)


def _pae32(memory: mmap, case: Case) -> Roots:
    tables = _Tables(memory, 8)
    directory, window_entry = _directory(tables, case)
    pointers = tables.new()
    tables.set(pointers, 0, directory | PRESENT)  # write permission is reserved here
    return Roots(pointers, tables.copy(pointers), window_entry)


def _long64(memory: mmap, case: Case) -> Roots:
    tables = _Tables(memory, 8)
    directory, window_entry = _directory(tables, case)
    low, high, top = tables.new(), tables.new(), tables.new()
    tables.set(low, 0, directory | TABLE | USER)
    tables.set(high, 510, directory | TABLE)
    if case["huge"]:
        _huge_pages(tables, low, case["pages"])
    tables.set(top, 0, low | TABLE | USER)
    tables.set(top, 511, high | TABLE)
    if case["la57"]:
        five = tables.new()
        tables.set(five, 0, top | TABLE | USER)
        tables.set(five, 511, top | TABLE)
        top = five
    first, second = top, tables.copy(top)
    # With PCIDs the low bits of CR3 are one.
    return Roots(first | 1 * case["pcid"], second | 2 * case["pcid"], window_entry)


def page_size(case: Case) -> int:
    """Return the bytes of one of the case's @pages."""
    return HUGE_PAGE if case["huge"] else PAGE


def why_no_reload(memory: mmap, case: Case, roots: Roots | None) -> str | None:
    """Return why a guest that has run cannot have its PDPTEs loaded anew, None if it can.

    QEMU's software CPU marks them accessed, as no hardware does; KVM then refuses them.
    """
    if case.mode != "pae32" or case.op not in RELOADS_PDPTES or roots is None:
        return None
    (entry,) = struct.unpack_from("<Q", memory, roots.first)
    if not entry & PDPTE_RESERVED:
        return None
    return (
        "this CPU set the accessed bit of a PAE page-directory-pointer entry, where it is "
        f"reserved, so {case.op} would fault (QEMU's software CPU does that)"
    )


_BUILDERS = {"prot32": _prot32, "pae32": _pae32, "long64": _long64}


def build(memory: mmap, case: Case) -> Roots:
    """Build the case's page tables in `memory` (mapped at 0, zeroed); return its two roots."""
    return _BUILDERS[case.mode](memory, case)
