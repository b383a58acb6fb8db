"""The W^X proof: what is tried, and what the guest must have seen of it (guests/prove.h).

A supervisor's write to a read-only page must fault if CR0.WP is set and must land if it is
clear, whoever executes it: the CPU, or KVM's emulator.  A page that user mode may read is no
other in that, but for CR4.SMAP, which keeps the supervisor's writes off it unless RFLAGS.AC is
set, and CR4.SMEP, by which none of its code may be fetched (Intel SDM vol. 3, 4.6).  Pure.
"""

from __future__ import annotations

import functools
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from kvmharness.errors import KvmIncorrect
from kvmharness.kvm.raw import lib
from kvmharness.model.cases import WINDOW_OPS, Case

# Page-fault error codes: the page is present; it was a write, or a fetch; by the supervisor.
WRITE_ERROR, FETCH_ERROR = 0b00011, 0b10001
# jmp *%edx, or *%rdx: back to where the check goes on.
CODE = b"\xff\xe2"


@dataclass(frozen=True)
class Step:
    """One access to the window.

    `wp` is CR0.WP as it is set beforehand, None: as it stands; `user` is a page that user mode
    may read; `cr4` holds CR4.SMEP and CR4.SMAP, None: as they stand; `ac` is RFLAGS.AC.
    """

    wp: bool | None
    user: bool = False
    forced: bool = False
    fetch: bool = False
    cr4: frozenset[str] | None = None
    ac: bool = False

    @property
    def path(self) -> str:
        """What it proves, under its name in the result file."""
        if self.fetch:
            return "fetch-user"
        return ("emulated" if self.forced else "direct") + ("-user" if self.user else "")

    @property
    def shadow_cannot(self) -> bool:
        """Whether KVM's shadow paging gets it wrong, by design.

        With CR0.WP clear it maps a user page that the supervisor has written for the supervisor
        alone, and SMAP keeps nobody off such a page: what RFLAGS.AC allowed once stays allowed
        (Documentation/virt/kvm/x86/mmu.rst, "Emulating cr0.wp=0").
        """
        smap = self.user and "smap" in (self.cr4 or ())
        return smap and self.wp is False and not self.ac and not self.forced

    @property
    def flags(self) -> int:
        """The step as the guest reads it."""
        wanted = {
            lib.PROOF_SET_WP: self.wp is True,
            lib.PROOF_CLEAR_WP: self.wp is False,
            lib.PROOF_USER: self.user,
            lib.PROOF_AC: self.ac,
            lib.PROOF_FORCED: self.forced,
            lib.PROOF_FETCH: self.fetch,
            lib.PROOF_SET_CR4: self.cr4 is not None,
            lib.PROOF_SMEP: "smep" in (self.cr4 or ()),
            lib.PROOF_SMAP: "smap" in (self.cr4 or ()),
        }
        return sum(flag for flag, on in wanted.items() if on)

    def faults(self, wp: bool) -> bool:
        """Tell whether the access must fault with CR0.WP as given."""
        cr4 = self.cr4 or frozenset()
        if self.fetch:
            return self.user and "smep" in cr4
        return wp or (self.user and "smap" in cr4 and not self.ac)


OFF, SMEP, SMAP = frozenset[str](), frozenset({"smep"}), frozenset({"smap"})
BOTH = SMEP | SMAP

# What is tried where the CPU has it all: writes by the CPU, then the same by KVM's emulator.
# WP set comes first, so that what is written with WP clear is seen to be the last.
AS_IT_STOOD = (Step(None),)
SUPERVISOR: tuple[Step, ...] = (Step(True), Step(False))
USER = (Step(True, user=True), Step(False, user=True))
WITH_SMEP = (
    Step(True, user=True, cr4=SMEP),
    Step(False, user=True, cr4=SMEP),
    # What KVM did to let that write land must not let code in.
    Step(False, user=True, cr4=SMEP, fetch=True),
    Step(True, user=True, cr4=SMEP, fetch=True),
    Step(True, user=True, cr4=OFF, fetch=True),
)
WITH_SMAP = tuple(
    Step(wp, user=True, cr4=SMAP, ac=ac) for ac in (False, True) for wp in (True, False)
)
WITH_BOTH = tuple(
    Step(wp, user=True, cr4=BOTH, ac=ac) for ac in (False, True) for wp in (True, False)
)


def steps(
    features: frozenset[str], *, sets_cr4: bool, user: bool, forced: bool, shadow: bool = False
) -> tuple[Step, ...]:
    """Return the steps of one check.

    `features` are those of "smep" and "smap" that the guest has, and `sets_cr4` is whether it may
    set them; `user` whether a page of user mode is tried, `forced` whether KVM's prefix is on,
    `shadow` whether KVM shadows page tables.
    """
    writes = SUPERVISOR
    if user:
        known = OFF if sets_cr4 else None
        writes += tuple(replace(step, cr4=known) for step in USER)
    if sets_cr4:
        for needed, more in ((SMEP, WITH_SMEP), (SMAP, WITH_SMAP), (BOTH, WITH_BOTH)):
            writes += more if needed <= features else ()
    emulated = tuple(replace(step, forced=True) for step in writes if not step.fetch)
    tried = AS_IT_STOOD + writes + (emulated if forced else ())
    return tuple(step for step in tried if not (shadow and step.shadow_cannot))


