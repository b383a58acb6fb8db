"""VMs on the real /dev/kvm: guests that behave, and every way of misbehaving."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from kvmharness.errors import GuestError, GuestTimeout, Infeasible, KvmError
from kvmharness.guest.state import Blob
from kvmharness.guest.vm import MAX_SAMPLES, GuestVm
from kvmharness.kvm import exits
from kvmharness.kvm.fds import System
from kvmharness.kvm.raw import lib
from kvmharness.measure.feasible import limits, why_infeasible
from kvmharness.measure.host import vendor_module
from kvmharness.model.cases import PAGED, Case, select

pytestmark = pytest.mark.kvm

TOGGLE = Case("long64", "cr0_wp")
LIMIT_S = 0.2

RING_END = bytes([0xB0, lib.DOORBELL_END, 0xE6, lib.PORT_DOORBELL])  # mov $2,%al; out
RING_BEGIN = bytes([0xB0, lib.DOORBELL_BEGIN, 0xE6, lib.PORT_DOORBELL])
SPIN = b"\xeb\xfe"  # jmp .
HALT = b"\xf4"
UD2 = b"\x0f\x0b"  # #UD without an IDT: a triple fault


def provoke(system: System, blob: Blob, case: Case = TOGGLE) -> GuestError:
    with (
        GuestVm(system, case, timeout_s=LIMIT_S, blob=blob) as guest,
        pytest.raises(GuestError) as caught,
    ):
        guest.measure(1, 1)
    return caught.value


VARIANTS = [
    "*",
    "long64/*@high=1",
    "*/cr0_wp@irqchip=0",
    "*/cr0_wp@pages=16",
    "*/cr0_wp@slots=64",
    "long64/cr0_wp@pages=4,huge=1",
    "long64/cr3_switch@pcid=1",
    "long64/cr0_wp@la57=1",
]


@pytest.mark.parametrize("name", [c.name for c in select(VARIANTS)])
def test_every_case_measures(system: System, name: str) -> None:
    (case,) = select([name])
    reason = why_infeasible(case, limits(system, vendor_module()))
    if reason:
        pytest.skip(reason)
    with GuestVm(system, case) as guest:
        try:
            proved = guest.prove()
        except Infeasible as error:
            pytest.skip(str(error))
        measured = guest.measure(50, 3)
    assert (proved is not None) == (case.mode in PAGED)
    assert len(measured.ticks) == 3
    assert min(measured.ticks) > 0


def test_a_machine_measures_again_with_other_parameters(system: System) -> None:
    with GuestVm(system, TOGGLE) as guest:
        assert len(guest.measure(10, 1).ticks) == 1
        assert len(guest.measure(3, MAX_SAMPLES).ticks) == MAX_SAMPLES


def test_longer_samples_take_longer(system: System) -> None:
    with GuestVm(system, TOGGLE) as guest:
        guest.measure(100, 1)
        short = min(guest.measure(100, 50).ticks)
        long = min(guest.measure(1000, 50).ticks)
    assert 3 < long / short < 30


def test_spinning_guest_is_stopped_in_time(system: System, stub: Callable[..., Blob]) -> None:
    begin = time.monotonic()
    error = provoke(system, stub(SPIN))
    assert isinstance(error, GuestTimeout)
    assert time.monotonic() - begin < LIMIT_S + 2
    assert "rang no doorbell within 0.2 s" in str(error)
    assert error.rip == lib.GUEST_CODE


def test_spin_between_the_doorbells_is_stopped(system: System, stub: Callable[..., Blob]) -> None:
    error = provoke(system, stub(RING_BEGIN + SPIN))
    assert isinstance(error, GuestTimeout)
    assert error.rip == lib.GUEST_CODE + len(RING_BEGIN)


def test_spin_in_real_mode_is_stopped(system: System, stub: Callable[..., Blob]) -> None:
    error = provoke(system, stub(SPIN, "real16"), Case("real16", "cr0_wp"))
    assert isinstance(error, GuestTimeout)


def test_triple_fault_is_named(system: System, stub: Callable[..., Blob]) -> None:
    error = provoke(system, stub(UD2))
    assert not isinstance(error, GuestTimeout)
    assert error.reason == "triple fault: KVM_EXIT_SHUTDOWN"


def test_early_halt_without_irqchip_is_named(system: System, stub: Callable[..., Blob]) -> None:
    error = provoke(system, stub(HALT), Case("long64", "cr0_wp", {"irqchip": 0}))
    assert error.reason == "halted early: KVM_EXIT_HLT"


def test_early_halt_inside_kvm_is_named(system: System, stub: Callable[..., Blob]) -> None:
    error = provoke(system, stub(HALT))
    assert isinstance(error, GuestTimeout)
    assert "halted early and slept" in error.reason


def test_wrong_doorbell_is_named(system: System, stub: Callable[..., Blob]) -> None:
    assert provoke(system, stub(RING_END)).reason == "rang doorbell 02, not 1"


def test_end_without_samples_is_named(system: System, stub: Callable[..., Blob]) -> None:
    assert provoke(system, stub(RING_BEGIN + RING_END)).reason == "took 0 samples of 1"


def test_instruction_that_kvm_does_not_emulate_is_named(
    system: System, stub: Callable[..., Blob]
) -> None:
    if vendor_module() != "kvm_pvm":
        pytest.skip("hardware runs it: only a fully emulated guest ends here")
    error = provoke(system, stub(b"\x0f\x38\x00\xc0"))  # pshufb %mm0, %mm0
    assert error.reason.startswith("KVM could not go on: KVM_EXIT_INTERNAL_ERROR(suberror=0x1")
    assert error.rip == lib.GUEST_CODE


def test_ioctl_on_a_closed_vcpu_is_a_typed_error(system: System) -> None:
    with system.create_vm() as vm, vm.create_vcpu(0) as vcpu:
        vcpu.close()
        vcpu.close()
        with pytest.raises(KvmError, match="KVM_GET_REGS: EBADF"):
            vcpu.get_regs()


def test_vcpu_without_code_leaves_with_a_typed_exit(system: System) -> None:
    """No memslot backs the reset vector at 0xfffffff0, so KVM has nothing to run."""
    with system.create_vm() as vm:
        vm.set_identity_map_addr(0xFFFBC000)
        vm.set_tss_addr(0xFFFBD000)
        vm.set_user_memory_region(0, 0, 0x10000)
        with vm.create_vcpu(0) as vcpu:
            exit_ = vcpu.run(2_000_000_000)
    assert isinstance(exit_, exits.InternalError | exits.Mmio)


def test_unknown_capability_counts_as_unsupported(system: System) -> None:
    assert system.check_extension("NO_SUCH_THING") == 0
    assert system.check_extension("USER_MEMORY") == 1
