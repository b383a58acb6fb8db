"""Request numbers and struct sizes against the header that the core was compiled with."""

from __future__ import annotations

import errno
import os
import signal
import time

import pytest

from kvmharness.errors import KvmError
from kvmharness.kvm import raw
from kvmharness.kvm.fds import System
from kvmharness.kvm.raw import REQUESTS, ffi, lib

# The ABI of x86: these sizes are baked into the request numbers of every kernel.
ABI_SIZES = {
    "struct kvm_regs": 144,
    "struct kvm_sregs": 312,
    "struct kvm_segment": 24,
    "struct kvm_userspace_memory_region": 32,
    "struct kvm_cpuid_entry2": 40,
    "struct kvm_cpuid2": 8,
    "struct kvm_mp_state": 4,
    "struct kvm_irq_level": 8,
    "struct kvm_pit_config": 64,
    "struct kvm_stats_header": 24,
    "struct kvm_stats_desc": 16,
}


@pytest.mark.parametrize("name", sorted(REQUESTS))
def test_request_number_is_the_headers(name: str) -> None:
    assert REQUESTS[name] == getattr(lib, name)


def test_every_request_of_the_core_is_built() -> None:
    macros = {n for n in dir(lib) if n.startswith(("KVM_GET_", "KVM_SET_", "KVM_CREATE_"))}
    assert macros <= set(REQUESTS)


@pytest.mark.parametrize(("ctype", "size"), ABI_SIZES.items())
def test_struct_size(ctype: str, size: int) -> None:
    assert ffi.sizeof(ctype) == size


def test_kvm_run_offsets() -> None:
    # The KVM API document, section 5, fixes where the exit's payload begins.
    assert ffi.offsetof("struct kvm_run", "immediate_exit") == 1
    assert ffi.offsetof("struct kvm_run", "exit_reason") == 8
    assert ffi.offsetof("struct kvm_run", "io") == 32


def test_shared_page_holds_its_samples() -> None:
    assert lib.SHARED_STAMPS + 16 * lib.SHARED_MAX_SAMPLES <= lib.SHARED_SIZE
    assert lib.GUEST_SHARED + lib.SHARED_SIZE <= lib.GUEST_GDT
    assert lib.GUEST_SHARED_MORE + 256 * lib.SHARED_SIZE <= lib.GUEST_MEMORY


def test_failing_ioctl_names_itself_and_the_cause() -> None:
    with open(os.devnull) as file, pytest.raises(KvmError) as caught:
        raw.ioctl(file.fileno(), "KVM_GET_API_VERSION", next_step="open /dev/kvm")
    assert caught.value.ioctl == "KVM_GET_API_VERSION"
    assert caught.value.errno == errno.ENOTTY
    assert str(caught.value).startswith("KVM_GET_API_VERSION: ENOTTY: ")
    assert str(caught.value).endswith("; open /dev/kvm")


@pytest.mark.kvm
def test_signals_do_not_fail_the_setting_up(system: System) -> None:
    """KVM_CREATE_VM returns EINTR whenever a signal is pending, here every 100 us.

    The signals pause after each twentieth, until the next VM: where a VM takes longer than
    the pause between two of them, an endless row would let none be created.
    """
    came = 0

    def heard(*_: object) -> None:
        nonlocal came
        came += 1
        if came % 20:
            signal.setitimer(signal.ITIMER_REAL, 1e-4)

    before = signal.signal(signal.SIGALRM, heard)
    signal.siginterrupt(signal.SIGALRM, True)
    try:
        for _ in range(100):
            signal.setitimer(signal.ITIMER_REAL, 1e-4)
            with system.create_vm() as vm, vm.create_vcpu(0) as vcpu:
                vcpu.set_sregs(vcpu.get_sregs())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert came


@pytest.mark.kvm
def test_a_handler_that_raises_ends_the_setting_up(system: System) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    def create_for_ever() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        while True:
            system.create_vm().close()

    before = signal.signal(signal.SIGALRM, stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            create_for_ever()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_it_sleeps_until_a_time_and_no_longer_where_that_is_past() -> None:
    begin = time.monotonic_ns()
    raw.sleep_until(begin + 20_000_000)
    assert time.monotonic_ns() - begin >= 20_000_000
    raw.sleep_until(0)


def test_waiting_for_a_tick_ends_where_none_is_seen() -> None:
    begin = time.monotonic_ns()
    raw.before_tick(40_000, 30_000_000)
    assert time.monotonic_ns() - begin < 5e9