@dataclass(frozen=True)
class Attempt:
    """One access: `value` is what the window held afterwards, `wrote` what a write wrote."""

    step: Step
    iteration: int
    wp: bool
    faulted: bool
    undefined: bool
    error_code: int
    cr2: int
    value: int
    wrote: int


def _attempts(
    records: bytes, address: int, iterations: int, tried: Sequence[Step]
) -> list[Attempt]:
    found = []
    for number, fields in enumerate(struct.iter_unpack("<IIII", records)):
        flags, error_code, cr2, value = fields
        check, step = divmod(number, len(tried))
        found.append(
            Attempt(
                step=tried[step],
                iteration=check * iterations,
                wp=bool(flags & lib.PROOF_WP),
                faulted=bool(flags & lib.PROOF_FAULTED),
                undefined=bool(flags & lib.PROOF_UNDEFINED),
                error_code=error_code,
                cr2=cr2,
                value=value,
                wrote=(address + number * lib.PROOF_RECORD) & 0xFFFFFFFF,
            )
        )
    return found


def _said(step: Step, wp: bool, did: str = "") -> str:
    """Name an access, what it did, and what it was tried with."""
    who = "a fetch" if step.fetch else "a supervisor's write"
    how = " that KVM emulates" if step.forced else ""
    page = "user page" if step.user else "page"
    bits = [f"CR0.WP={int(wp)}"]
    bits += [f"CR4.{name.upper()}=1" for name in sorted(step.cr4 or ())]
    bits += ["RFLAGS.AC=1"] if step.ac else []
    return f"{who}{how} to a read-only {page}{did} with {', '.join(bits)}"


def _wrong(attempt: Attempt, before: int) -> str | None:
    """Say what is wrong with an attempt; `before` is what the window held."""
    step = attempt.step
    faults = step.faults(attempt.wp)
    if attempt.faulted != faults:
        did = " faulted" if attempt.faulted else " did not fault"
        return _said(step, attempt.wp, did)
    error = FETCH_ERROR if step.fetch else WRITE_ERROR
    if faults and attempt.error_code != error:
        return f"the fault's error code should be {error:#x}"
    at = lib.GUEST_USER_WINDOW if step.user else lib.GUEST_WINDOW
    at += lib.PROOF_CODE_AT if step.fetch else 0
    if faults and attempt.cr2 != at:
        return f"the fault's address {attempt.cr2:#x} should be {at:#x}"
    if attempt.value != (before if faults or step.fetch else attempt.wrote):
        return f"the page holds {attempt.value:#x} after {_said(step, attempt.wp)}"
    return None


def _expected_wp(step: Step, op: str, iteration: int) -> bool:
    """Return what CR0.WP must be: as it was set, or as `iteration` ops left it."""
    if step.wp is not None:
        return step.wp
    return not (op == "cr0_wp" and iteration % 2)  # WP is set on entry


@functools.lru_cache(maxsize=64)
def judge(
    case: Case,
    records: bytes,
    address: int,
    iterations: int,
    tried: tuple[Step, ...],
    host_sees: int,
) -> Mapping[str, int]:
    """Return how many attempts went right, by path; raise KvmIncorrect for the first that did not.

    `records` are the guest's, `address` is the first one's (virtual, its low half).  `iterations`
    is how many ops lie between two checks, `tried` the steps of one; `host_sees` is what the page
    holds in the host's memory after the last attempt.  A prefix that KVM did not take, at any
    attempt, proves nothing.

    The VMs of a case mostly hold the same records, and a lab's CPU is slow: so the last ones'
    judgements are remembered.
    """
    found = _attempts(records, address, iterations, tried)
    return _judged(case, found, host_sees)


def _judged(case: Case, found: Sequence[Attempt], host_sees: int) -> Mapping[str, int]:
    prefixed = [attempt for attempt in found if attempt.step.forced]
    untaken = bool(prefixed) and all(attempt.undefined for attempt in prefixed)
    right: Counter[str] = Counter()
    held = 0
    for attempt in found:
        if untaken and attempt.step.forced:
            continue
        if case.op in WINDOW_OPS and attempt.iteration and attempt.step in AS_IT_STOOD:
            held = 1  # what its last iteration wrote
        expected = _expected_wp(attempt.step, case.op, attempt.iteration)
        wrong = _wrong(attempt, held)
        if attempt.undefined:
            wrong = "KVM took its prefix for forced emulation at some attempts only"
        elif wrong is None and attempt.wp != expected:
            wrong = f"CR0.WP reads as {int(attempt.wp)} where {int(expected)} was written last"
        if wrong is not None:
            raise KvmIncorrect(case.name, attempt.iteration, attempt.error_code, wrong)
        held = attempt.value
        right[attempt.step.path] += 1
    if host_sees != held:
        raise KvmIncorrect(
            case.name,
            found[-1].iteration,
            0,
            f"the host sees {host_sees:#x} in the page where the guest reads {held:#x}",
        )
    return right
