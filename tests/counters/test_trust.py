"""Probes that cannot see are told from those that have nothing to see."""

from __future__ import annotations

from kvmharness.counters import trust
from kvmharness.counters.trust import FREE, INIT, LOAD, NEW_PAGE, RESET, UNLOAD

# What the life of a VM gives on Debian's 6.1, where kvm_mmu_unload is a function to all.
LIFE = {
    NEW_PAGE: 5,
    LOAD: 12,
    RESET: 12,
    UNLOAD: 13,
    FREE: 26,
    INIT: 14,
    "kvm:kvm_userspace_exit": 4,
    "kvm:kvm_exit": 40,
    "kvm:kvm_entry": 41,
    "kvm:kvm_page_fault": 6,
}


def test_all_that_fires_is_trusted() -> None:
    assert trust.silent(LIFE, "kvm_amd") == {}
    assert trust.overtaken(LIFE) == {}


def test_each_probe_that_never_fires_is_found() -> None:
    for name in LIFE:
        assert list(trust.silent({**LIFE, name: 0}, "kvm_intel")) == [name]


def test_what_was_not_counted_is_not_doubted() -> None:
    assert trust.silent({}, "kvm_amd") == {}
    assert trust.overtaken({LOAD: None, RESET: None}) == {}


def test_hardware_exits_must_fire_only_where_hardware_runs_the_guest() -> None:
    emulated = {**LIFE, "kvm:kvm_exit": 0, "kvm:kvm_entry": 0, "kvm:kvm_page_fault": 0}
    assert trust.silent(emulated, "kvm_pvm") == {}
    assert len(trust.silent(emulated, "kvm_amd")) == 3


def test_function_inlined_into_one_who_calls_it() -> None:
    """7.3.4: kvm_mmu_reset_context has its own kvm_mmu_unload, the end of a VM has not."""
    doubts = trust.overtaken({**LIFE, UNLOAD: 1})
    assert list(doubts) == [UNLOAD]
    assert "kvm_mmu_reset_context" in doubts[UNLOAD]
    assert list(trust.overtaken({RESET: 1.0, UNLOAD: 0.0, FREE: 2.0, LOAD: 1.0})) == [UNLOAD]


def test_load_that_was_not_seen_after_a_drop() -> None:
    """A vCPU's first entry calls kvm_mmu_load, later ones have it inlined."""
    assert list(trust.overtaken({RESET: 1.0, UNLOAD: 1.0, FREE: 2.0, LOAD: 0.0})) == [LOAD]
    assert trust.overtaken({RESET: 0.0, UNLOAD: 0.0, FREE: 0.0, LOAD: 0.0}) == {}
