"""Reasons for skipping: each true and each from what KVM says."""

from __future__ import annotations

import dataclasses

import pytest

from kvmharness.kvm.fds import System
from kvmharness.measure.feasible import FEATURES, Limits, available_memory, features, why_infeasible
from kvmharness.model.cases import Case, select

PLENTY = Limits("kvm_amd", frozenset(FEATURES), 32764, 1024, 8, 64 << 30)


def test_everything_is_feasible_where_there_is_plenty() -> None:
    cases = select(["*", "long64/cr0_wp@la57=1", "*/cr0_wp@pages=4096", "*/cr0_wp@vcpus=8"])
    assert [why_infeasible(case, PLENTY) for case in cases] == [None] * len(cases)


@pytest.mark.parametrize(
    ("name", "here", "says"),
    [
        ("long64/cr4_smep", {"features": frozenset()}, "no SMEP here"),
        ("long64/wx_cet", {"features": frozenset({"pge"})}, "no CET here"),
        ("long64/cr0_wp@la57=1", {"features": frozenset({"pge"})}, "no LA57 here"),
        ("pae32/cr0_wp", {"module": "kvm_pvm"}, "pages in long mode only"),
        ("long64/hypercall", {"module": "kvm_pvm"}, "again and again"),
        ("long64/syscall", {"module": "kvm_pvm"}, "at its first SYSCALL"),
        ("long64/fault@vcpus=2", {}, "one page for each other"),
        ("long64/cr0_wp@vcpus=9", {}, "9 vCPUs on 8 CPUs"),
        ("long64/cr0_wp@slots=512", {"memslots": 509}, "509 memslots"),
        ("long64/cr0_wp@pages=4096,huge=1", {"memory": 4 << 30}, "it needs 8256 MiB"),
    ],
)
def test_each_reason(name: str, here: dict[str, object], says: str) -> None:
    (case,) = select([name])
    limits = dataclasses.replace(PLENTY, **here)  # type: ignore[arg-type]
    assert says in (why_infeasible(case, limits) or "")


def test_memory_is_read_off_meminfo() -> None:
    assert available_memory("MemTotal: 5 kB\nMemAvailable:   2048 kB\n") == 2 << 20
    assert available_memory("MemTotal: 5 kB\n") is None


@pytest.mark.kvm
def test_features_come_from_kvm(system: System) -> None:
    found = features(system)
    assert found <= set(FEATURES)
    assert "nx" in found or "pge" in found
    assert why_infeasible(Case("long64", "cr0_wp"), PLENTY) is None
