"""The monitor that boots a Linux kernel: on a kernel of a few hundred bytes, by every end."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from kvmharness.errors import GuestTimeout, Infeasible, KernelPanic
from kvmharness.guest import linux
from kvmharness.guest.linux import Linux, LinuxVm
from kvmharness.kernel.resolve import Kernel
from kvmharness.kvm.fds import System
from kvmharness.lab import vmm
from tests.support.pvh import pvh_kernel

__all__ = ["pvh_kernel"]

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(120)]
INITRD = bytes(range(256)) * 33 + b"abc"
Prepare = Callable[..., tuple[Linux, Path]]


@pytest.fixture
def prepare(pvh_kernel: Kernel, tmp_path: Path) -> Prepare:
    def make(command_line: str, memory_mib: int = 32) -> tuple[Linux, Path]:
        archives = [tmp_path / "first", tmp_path / "second"]
        archives[0].write_bytes(INITRD)
        archives[1].write_bytes(b"wxyz")
        described, files = vmm.pack(pvh_kernel.image, archives, command_line, memory_mib)
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
        return described, tmp_path

    return make


def no_results(data: bytes) -> None:
    raise AssertionError(data)


def words(data: bytes) -> int:
    total = 0
    for (number,) in struct.iter_unpack("<I", data):
        total += number
    return total & 0xFFFFFFFF


def test_the_kernel_is_given_what_it_was_promised(
    system: System, prepare: Prepare, pvh_kernel: Kernel
) -> None:
    with LinuxVm(system, *prepare("off with it"), no_results) as vm:
        assert vm.run(10.0) == "off"
        told = vm.console.decode().splitlines()
    with pvh_kernel.image.open("rb") as file:
        section = ELFFile(file).get_section_by_name(".data")
        assert section is not None
        data = section.data()
    root = INITRD + b"\0" + b"wxyz"  # each archive begins on a multiple of four
    assert told[0] == "off with it"
    assert int(told[1], 16) == linux.MAGIC
    assert int(told[2], 16) == 2
    assert int(told[3], 16) == words(data)
    assert int(told[4], 16) == words(root)
    assert int(told[5], 16) == len(root)


def test_a_triple_fault_is_a_reset(system: System, prepare: Prepare) -> None:
    with LinuxVm(system, *prepare("p"), no_results) as vm:
        assert vm.run(10.0) == "reset"


def test_a_kernel_that_said_that_it_panics_did(system: System, prepare: Prepare) -> None:
    text = "p Kernel panic - not syncing: no init"
    said = "kernel panic: not syncing: no init; rip"
    with LinuxVm(system, *prepare(text), no_results) as vm, pytest.raises(KernelPanic, match=said):
        vm.run(10.0)


def test_a_kernel_that_hangs_is_bounded(system: System, prepare: Prepare) -> None:
    said = r"wrote nothing for 0\.5 s"
    with LinuxVm(system, *prepare("h"), no_results) as vm, pytest.raises(GuestTimeout, match=said):
        vm.run(0.5)


def test_it_is_stopped_when_somebody_has_heard_enough(system: System, prepare: Prepare) -> None:
    with LinuxVm(system, *prepare("h"), no_results) as vm:
        assert vm.run(10.0, lambda: len(vm.console) > 0) == "stopped"


def test_what_does_not_fit_is_refused(system: System, prepare: Prepare) -> None:
    with pytest.raises(Infeasible, match=r"takes 17 MiB of 16; give it more"):
        LinuxVm(system, *prepare("h", 16), no_results)
    with pytest.raises(Infeasible, match="3000 bytes, room for 2047"):
        LinuxVm(system, *prepare("h" * 3000), no_results)
