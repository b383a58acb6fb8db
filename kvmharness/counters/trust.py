"""Which counts can be trusted: a probe that cannot see reads 0 like one that has nothing to see.

A probe counts only after it was seen to fire where it must, on a VM that is thrown away; and no
count may be less than that of a function which calls the one counted.  Rules as tables; pure.
"""

from __future__ import annotations

from collections.abc import Mapping

from kvmharness.model.counters import HARDWARE_EXITS, KPROBE_PREFIX, NO, SIGNALS, YES

LOAD, RESET, UNLOAD, FREE, INIT = (
    KPROBE_PREFIX + function
    for function in (
        "kvm_mmu_load",
        "kvm_mmu_reset_context",
        "kvm_mmu_unload",
        "kvm_mmu_free_roots",
        "kvm_init_mmu",
    )
)
(NEW_PAGE,) = SIGNALS["new"]

# What a VM does from its making to its end, whatever its guest.
MUST_FIRE: Mapping[str, str] = {
    NEW_PAGE: "a vCPU's first entry makes a root",
    LOAD: "a vCPU's first entry loads a root",
    RESET: "a vCPU is given another paging mode",
    INIT: "a vCPU is made",
    UNLOAD: "the end of a VM drops its root",
    FREE: "the end of a VM frees its roots",
    "kvm:kvm_userspace_exit": "the guest rings its doorbell",
}
# What it does besides where the guest is run by hardware.
HARDWARE_MUST_FIRE: Mapping[str, str] = {
    "kvm:kvm_exit": "the guest rings its doorbell",
    "kvm:kvm_entry": "the guest is run",
    "kvm:kvm_page_fault": "the guest touches its memory for the first time",
}
# Functions by who calls them each time.
CALLED_BY: Mapping[str, str] = {UNLOAD: RESET, INIT: RESET, FREE: UNLOAD}
# Who lets go of a root that the guest cannot go on without.
DROPS = (RESET, UNLOAD)


def silent(counts: Mapping[str, int], module: str | None) -> dict[str, str]:
    """Return the counters that did not fire on a VM where they must, with the reason.

    `counts` are of a whole VM, from before its making to after its end; a counter that is not
    among them was not counted.  `module` is the vendor module.
    """
    rules = dict(MUST_FIRE)
    if module in HARDWARE_EXITS:
        rules |= HARDWARE_MUST_FIRE
    return {
        name: f"it does not see: {where}, and it did not fire"
        for name, where in rules.items()
        if counts.get(name) == 0
    }


def overtaken(counts: Mapping[str, float | None]) -> dict[str, str]:
    """Return the counters that fired less often than others say they must have, and the reason.

    The compiler may have inlined a function into one of those who call it, and not into others.
    """
    doubts = {}
    for name, caller in CALLED_BY.items():
        count, calls = counts.get(name), counts.get(caller)
        if count is not None and calls is not None and count < calls * YES:
            by = caller.removeprefix(KPROBE_PREFIX)
            doubts[name] = f"it does not see: {by}() calls it, and fired more often"
    loads = counts.get(LOAD)
    dropped = max((counts.get(name) or 0.0 for name in DROPS), default=0.0)
    if loads is not None and loads <= NO and dropped >= YES:
        doubts[LOAD] = "it does not see: the guest ran on after its root was dropped"
    return doubts
