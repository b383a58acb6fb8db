"""The host record, on this machine and from recorded texts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kvmharness.kvm.fds import System
from kvmharness.measure import host


@pytest.mark.kvm
def test_record_agrees_with_the_system(system: System) -> None:
    record = host.record(system)
    assert record.kernel.release == os.uname().release
    assert record.kvm.api_version == 12
    assert record.tsc_khz is not None
    assert record.tsc_khz > 100_000
    assert record.nested == ("hypervisor" in Path("/proc/cpuinfo").read_text())
    assert (record.hypervisor is None) != record.nested
    assert "spectre_v2" in record.cpu.mitigations
    assert record.kvm.module is not None
    assert set(record.kvm.parameters) == {"kvm", record.kvm.module}


def test_vendor_module_is_the_one_with_parameters(tmp_path: Path) -> None:
    (tmp_path / "module/kvm_amd/parameters").mkdir(parents=True)
    (tmp_path / "module/kvm").mkdir()
    assert host.vendor_module(tmp_path) == "kvm_amd"
    assert host.vendor_module(tmp_path / "none") is None


def test_cpuinfo_of_the_first_cpu() -> None:
    text = "vendor_id\t: GenuineIntel\nmodel\t\t: 85\nflags : a b\n\nvendor_id : second\n"
    assert host.parse_cpuinfo(text)["vendor_id"] == "GenuineIntel"
    assert host.parse_cpuinfo(text)["model"] == "85"


def test_unreadable_is_none_not_an_error(tmp_path: Path) -> None:
    assert host.read_text(tmp_path / "none") is None
    assert host.read_folder(tmp_path / "none") == {}
