"""Every exit is typed.  The structs are filled by hand here: most of these exits cannot be
had from a healthy guest; tests/guest/test_vm.py provokes those that can."""

from __future__ import annotations

from typing import Any

import pytest

from kvmharness.kvm import exits
from kvmharness.kvm.raw import ffi, lib, new


@pytest.fixture
def page() -> Any:
    """Two pages that begin with a struct kvm_run, as KVM maps it."""
    return new("uint8_t[8192]")


def as_run(page: Any) -> Any:
    return ffi.cast("struct kvm_run *", page)


def test_io_write_carries_its_data(page: Any) -> None:
    run = as_run(page)
    run.exit_reason = lib.KVM_EXIT_IO
    run.io.direction, run.io.size, run.io.port, run.io.count = lib.KVM_EXIT_IO_OUT, 2, 0xF4, 2
    run.io.data_offset = 4096
    ffi.memmove(page + 4096, b"abcdef", 6)
    assert exits.read(run) == exits.Io("IO", True, 0xF4, 2, 2, b"abcd")


def test_io_read_has_no_data(page: Any) -> None:
    run = as_run(page)
    run.exit_reason = lib.KVM_EXIT_IO
    run.io.direction, run.io.size, run.io.port, run.io.count = lib.KVM_EXIT_IO_IN, 1, 0x60, 1
    assert exits.read(run) == exits.Io("IO", False, 0x60, 1, 1, b"")


def test_mmio_length_is_bounded_by_the_struct(page: Any) -> None:
    run = as_run(page)
    run.exit_reason = lib.KVM_EXIT_MMIO
    run.mmio.phys_addr, run.mmio.len, run.mmio.is_write = 0xFEE00000, 200, 1
    assert exits.read(run) == exits.Mmio("MMIO", True, 0xFEE00000, bytes(8))


def test_internal_error_data_is_bounded(page: Any) -> None:
    run = as_run(page)
    run.exit_reason = lib.KVM_EXIT_INTERNAL_ERROR
    run.internal.suberror, run.internal.ndata = 1, 1000
    read = exits.read(run)
    assert isinstance(read, exits.InternalError)
    assert read.suberror == 1
    assert len(read.data) == 16


def test_fail_entry_hypercall_and_the_rest(page: Any) -> None:
    run = as_run(page)
    run.exit_reason = lib.KVM_EXIT_FAIL_ENTRY
    run.fail_entry.hardware_entry_failure_reason = 0x80000021
    assert str(exits.read(run)) == ("KVM_EXIT_FAIL_ENTRY(hardware_entry_failure_reason=0x80000021)")
    run.exit_reason = lib.KVM_EXIT_HYPERCALL
    run.hypercall.nr = 12
    hypercall = exits.read(run)
    assert isinstance(hypercall, exits.Hypercall)
    assert hypercall.nr == 12
    assert len(hypercall.args) == 6


def test_every_reason_of_the_header_has_a_name_and_reads(page: Any) -> None:
    run = as_run(page)
    for number, name in exits.REASONS.items():
        run.exit_reason = number
        assert exits.read(run).name == name
    names = set(exits.REASONS.values())
    assert {"IO", "HLT", "SHUTDOWN", "IOAPIC_EOI", "HYPERV", "XEN"} <= names
    assert not {"IO_IN", "IO_OUT", "HYPERV_SYNIC", "XEN_HCALL"} & names


def test_reason_newer_than_the_header_is_unknown(page: Any) -> None:
    run = as_run(page)
    run.exit_reason = 9999
    assert str(exits.read(run)) == "Unknown(9999)"
