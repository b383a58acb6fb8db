"""What a person reads of two levels: which kernel lies below, and what an op made it do."""

from __future__ import annotations

from kvmharness.model.counters import BELOW, BELOW_EXIT
from kvmharness.model.host import Lab
from kvmharness.model.run import CaseResult, Run

# Below this a count per op is the doorbells' own share or a timer tick, not the op's.
SHOWN_FROM = 0.005
# KVM's name in L0, and what it is called.
SHOWN = {
    "kvm.exits": "exits",
    "kvm.nested_run": "nested runs",
    "kvm:kvm_page_fault": "page faults",
    "kvm.pf_fixed": "of them fixed",
    "kvm.mmu_cache_miss": "MMU pages made",
    "kvm.mmu_shadow_zapped": "zapped",
    "kvm.tlb_flush": "TLB flushes",
}


def head(lab: Lab) -> list[str]:
    """Return the line that names the kernel below, none where there is none."""
    below = lab.below
    if below is None:
        return []
    if below.lab is None:
        return [f"two levels: this is L1; L0 is this machine's Linux {below.kernel.release}"]
    emulator = below.lab.emulator
    return [
        f"two levels: this is L1; L0 is Linux {below.kernel.release}, variant {below.lab.variant}, "
        f"in {emulator.name} {emulator.version}"
    ]


def _one(case: CaseResult) -> list[str]:
    counts = {said: case.counters.get(f"{BELOW}{name}") for name, said in SHOWN.items()}
    seen = [f"{said} {count:.2f}" for said, count in counts.items() if count is not None]
    found = [
        (count, name.removeprefix(BELOW_EXIT))
        for name, count in case.counters.items()
        if name.startswith(BELOW_EXIT) and count and count >= SHOWN_FROM
    ]
    reasons = [f"{name} {count:.2f}" for count, name in sorted(found, reverse=True)]
    lines = {"L0 per op": seen, "L0's exits": reasons}
    return [f"{what} of {case.name}: {', '.join(row)}" for what, row in lines.items() if row]


def lines(run: Run) -> list[str]:
    """Return what each case's op made L0 do, where the level below counted."""
    return [line for case in run.cases for line in _one(case)]
