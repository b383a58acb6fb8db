"""The W^X proof: judge what the guest's own page-fault handler saw (guests/prove.h).

A supervisor's write to a read-only page must fault if CR0.WP is set and must land if it is
clear, with the error code and the address that the architecture gives.  Pure.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from kvmharness.errors import KvmIncorrect
from kvmharness.raw import lib

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


def judge(case: str, found: list[Attempt], host_sees: int, op_writes: int | None = None) -> None:
    """Raise KvmIncorrect for the first attempt that went wrong.

    `host_sees` is what the page holds in the host's memory after the last one, `op_writes`
    what the op itself leaves in the page (None: it does not write there).
    """
    held = 0
    for number, attempt in enumerate(found):
        # In the second and third attempt of a check WP was set and cleared just before.
        step = number % lib.PROOF_ATTEMPTS
        if op_writes is not None and number and step == 0:
            held = op_writes
        wrong = _wrong(attempt, held)
        if wrong is None and step and attempt.wp != (step == 1):
            wrong = f"CR0.WP reads as {int(attempt.wp)} after it was written as {int(step == 1)}"
        if wrong is not None:
            raise KvmIncorrect(case, attempt.iteration, attempt.error_code, wrong)
        held = attempt.value
    if host_sees != held:
        raise KvmIncorrect(
            case, found[-1].iteration, 0, f"the host sees {host_sees:#x} in the page where the "
            f"guest reads {held:#x}",
        )  # fmt: skip
