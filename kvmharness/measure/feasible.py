"""Which cases cannot be measured here, and why: from CPUID, KVM's capabilities and memory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from kvmharness.guest.paging import page_size
from kvmharness.kvm.fds import System
from kvmharness.model.cases import OPS, PAGED, Case

MEMINFO = Path("/proc/meminfo")
# What a case's memory may take of what is available: others live here too.
MEMORY_SHARE = 0.5
# KVM's page tables, structures and our own process, besides the guest's pages.
MEMORY_BESIDES = 64 << 20

SYSCALLS = frozenset({"syscall", "protected_syscall"})
FAULTS = frozenset({"fault", "protected_fault"})

# Feature: CPUID leaf, register, bit (Intel SDM vol. 2A, CPUID; AMD APM vol. 3, appendix E); any
# one of them will do.
FEATURES = {
    "pge": ((0x1, "edx", 13),),
    "pcid": ((0x1, "ecx", 17),),
    "smep": ((0x7, "ebx", 7),),
    "smap": ((0x7, "ebx", 20),),
    "pku": ((0x7, "ecx", 3),),
    # Shadow stacks, indirect branch tracking: CR4.CET stands for both.
    "cet": ((0x7, "ecx", 7), (0x7, "edx", 20)),
    "la57": ((0x7, "ecx", 16),),
    "nx": ((0x80000001, "edx", 20),),
}


def features(system: System) -> frozenset[str]:
    """Return the features of FEATURES that KVM offers a guest (KVM_GET_SUPPORTED_CPUID)."""
    cpuid = system.get_supported_cpuid()
    leaves = {(e.function, e.index): e for e in cpuid.entries[0 : cpuid.nent]}
    return frozenset(
        name
        for name, bits in FEATURES.items()
        if any(
            (leaf, 0) in leaves and getattr(leaves[leaf, 0], register) >> bit & 1
            for leaf, register, bit in bits
        )
    )


def available_memory(text: str) -> int | None:
    """Return MemAvailable of /proc/meminfo's text in bytes, None where it is not said."""
    for line in text.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


@dataclass(frozen=True)
class Limits:
    """What this machine and its KVM can do."""

    module: str | None
    features: frozenset[str]
    memslots: int
    vcpus: int
    cpus: int
    memory: int | None


def limits(system: System, module: str | None) -> Limits:
    """Ask KVM and the kernel; `module` is the vendor module's name."""
    return Limits(
        module=module,
        features=features(system),
        memslots=system.check_extension("NR_MEMSLOTS"),
        vcpus=system.check_extension("MAX_VCPUS"),
        cpus=len(os.sched_getaffinity(0)),
        memory=available_memory(MEMINFO.read_text()) if MEMINFO.exists() else None,
    )


def _no_feature(case: Case, here: Limits) -> str | None:
    needed = [next(op.needs for op in OPS if op.name == case.op)]
    needed += [param for param in ("la57", "pcid") if case[param]]
    for feature in needed:
        if feature is not None and feature not in here.features:
            return f"KVM offers its guests no {feature.upper()} here (KVM_GET_SUPPORTED_CPUID)"
    return None


def _not_on_pvm(case: Case, here: Limits) -> str | None:
    if here.module != "kvm_pvm":
        return None
    if case.mode in PAGED and case.mode != "long64":
        return "kvm_pvm pages in long mode only"
    if case.op in SYSCALLS:
        return "kvm_pvm ends the guest at its first SYSCALL (a triple fault)"
    if case.op == "hypercall":
        return "kvm_pvm runs the hypercall instruction again and again: no guest of it ends"
    return None


def _too_many(case: Case, here: Limits) -> str | None:
    if case["vcpus"] > min(here.vcpus, here.cpus):
        return f"{case['vcpus']} vCPUs on {here.cpus} CPUs would take turns, not run at once"
    if case["slots"] > here.memslots:
        return f"KVM has {here.memslots} memslots here (KVM_CAP_NR_MEMSLOTS)"
    return None


def _one_page_for_all(case: Case, here: Limits) -> str | None:
    if case.op in FAULTS and case["vcpus"] > 1:
        return "its vCPUs would map and unmap one page for each other: leave @vcpus"
    return None


def _too_large(case: Case, here: Limits) -> str | None:
    size = case["pages"] * page_size(case) + MEMORY_BESIDES
    if here.memory is None or size <= here.memory * MEMORY_SHARE:
        return None
    return (
        f"it needs {size >> 20} MiB, more than half of the {here.memory >> 20} MiB that are "
        "available"
    )


def why_infeasible(case: Case, here: Limits) -> str | None:
    """Return why a case cannot be measured within `here`, None if it can."""
    checks = (_no_feature, _not_on_pvm, _too_many, _one_page_for_all, _too_large)
    return next((reason for check in checks if (reason := check(case, here))), None)
