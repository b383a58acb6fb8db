"""The W^X proof: what it lets pass, and that it can fail, on made-up records and for real."""

from __future__ import annotations

import dataclasses
import struct

import pytest

from kvmharness.errors import KvmIncorrect
from kvmharness.guest import state, wx_check
from kvmharness.guest.vm import PROOF_ITERATIONS, PROOF_ROUNDS, GuestVm
from kvmharness.kvm.fds import System
from kvmharness.kvm.raw import lib
from kvmharness.model.cases import Case

AT = 0x8060
WP, FAULTED = lib.PROOF_WP, lib.PROOF_FAULTED
TOGGLE = Case("long64", "cr0_wp")


def good(checks: int = 2) -> list[list[int]]:
    """Records of a correct KVM around `empty`: as it stood (WP set), WP set, WP clear."""
    records: list[list[int]] = []
    held = 0
    for check in range(checks):
        for step in range(lib.PROOF_ATTEMPTS):
            wrote = AT + lib.PROOF_RECORD * (check * lib.PROOF_ATTEMPTS + step)
            if step == 2:
                held = wrote
                records.append([0, 0, 0, held])
            else:
                records.append([WP | FAULTED, 3, lib.GUEST_WINDOW, held])
    return records


def judge(records: list[list[int]], host_sees: int | None = None, op: str = "empty") -> None:
    data = b"".join(struct.pack("<IIII", *record) for record in records)
    found = wx_check.attempts(data, AT, 1001)
    wx_check.judge(f"long64/{op}", op, found, records[-1][3] if host_sees is None else host_sees)


def test_a_correct_kvm_passes() -> None:
    judge(good())


@pytest.mark.parametrize(
    ("number", "field", "value", "says"),
    [
        (4, 0, WP, "did not fault with CR0.WP=1 (iteration 1001, error code 0x3)"),
        (2, 0, FAULTED, "faulted with CR0.WP=0"),
        (0, 1, 2, "error code should be 0x3"),
        (0, 2, 0x1000, "address 0x1000 should be 0x400000"),
        (3, 3, 7, "the page holds 0x7 after a write with CR0.WP=1"),
        (2, 3, 7, "the page holds 0x7 after a write with CR0.WP=0"),
    ],
)
def test_each_wrong_is_named(number: int, field: int, value: int, says: str) -> None:
    records = good()
    records[number][field] = value
    with pytest.raises(KvmIncorrect) as caught:
        judge(records)
    assert says in str(caught.value)
    assert str(caught.value).startswith("KVM is incorrect: long64/empty: ")
    assert caught.value.exit_code == 1


def test_a_toggle_that_did_not_take_is_named() -> None:
    records = good()
    records[1] = [0, 0, 0, AT + lib.PROOF_RECORD]
    records[2][3] = AT + 2 * lib.PROOF_RECORD
    with pytest.raises(KvmIncorrect, match=r"CR0\.WP reads as 0 where 1 was written last"):
        judge(records)


def test_toggles_that_the_op_dropped_are_named() -> None:
    """After 1,001 toggles WP must be clear: records in which it is still set are wrong."""
    with pytest.raises(KvmIncorrect, match=r"reads as 1 where 0 was written last \(iteration 1001"):
        judge(good(), op="cr0_wp")


def test_the_hosts_view_counts() -> None:
    with pytest.raises(KvmIncorrect, match="the host sees 0x5"):
        judge(good(), host_sees=5)


@pytest.mark.kvm
@pytest.mark.parametrize("op", ["cr0_wp", "empty", "wx", "cr4_pge", "efer_nx", "cr3_switch"])
def test_this_kvm_is_correct(system: System, op: str) -> None:
    with GuestVm(system, Case("long64", op)) as guest:
        assert guest.prove() == (PROOF_ROUNDS + 1) * lib.PROOF_ATTEMPTS
        assert guest.prove() is None


@pytest.mark.kvm
def test_page_tables_that_leave_the_page_writable_fail_the_proof(system: System) -> None:
    with GuestVm(system, TOGGLE) as guest:
        assert guest.roots is not None
        guest.memory[guest.roots.window_entry] |= 0b10  # the write permission
        with pytest.raises(KvmIncorrect) as caught:
            guest.prove()
    assert "did not fault with CR0.WP=1" in str(caught.value)
    assert caught.value.iteration == 0


def dropping(write: bytes, after: str, skip: int = 0) -> state.Blob:
    """Return long64 without one `mov` to CR0: the one of these bytes after a symbol and `skip`."""
    blob = state.blob("long64")
    begin = blob.symbols[after] - lib.GUEST_CODE + skip
    at = blob.code.index(write, begin)
    broken = blob.code[:at] + b"\x90" * len(write) + blob.code[at + len(write) :]
    return dataclasses.replace(blob, code=broken)


FROM_RAX, FROM_RBX = b"\x0f\x22\xc0", b"\x0f\x22\xc3"  # mov %rax, %cr0; mov %rbx, %cr0


@pytest.mark.kvm
@pytest.mark.parametrize(
    "blob",
    [
        # The check's own write that clears WP, and the op's toggle in the proof's loop.
        pytest.param(dropping(FROM_RAX, "prove_sets_wp", len(FROM_RAX)), id="check"),
        pytest.param(dropping(FROM_RBX, "prove_cr0_wp"), id="op"),
    ],
)
def test_a_guest_that_drops_a_toggle_fails_the_proof(system: System, blob: state.Blob) -> None:
    with (
        GuestVm(system, TOGGLE, blob=blob) as guest,
        pytest.raises(KvmIncorrect, match=r"CR0\.WP reads as 1 where 0 was written last"),
    ):
        guest.prove()


@pytest.mark.kvm
def test_a_fault_inside_the_window_is_a_correctness_failure(system: System) -> None:
    with GuestVm(system, Case("long64", "wx"), blob=dropping(FROM_RBX, "op_wx")) as guest:
        guest.prove()
        with pytest.raises(KvmIncorrect) as caught:
            guest.measure(PROOF_ITERATIONS, 1)
    assert "a page fault nobody expected at 0x400000" in str(caught.value)
    assert caught.value.error_code == 3
