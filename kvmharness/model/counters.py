"""The one table of what is counted per op: how it is counted, shown, judged and said.

A row a counter.  To count something more, add a row: its column, its part in the class and its
words in a sentence follow from what the row says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

# Where a count comes from, the best evidence first: a statistic of KVM's does not mean the same
# in every vendor module, a tracepoint does.
Source = Literal["opcode", "tracepoint", "kprobe", "hardware", "kvm"]
BEST: tuple[Source, ...] = ("opcode", "tracepoint", "kprobe", "hardware", "kvm")


@dataclass(frozen=True)
class Column:
    """Where a counter stands in the table of cases; `always` also where every count is 0."""

    position: int
    title: str
    always: bool = True


@dataclass(frozen=True)
class Counter:
    """One thing counted.

    `name` is its name in a result file.  `event` is perf's, with `filter` for a tracepoint; for
    a kprobe it is the function.  `signal` names what of a class is read from it
    (analysis.classify), `words` what a sentence about a change calls it (analysis.causes):
    rows with the same signal or words are one quantity, read from the best source that was
    counted.  `cycles` is what one of it may take at most, beyond its instructions, which a clock
    of instructions cannot weigh (None: nothing).
    """

    name: str
    source: Source
    event: str | None = None
    filter: str | None = None
    column: Column | None = None
    signal: str | None = None
    words: str | None = None
    cycles: float | None = None


# Per op: at least this is "each time", at most that is "not at all", between is neither.
YES = 0.9
NO = 0.1

KVM_PREFIX = "kvm."
KPROBE_PREFIX = "probe:"
OPCODE_PREFIX = "opcode."
# What the level below counted, and its exits by reason.
BELOW = "l0."
BELOW_EXIT = f"{BELOW}exit:"

_PAGES = "kvmmmu:kvm_mmu_get_page"


def _tracepoint(
    event: str,
    *,
    filter: str | None = None,
    column: Column | None = None,
    signal: str | None = None,
    words: str | None = None,
    cycles: float | None = None,
) -> Counter:
    name = f"{event}[{filter}]" if filter else event
    return Counter(name, "tracepoint", event, filter, column, signal, words, cycles)


def _statistic(
    name: str,
    *,
    column: Column | None = None,
    signal: str | None = None,
    words: str | None = None,
    cycles: float | None = None,
) -> Counter:
    return Counter(KVM_PREFIX + name, "kvm", None, None, column, signal, words, cycles)


def _kprobe(function: str, *, signal: str | None = None, words: str | None = None) -> Counter:
    return Counter(KPROBE_PREFIX + function, "kprobe", function, None, None, signal, words)


def _opcode(name: str, words: str, cycles: float) -> Counter:
    return Counter(OPCODE_PREFIX + name, "opcode", None, None, None, None, words, cycles)


def _hardware(event: str) -> Counter:
    return Counter(event, "hardware", event)


# In the order in which a maintainer looks at what changed.
COUNTERS: tuple[Counter, ...] = (
    _tracepoint("kvm:kvm_exit", column=Column(1, "kvm_exit"), signal="exit", words="exits"),
    # Only some vendor modules count hardware exits and nothing else in it: see HARDWARE_EXITS.
    _statistic("exits", column=Column(0, "kvm.exits"), words="exits"),
    _tracepoint("kvm:kvm_page_fault", signal="fault", words="page faults"),
    _statistic(
        "pf_fixed",
        column=Column(5, "pf_fixed", always=False),
        signal="fault",
        words="page faults",
    ),
    # A root or a page-table page made anew, and one found again in the hash.
    _tracepoint(
        _PAGES, filter="created==1", column=Column(3, "pages new"), signal="new", words="pages new"
    ),
    _tracepoint(
        _PAGES, filter="created==0", column=Column(4, "found"), signal="found", words="pages found"
    ),
    _tracepoint("kvm:kvm_emulate_insn", signal="emulated", words="instructions emulated"),
    _statistic(
        "insn_emulation",
        column=Column(2, "emulated"),
        signal="emulated",
        words="instructions emulated",
    ),
    # What tells a kept root from one dropped and found again: see docs/classes.md.
    _kprobe("kvm_mmu_reset_context", signal="reset"),
    _kprobe("kvm_init_mmu"),
    _kprobe("kvm_mmu_load", signal="load", words="root loads"),
    _kprobe("kvm_mmu_unload", signal="unload"),
    _kprobe("kvm_mmu_free_roots", signal="free"),
    # What the vCPU's thread hands to others: what they then do is the deferred work.
    _tracepoint("workqueue:workqueue_queue_work", words="work items queued"),
    _kprobe("call_rcu", words="RCU callbacks queued"),
    _statistic(
        "tlb_flush",
        column=Column(6, "tlb_flush", always=False),
        words="TLB flushes by KVM",
        cycles=5000,
    ),
    # What the booted kernel executed of each, as QEMU saw it (lab/opcodes.c has the same order).
    # The bounds are of CPUs of today: a WBINVD has none, an MSR's write may be an IBPB, a new CR3
    # or a flushed TLB has to be filled again.
    _opcode("wbinvd", "WBINVD", math.inf),
    _opcode("clflush", "CLFLUSH", 1000),
    _opcode("invlpg", "INVLPG", 1000),
    _opcode("invpcid", "INVPCID", 5000),
    _opcode("invlpga", "INVLPGA", 1000),
    _opcode("cr3", "loads of CR3", 5000),
    _opcode("cr", "loads of CR0 and CR4", 5000),
    _opcode("wrmsr", "MSR writes", 10000),
    _opcode("verw", "VERW", 1000),
    _opcode("cpuid", "CPUID by the host", 2000),
    _opcode("io", "port accesses by the host", 5000),
    _opcode("vmrun", "entries", 2000),
    _opcode("tlb_control", "TLB flushes at entry", 5000),
    # The same where nobody sees the opcodes, as far as the kernel tells.
    _tracepoint("msr:write_msr", words="MSR writes", cycles=10000),
    _tracepoint("tlb:tlb_flush", words="TLB flushes of the host's", cycles=5000),
    _tracepoint("ipi:ipi_send_cpu", words="IPIs", cycles=5000),
    _tracepoint("kvm:kvm_userspace_exit", words="exits to user space"),
    _tracepoint("kvm:kvm_entry"),
    _tracepoint("kvm:kvm_cr"),
    _tracepoint("kvm:kvm_inj_exception"),
    _tracepoint("kvmmmu:kvm_mmu_prepare_zap_page"),
    _tracepoint("kvmmmu:kvm_tdp_mmu_spte_changed"),
    _tracepoint("kvmmmu:kvm_mmu_set_spte"),
    _tracepoint("kvm:kvm_nested_vmrun"),
    _tracepoint("kvm:kvm_nested_vmenter"),
    _tracepoint("kvm:kvm_nested_vmexit"),
    # Guest and host apart, where the CPU and whoever lends it to us count at all.
    _hardware("cycles:G"),
    _hardware("cycles:H"),
    _hardware("instructions:G"),
    _hardware("instructions:H"),
)

# Vendor modules whose statistic `exits` counts hardware exits and nothing else.
HARDWARE_EXITS = frozenset({"kvm_intel", "kvm_amd"})


def of(*sources: Source) -> list[Counter]:
    """Return the rows that are counted by any of these sources, in the table's order."""
    return [counter for counter in COUNTERS if counter.source in sources]


def columns() -> list[tuple[str, Column]]:
    """Return name and column of each counter that is shown, from left to right."""
    shown = [(c.name, c.column) for c in COUNTERS if c.column]
    return sorted(shown, key=lambda row: row[1].position)


def _grouped(key: str) -> Mapping[str, tuple[str, ...]]:
    """Return the names of the counters that share an attribute, the best source first."""
    groups: dict[str, list[Counter]] = {}
    for counter in COUNTERS:
        value = getattr(counter, key)
        if value is not None:
            groups.setdefault(value, []).append(counter)
    return {
        value: tuple(c.name for c in sorted(rows, key=lambda c: BEST.index(c.source)))
        for value, rows in groups.items()
    }


# What one of it may take at most, by its words.
UNWEIGHED: Mapping[str, float] = {
    counter.words: counter.cycles
    for counter in COUNTERS
    if counter.words is not None and counter.cycles is not None
}
# Signal of the class, or words of a sentence: the counters it is read from, the best one first.
SIGNALS = _grouped("signal")
WORDS = _grouped("words")
