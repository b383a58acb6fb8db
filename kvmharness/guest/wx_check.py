"""The W^X proof: judge what the guest's own page-fault handler saw (guests/prove.h).

A supervisor's write to a read-only page must fault if CR0.WP is set and must land if it is
clear, with the error code and the address that the architecture gives.  Pure.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from kvmharness.errors import KvmIncorrect
from kvmharness.kvm.raw import lib
from kvmharness.model.cases import WINDOW_OPS

# Page-fault error code: the page is present, and it was a write, by the supervisor.
ERROR_CODE = 0b011


@dataclass(frozen=True)
class Attempt:
    """One write to the window: `value` is what it held afterwards, `wrote` what was written."""

    iteration: int
    wp: bool
    faulted: bool
    error_code: int
    cr2: int
    value: int
    wrote: int


def attempts(records: bytes, address: int, iterations: int) -> list[Attempt]:
    """Read the guest's records; `address` is the first one's (virtual, its low half).

    `iterations` is how many ops lie between two checks.
    """
    found = []
    for number, fields in enumerate(struct.iter_unpack("<IIII", records)):
        flags, error_code, cr2, value = fields
        found.append(
            Attempt(
                iteration=number // lib.PROOF_ATTEMPTS * iterations,
                wp=bool(flags & lib.PROOF_WP),
                faulted=bool(flags & lib.PROOF_FAULTED),
                error_code=error_code,
                cr2=cr2,
                value=value,
                wrote=(address + number * lib.PROOF_RECORD) & 0xFFFFFFFF,
            )
        )
    return found


def _wrong(attempt: Attempt, before: int) -> str | None:
    """Say what is wrong with an attempt; `before` is what the window held."""
    wp = f"CR0.WP={int(attempt.wp)}"
    if attempt.faulted != attempt.wp:
        did = "faulted" if attempt.faulted else "did not fault"
        return f"a supervisor's write to a read-only page {did} with {wp}"
    if attempt.faulted and attempt.error_code != ERROR_CODE:
        return f"the fault's error code should be {ERROR_CODE:#x}"
    if attempt.faulted and attempt.cr2 != lib.GUEST_WINDOW:
        return f"the fault's address {attempt.cr2:#x} should be {lib.GUEST_WINDOW:#x}"
    if attempt.value != (before if attempt.wp else attempt.wrote):
        return f"the page holds {attempt.value:#x} after a write with {wp}"
    return None


def _expected_wp(step: int, op: str, iteration: int) -> bool:
    """Return what CR0.WP must be: as `iteration` ops left it, then set, then clear."""
    if step:
        return step == 1
    return not (op == "cr0_wp" and iteration % 2)  # WP is set on entry


def judge(case: str, op: str, found: list[Attempt], host_sees: int) -> None:
    """Raise KvmIncorrect for the first attempt that went wrong.

    `op` is the case's, whose iterations lay between the checks; `host_sees` is what the page
    holds in the host's memory after the last attempt.
    """
    held = 0
    for number, attempt in enumerate(found):
        step = number % lib.PROOF_ATTEMPTS
        if op in WINDOW_OPS and number and step == 0:
            held = 1  # what its last iteration wrote
        expected = _expected_wp(step, op, attempt.iteration)
        wrong = _wrong(attempt, held)
        if wrong is None and attempt.wp != expected:
            wrong = f"CR0.WP reads as {int(attempt.wp)} where {int(expected)} was written last"
        if wrong is not None:
            raise KvmIncorrect(case, attempt.iteration, attempt.error_code, wrong)
        held = attempt.value
    if host_sees != held:
        raise KvmIncorrect(
            case,
            found[-1].iteration,
            0,
            f"the host sees {host_sees:#x} in the page where the guest reads {held:#x}",
        )
