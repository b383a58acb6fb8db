"""The host record, on this machine and from recorded texts."""

from __future__ import annotations

import os
import re
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


def system_of(
    folder: Path, available: str, current: str, flags: str = "constant_tsc nonstop_tsc"
) -> str | None:
    """Lay a /sys and a /proc down, as few machines have an unstable TSC; say what is wrong."""
    clock = folder / "devices/system/clocksource/clocksource0"
    clock.mkdir(parents=True)
    (clock / "available_clocksource").write_text(f"{available}\n")
    (clock / "current_clocksource").write_text(f"{current}\n")
    (folder / "cpuinfo").write_text(f"vendor_id\t: GenuineIntel\nflags\t\t: fpu {flags}\n")
    return host.tsc_unstable(folder, folder)


@pytest.mark.parametrize(
    ("available", "current"),
    [
        ("tsc hpet acpi_pm", "tsc"),
        ("tsc kvm-clock", "kvm-clock"),
        # As a kernel says that was booted a moment ago.
        ("tsc-early hpet acpi_pm", "tsc-early"),
    ],
)
def test_a_tsc_that_the_kernel_offers_is_trusted(
    tmp_path: Path, available: str, current: str
) -> None:
    assert system_of(tmp_path, available, current) is None


@pytest.mark.parametrize(
    ("available", "current", "flags", "why"),
    [
        ("hpet acpi_pm", "hpet", "constant_tsc nonstop_tsc", "taken the TSC off .* time by hpet"),
        ("tsc hpet", "hpet", "constant_tsc nonstop_tsc", "tells time by hpet, not by the TSC"),
        ("tsc", "tsc", "constant_tsc", "the CPU lacks nonstop_tsc"),
    ],
)
def test_an_unstable_tsc_is_told_by_the_clocksource_in_use(
    tmp_path: Path, available: str, current: str, flags: str, why: str
) -> None:
    assert re.search(why, system_of(tmp_path, available, current, flags) or "")


def test_without_proc_nobody_says_what_the_cpu_lacks(tmp_path: Path) -> None:
    why = host.tsc_unstable(tmp_path, tmp_path / "proc")
    assert why == (
        f"{tmp_path}/proc/cpuinfo cannot be read, so nobody knows whether a tick is a fixed time"
    )


def test_the_governor_is_the_pinned_cpus(tmp_path: Path) -> None:
    for cpu, name in ((0, "performance"), (3, "powersave")):
        folder = tmp_path / f"devices/system/cpu/cpu{cpu}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{name}\n")
    assert host.governor(3, tmp_path) == "powersave"
    assert host.governor(0, tmp_path) == "performance"
    assert host.governor(2, tmp_path) is None
    assert host.governor(None, tmp_path) == "performance, powersave"


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
