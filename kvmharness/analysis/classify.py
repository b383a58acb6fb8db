"""The class of a toggle, read off its counters: pure rules, explained in docs/classes.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from kvmharness.model.counters import HARDWARE_EXITS, NO, SIGNALS, YES
from kvmharness.model.run import CaseClass, How, Root

Word = TypeVar("Word")
# The word that is right where every signal has the value wanted.
Rules = tuple[tuple[Word, Mapping[str, str]], ...]

# What a class is read off, in the order in which its evidence is told.
READ = ("exit", "emulated", "new", "found", "fault", "load", "reset", "unload", "free")
# What says that the root was dropped, as kvm_mmu_reset_context() calls kvm_mmu_unload(), and
# what says so at least of some root.
DROPS = ("reset", "unload")
FREES = (*DROPS, "free")

# How the write reached KVM.  A row fits when every signal it names has that value; the first
# that fits counts.
HOW: Rules[How] = (
    ("exit", {"exit": "yes"}),
    ("emulated", {"exit": "no", "emulated": "yes"}),
    ("no-exit", {"exit": "no", "emulated": "no"}),
)

# What became of the root.  "tdp_mmu" is the MMU in use: with the TDP MMU a root that is found
# again fires no tracepoint, with the others it fires kvm_mmu_get_page.  A root that was dropped
# was loaded again, as the guest ran on: where that was not seen, kvm_mmu_load is what cannot be
# seen.  Roots that were freed need not be the one in use, but to be kept none may be.
ROOT: Rules[Root] = (
    ("rebuilt", {"new": "yes", "load": "yes"}),
    ("rebuilt", {"new": "yes", "load": "unknown"}),
    ("rebuilt", {"new": "yes", "dropped": "yes"}),
    ("reloaded", {"new": "no", "load": "yes"}),
    ("reloaded", {"new": "no", "found": "yes", "load": "unknown"}),
    ("reloaded", {"new": "no", "dropped": "yes"}),
    ("kept", {"new": "no", "found": "no", "load": "no", "freed": "no"}),
    ("kept", {"new": "no", "found": "no", "load": "unknown", "tdp_mmu": "no", "freed": "no"}),
    ("kept-or-reloaded", {"new": "no", "found": "no", "load": "unknown", "freed": "no"}),
    # Without tracepoints only the faults of a rebuilt root can be seen.
    ("rebuilt", {"new": "unknown", "load": "yes", "fault": "yes"}),
    ("rebuilt", {"new": "unknown", "load": "unknown", "fault": "yes"}),
    ("reloaded", {"new": "unknown", "load": "yes", "fault": "no"}),
    ("reloaded", {"new": "unknown", "dropped": "yes", "fault": "no"}),
    ("kept", {"new": "unknown", "load": "no", "fault": "no", "freed": "no"}),
    ("kept-or-reloaded", {"new": "unknown", "load": "unknown", "fault": "no", "freed": "no"}),
)


@dataclass(frozen=True)
class Classified:
    """A class, and the counts per op that led there."""

    case_class: CaseClass
    evidence: dict[str, float]


def _level(value: float) -> str:
    if value >= YES:
        return "yes"
    # Less than `empty` shows is no count: the machine, or `empty`, was not what it was.
    return "no" if -NO <= value <= NO else "between"


def _first(rules: Rules[Word], seen: Mapping[str, str]) -> Word | Literal["unclear"]:
    for name, wanted in rules:
        if all(seen[signal] == value for signal, value in wanted.items()):
            return name
    return "unclear"


def classify(
    counters: Mapping[str, float | None],
    module: str | None,
    tdp_mmu: bool | None,
    empty: Mapping[str, float | None] | None = None,
) -> Classified | None:
    """Return the class that `counters` (per op) prove; None where nothing was counted.

    `module` is the vendor module; `tdp_mmu` whether KVM's TDP MMU is in use, None if unknown;
    `empty` the counters of the bare loop, which are subtracted.
    """
    sources = {signal: SIGNALS[signal] for signal in READ}
    if module in HARDWARE_EXITS:
        sources["exit"] = (*SIGNALS["exit"], "kvm.exits")
    seen = {"tdp_mmu": "unknown" if tdp_mmu is None else "yes" if tdp_mmu else "no"}
    evidence: dict[str, float] = {}
    for signal, names in sources.items():
        name = next((n for n in names if counters.get(n) is not None), None)
        value = None if name is None else counters[name]
        if name is None or value is None:
            seen[signal] = "unknown"
        else:
            net = round(value - ((empty or {}).get(name) or 0.0), 4)
            seen[signal] = _level(net)
            evidence[name] = net
    if not evidence:
        return None
    seen["dropped"] = "yes" if any(seen[signal] == "yes" for signal in DROPS) else "no"
    seen["freed"] = "yes" if any(seen[signal] in ("yes", "between") for signal in FREES) else "no"
    return Classified(CaseClass(_first(HOW, seen), _first(ROOT, seen)), evidence)


def uses_tdp_mmu(parameters: Mapping[str, Mapping[str, str]]) -> bool | None:
    """Read off the modules' parameters whether the TDP MMU is in use; None if they do not say.

    It needs kvm.tdp_mmu and two-dimensional paging (kvm_intel.ept or kvm_amd.npt).
    """
    on = {"Y", "1"}
    kvm = parameters.get("kvm", {})
    # A kvm with parameters but not this one is older than the TDP MMU (before 5.10).
    tdp_mmu = kvm.get("tdp_mmu", "N" if kvm else None)
    paging = [p[name] for p in parameters.values() for name in ("ept", "npt") if name in p]
    if tdp_mmu is not None and tdp_mmu not in on:
        return False
    if paging and not any(value in on for value in paging):
        return False
    return True if tdp_mmu is not None and paging else None
