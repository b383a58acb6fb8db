"""Which events are counted by default: plain tables, the kernel's own names."""

from __future__ import annotations

from kvmharness.counters.perf import Event, has_tracepoint

PAGES = "kvmmmu:kvm_mmu_get_page"
# A root or a page-table page made anew, and one found again in the hash.
NEW_PAGE = Event(f"{PAGES}[created==1]", PAGES, "created==1")
FOUND_PAGE = Event(f"{PAGES}[created==0]", PAGES, "created==0")

TRACEPOINTS = (
    *(
        Event(name, name)
        for name in (
            "kvm:kvm_exit",
            "kvm:kvm_entry",
            "kvm:kvm_cr",
            "kvm:kvm_page_fault",
            "kvm:kvm_emulate_insn",
            "kvm:kvm_inj_exception",
            "kvm:kvm_userspace_exit",
        )
    ),
    NEW_PAGE,
    FOUND_PAGE,
    *(
        Event(name, name)
        for name in (
            "kvmmmu:kvm_mmu_prepare_zap_page",
            "kvmmmu:kvm_tdp_mmu_spte_changed",
            "kvmmmu:kvm_mmu_set_spte",
            "kvm:kvm_nested_vmrun",
            "kvm:kvm_nested_vmenter",
            "kvm:kvm_nested_vmexit",
        )
    ),
)

# Guest and host apart, where the CPU and whoever lends it to us count at all.
HARDWARE = tuple(
    Event(f"{what}:{mode}", f"{what}:{mode}")
    for what in ("cycles", "instructions")
    for mode in ("G", "H")
)

# What tells a kept root from one dropped and found again: see docs/classes.md.
FUNCTIONS = (
    "kvm_mmu_reset_context",
    "kvm_init_mmu",
    "kvm_mmu_load",
    "kvm_mmu_unload",
    "kvm_mmu_free_roots",
)
FUNCTION_PREFIX = "function."


def present() -> tuple[list[Event], dict[str, str]]:
    """Return the tracepoints to ask perf for, and the reason for each that is not there."""
    events = [event for event in TRACEPOINTS if has_tracepoint(event.spec)]
    absent = {
        event.name: "this kernel has no such tracepoint"
        for event in TRACEPOINTS
        if event not in events
    }
    return events, absent
