"""The W^X proof: what it lets pass, and that it can fail, on made-up records and for real."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from kvmharness.errors import KvmIncorrect
from kvmharness.guest import forced_emulation, shadow, state, wx_check
from kvmharness.guest.vm import PROOF_ITERATIONS, PROOF_ROUNDS, GuestVm
from kvmharness.guest.wx_check import Step
from kvmharness.kvm.fds import System
from kvmharness.kvm.raw import lib
from kvmharness.model.cases import Case

AT = 0x8060
WP, FAULTED, UNDEFINED = lib.PROOF_WP, lib.PROOF_FAULTED, lib.PROOF_UNDEFINED
TOGGLE = Case("long64", "cr0_wp")
PLAIN = wx_check.steps(frozenset(), sets_cr4=False, user=True, forced=False)
ALL = wx_check.steps(frozenset({"smep", "smap"}), sets_cr4=True, user=True, forced=True)


def good(steps: Sequence[Step] = PLAIN, checks: int = 2) -> list[list[int]]:
    """Records of a correct KVM around `empty`, where WP is set as it stands."""
    records: list[list[int]] = []
    held = 0
    for step in [*steps] * checks:
        wrote = AT + lib.PROOF_RECORD * len(records)
        wp = step.wp is not False
        flags = WP if wp else 0
        if step.faults(wp):
            at = lib.GUEST_USER_WINDOW if step.user else lib.GUEST_WINDOW
            at += lib.PROOF_CODE_AT if step.fetch else 0
            records.append([flags | FAULTED, 0x11 if step.fetch else 3, at, held])
        else:
            held = held if step.fetch else wrote
            records.append([flags, 0, 0, held])
    return records


def judge(
    records: list[list[int]],
    host_sees: int | None = None,
    op: str = "empty",
    steps: Sequence[Step] = PLAIN,
) -> Mapping[str, int]:
    data = b"".join(struct.pack("<IIII", *record) for record in records)
    held = records[-1][3] if host_sees is None else host_sees
    return wx_check.judge(Case("long64", op), data, AT, 1001, tuple(steps), held)


def test_a_correct_kvm_passes() -> None:
    assert judge(good()) == {"direct": 6, "direct-user": 4}


def test_every_path_is_counted() -> None:
    right = judge(good(ALL), steps=ALL)
    assert set(right) == {"direct", "direct-user", "fetch-user", "emulated", "emulated-user"}
    assert sum(right.values()) == 2 * len(ALL)


def test_what_the_table_tries() -> None:
    """The combinations of the page, CR0.WP, CR4.SMEP, CR4.SMAP and RFLAGS.AC, each once."""
    assert len(set(ALL)) == len(ALL)
    assert all(not step.cr4 for step in PLAIN)
    pae = wx_check.steps(frozenset({"smep", "smap"}), sets_cr4=False, user=False, forced=True)
    assert {step.path for step in pae} == {"direct", "emulated"}
    faults = {
        (step.wp, step.user, step.fetch, step.cr4, step.ac): step.faults(bool(step.wp))
        for step in ALL
        if step.wp is not None
    }
    assert faults[False, False, False, None, False] is False
    assert faults[False, True, False, wx_check.OFF, False] is False
    assert faults[False, True, False, wx_check.SMAP, False] is True
    assert faults[False, True, False, wx_check.SMAP, True] is False
    assert faults[True, True, False, wx_check.SMAP, True] is True
    assert faults[False, True, True, wx_check.SMEP, False] is True
    assert faults[True, True, True, wx_check.OFF, False] is False
    most = (PROOF_ROUNDS + 1) * len(ALL) * lib.PROOF_RECORD
    assert lib.SHARED_STAMPS + most <= lib.SHARED_SIZE


@pytest.mark.parametrize(
    ("number", "field", "value", "says"),
    [
        (5, 0, WP, "did not fault with CR0.WP=1 (iteration 1001, error code 0x3)"),
        (2, 0, FAULTED, "faulted with CR0.WP=0"),
        (0, 1, 2, "error code should be 0x3"),
        (0, 2, 0x1000, "address 0x1000 should be 0x400000"),
        (3, 2, 0x400000, "address 0x400000 should be 0x401000"),
        (3, 0, WP, "a supervisor's write to a read-only user page did not fault with CR0.WP=1"),
        (5, 3, 7, "the page holds 0x7 after a supervisor's write to a read-only page"),
        (2, 3, 7, "the page holds 0x7 after a supervisor's write to a read-only page"),
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


def at(wanted: Step) -> int:
    return ALL.index(wanted)


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (Step(True, forced=True), "a supervisor's write that KVM emulates to a read-only page did"),
        (
            Step(True, user=True, forced=True, cr4=wx_check.OFF),
            "a supervisor's write that KVM emulates to a read-only user page did not fault",
        ),
        (
            Step(False, user=True, cr4=wx_check.SMAP),
            "to a read-only user page did not fault with CR0.WP=0, CR4.SMAP=1",
        ),
        (
            Step(True, user=True, cr4=wx_check.BOTH, ac=True),
            "did not fault with CR0.WP=1, CR4.SMAP=1, CR4.SMEP=1, RFLAGS.AC=1",
        ),
        (
            Step(False, user=True, cr4=wx_check.SMEP, fetch=True),
            "a fetch to a read-only user page did not fault with CR0.WP=0, CR4.SMEP=1",
        ),
    ],
)
def test_each_path_can_go_wrong(step: Step, says: str) -> None:
    records = good(ALL)
    records[at(step)][0] &= ~FAULTED
    with pytest.raises(KvmIncorrect) as caught:
        judge(records, steps=ALL)
    assert says in str(caught.value)


def test_a_prefix_that_kvm_never_takes_proves_nothing() -> None:
    records, held = good(ALL), 0
    for record, step in zip(records, [*ALL] * 2, strict=True):
        wp = step.wp is not False
        if step.forced:
            record[:] = [(WP if wp else 0) | UNDEFINED, 0, 0, held]
        elif step.faults(wp) or step.fetch:
            record[3] = held
        held = record[3]
    right = judge(records, steps=ALL)
    assert set(right) == {"direct", "direct-user", "fetch-user"}
    taken = at(Step(True, forced=True))
    records[taken] = [WP | FAULTED, 3, lib.GUEST_WINDOW, records[taken][3]]
    with pytest.raises(KvmIncorrect, match="at some attempts only"):
        judge(records, steps=ALL)


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


def test_the_parameter_is_set_for_the_proof_only(tmp_path: Path) -> None:
    parameter = tmp_path / "force_emulation_prefix"
    parameter.write_text("N\n")
    with forced_emulation.allowed(False, parameter) as reason:
        assert reason == "kvm.force_emulation_prefix is N; load kvm with force_emulation_prefix=1"
        assert parameter.read_text() == "N\n"
    with forced_emulation.allowed(True, parameter) as reason:
        assert reason is None
        assert parameter.read_text() == "1"
    assert parameter.read_text() == "N"
    with forced_emulation.allowed(True, tmp_path / "none") as reason:
        assert reason == "this KVM has no parameter force_emulation_prefix"


@pytest.mark.kvm
@pytest.mark.parametrize("op", ["cr0_wp", "empty", "wx", "cr4_pge", "efer_nx", "cr3_switch"])
def test_this_kvm_is_correct(system: System, op: str) -> None:
    with GuestVm(system, Case("long64", op)) as guest:
        proof = guest.prove()
        assert proof
        # WP as it stood, set and clear, by the CPU: what every KVM can be asked.
        assert proof.attempts["direct"] == (PROOF_ROUNDS + 1) * 3
        assert set(proof.absent) >= {"emulated", "emulated-user"} - set(proof.attempts)
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


def dropping(write: bytes, after: str) -> state.Blob:
    """Return long64 without one `mov` to CR0: the first one of these bytes after a symbol."""
    blob = state.blob("long64")
    begin = blob.code.index(write, blob.symbols[after] - lib.GUEST_CODE)
    end = begin + len(write)
    broken = blob.code[:begin] + b"\x90" * len(write) + blob.code[end:]
    return dataclasses.replace(blob, code=broken)


FROM_RAX, FROM_RBX = b"\x0f\x22\xc0", b"\x0f\x22\xc3"  # mov %rax, %cr0; mov %rbx, %cr0


@pytest.mark.kvm
@pytest.mark.parametrize(
    "blob",
    [
        # The check's own write that clears WP, and the op's toggle in the proof's loop.
        pytest.param(dropping(FROM_RAX, "prove_sets_wp"), id="check"),
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


def test_what_shadow_paging_cannot_tell_is_not_held_against_it() -> None:
    have = frozenset({"smep", "smap"})
    shadowed = wx_check.steps(have, sets_cr4=True, user=True, forced=True, shadow=True)
    left_out = [step for step in ALL if step not in shadowed]
    assert len(left_out) == 2  # with SMAP alone, and with SMEP
    for step in left_out:
        assert step.faults(wp=False)
        assert (step.path, step.ac) == ("direct-user", False)
    # The emulator looks the page up in the guest's own tables: it is tried.
    assert [step for step in ALL if step.forced] == [step for step in shadowed if step.forced]


@pytest.mark.parametrize(
    ("module", "name", "value", "shadowed"),
    [
        ("kvm_amd", "npt", "1", False),
        ("kvm_amd", "npt", "N", True),
        ("kvm_intel", "ept", "Y", False),
        ("kvm_pvm", "force", "Y", True),
    ],
)
def test_shadow_paging_is_read_off_the_vendor_module(
    tmp_path: Path, module: str, name: str, value: str, shadowed: bool
) -> None:
    parameter = tmp_path / module / "parameters" / name
    parameter.parent.mkdir(parents=True)
    parameter.write_text(f"{value}\n")
    assert shadow.in_use(tmp_path) is shadowed
