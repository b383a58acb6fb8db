"""One VM with one guest in it: create, load, prove, and measure between its doorbells."""

from __future__ import annotations

import errno
import struct
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

from kvmharness.counters.source import Source
from kvmharness.errors import GuestError, GuestTimeout, Infeasible, KvmError, KvmIncorrect
from kvmharness.guest import forced_emulation, loading, shadow, state, wx_check
from kvmharness.guest.paging import why_no_reload
from kvmharness.guest.vcpu_threads import VcpuThreads
from kvmharness.kvm import exits
from kvmharness.kvm.fds import System, Vcpu, Vm
from kvmharness.kvm.raw import lib
from kvmharness.model.cases import WINDOW_OPS, Case

MAX_SAMPLES = int(lib.SHARED_MAX_SAMPLES)
MAX_ITERATIONS = 2**32 - 1
DEFAULT_TIMEOUT_S = 10.0

# Where KVM does not tell the TSC's frequency: no TSC runs faster.
FASTEST_KHZ = 10_000_000
# A sample that lasts so many times the limit is a lie; our clock and the TSC may differ a little.
LONGER = 2

# Odd, so that a toggle leaves CR0.WP the other way at every second check.
PROOF_ITERATIONS = 1001
PROOF_ROUNDS = 4


@dataclass(frozen=True)
class Measurement:
    """What lay between one begin and one end doorbell.

    `ticks` holds each sample's length in guest TSC ticks, all of vCPU 0, then all of the
    next; `counts` what the sources counted over all samples together; `preempted`, beside `ticks`,
    how often the vCPU's thread lost its CPU to another in each.
    """

    ticks: list[int]
    counts: dict[str, int]
    preempted: list[int]


@dataclass(frozen=True)
class Proof:
    """What the guest proved: attempts by path that went right, and why paths were not tried."""

    attempts: Mapping[str, int]
    absent: Mapping[str, str]


_NO_BIT = "KVM offers its guests no such bit of CR4 here (KVM_GET_SUPPORTED_CPUID)"
_NO_SMAP = (
    "KVM's shadow paging cannot tell: a user page written with CR0.WP=0 is the supervisor's own "
    "there, which SMAP does not see"
)
_NO_PDPTES = "with PAE a flip of CR4.SMEP loads the page-directory pointers, which may fault"
# Bits of CPUID leaf 7, EBX (Intel SDM vol. 2A, CPUID).
_PROTECTIONS = {"smep": 1 << 7, "smap": 1 << 20}


def _protections(cpuid: Any) -> frozenset[str]:
    """Return which of SMEP and SMAP a `struct kvm_cpuid2 *` has."""
    leaves = [e.ebx for e in cpuid.entries[0 : cpuid.nent] if (e.function, e.index) == (7, 0)]
    ebx = leaves[0] if leaves else 0
    return frozenset(name for name, bit in _PROTECTIONS.items() if ebx & bit)


class GuestVm:
    """A VM loaded with a case's guest, standing before its first doorbell.

    `ops` is how many it was asked for so far, by the proof too.
    `cpus` are the CPUs for the threads of a case with several vCPUs (empty: any),
    `proof_iterations`, an odd number, the ops between two checks of W^X.  Only with
    `force_emulation` may the proof set KVM's parameter of that name, for all VMs of this kernel.
    Raises KvmError where KVM refuses a part of the set-up.
    """

    def __init__(
        self,
        system: System,
        case: Case,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        blob: state.Blob | None = None,
        cpus: Sequence[int] = (),
        proof_iterations: int = PROOF_ITERATIONS,
        force_emulation: bool = False,
    ) -> None:
        self.case = case
        self.ops = 0
        self._force_emulation = force_emulation
        # As much work as without it, and an odd number.
        self._proof_iterations = proof_iterations // case["work"] | 1
        self._timeout_ns = int(timeout_s * 1e9)
        self._blob = blob or state.blob(case.mode)
        self._can_prove = f"prove_{case.op}" in self._blob.symbols
        self._proved = False
        with ExitStack() as stack:
            self.vm: Vm = stack.enter_context(system.create_vm())
            self.memory = loading.prepare(self.vm, case)
            self.roots = state.load(self._blob, case, self.memory)
            loaded = loading.Loaded(case, self._blob, self.memory, self.roots)
            cpuid = system.get_supported_cpuid()
            self._protections = _protections(cpuid)
            self.vcpus: list[Vcpu] = []
            for number in range(case["vcpus"]):
                vcpu = stack.enter_context(self.vm.create_vcpu(number))
                loaded.start(vcpu, cpuid, number, proves=self._can_prove and number == 0)
                self.vcpus.append(vcpu)
            self._threads = stack.enter_context(VcpuThreads(len(self.vcpus), cpus))
            self.tsc_khz = self.vcpus[0].get_tsc_khz()
            self._stack = stack.pop_all()

    @property
    def thread_ids(self) -> list[int]:
        """The kernel's ids of the threads that run the vCPUs."""
        return self._threads.ids

    def _ask(self, iterations: int, samples: int, meeting: int) -> None:
        """Write what each vCPU shall do; `meeting` of them wait for each other."""
        self.ops += iterations * samples * len(self.vcpus)
        for number in range(len(self.vcpus)):
            page = state.shared_page(number)
            values = (iterations, samples, 0, meeting)
            struct.pack_into("<4I", self.memory, page + lib.SHARED_ITERATIONS, *values)
            struct.pack_into("<I", self.memory, page + lib.SHARED_ARRIVED, 0)

    def prove(self, rounds: int = PROOF_ROUNDS) -> Proof | None:
        """Have the guest prove W^X around `rounds` times some ops.

        Returns what was proved, None where the guest cannot (no paging) or has done it already.
        Raises KvmIncorrect if KVM got an access wrong, Infeasible if the CPU is not fit for the
        op.  To be called before anything is measured.
        """
        if self._proved or not self._can_prove:
            return None
        self._proved = True
        # A flip of CR4.SMEP would load the PDPTEs anew (paging.why_no_reload).
        sets_cr4 = self.case.mode != "pae32" and bool(self._protections)
        user = sets_cr4 or self.case.op != "cr4_smap"  # or nobody would know if SMAP is set
        with forced_emulation.allowed(self._force_emulation) as reason:
            tried = wx_check.steps(
                self._protections,
                sets_cr4=sets_cr4,
                user=user,
                forced=reason is None,
                shadow=shadow.in_use(),
            )
            right = self._carry_out(rounds, tried)
        state.forget_undefined(self.case, self.memory)
        if reason is None and "emulated" not in right:
            reason = "KVM did not take its prefix"
        absent = dict.fromkeys(("emulated", "emulated-user"), reason) if reason else {}
        if not user:
            absent = dict.fromkeys(("direct-user", "emulated-user"), _NO_PDPTES) | absent
        for name in _PROTECTIONS:
            if name not in self._protections:
                absent[name] = _NO_BIT
            elif not sets_cr4:
                absent[name] = _NO_PDPTES
        if sets_cr4 and "smap" in self._protections and shadow.in_use():
            absent["smap-wp0"] = _NO_SMAP
        return Proof(right, absent)

    def _carry_out(self, rounds: int, tried: tuple[wx_check.Step, ...]) -> Mapping[str, int]:
        """Run the proof; return how many attempts of each path went right."""
        iterations = self._proof_iterations
        self._ask(iterations, rounds, meeting=1)
        at = lib.GUEST_SHARED + lib.SHARED_STAMPS
        size = (rounds + 1) * len(tried) * lib.PROOF_RECORD
        records = [struct.pack("<4I", step.flags, 0, 0, 0) for step in tried]
        self.memory[at : at + size] = b"".join(records) * (rounds + 1)
        attempts = lib.GUEST_SHARED + lib.SHARED_ATTEMPTS
        struct.pack_into("<I", self.memory, attempts, len(tried))
        code = lib.GUEST_READ_ONLY + lib.PROOF_CODE_AT
        self.memory[code : code + len(wx_check.CODE)] = wx_check.CODE
        self._run_to(0, lib.DOORBELL_BEGIN)
        reason = why_no_reload(self.memory, self.case, self.roots)
        if reason:
            raise Infeasible(reason)
        self._run_to(0, lib.DOORBELL_END)
        found = bytes(self.memory[at : at + size])
        at += state.offset(self.case)
        return dict(wx_check.judge(self.case, found, at, iterations, tried, self._window()))

    def _window(self) -> int:
        """Return what the window's page holds as the host sees it."""
        return int(struct.unpack_from("<I", self.memory, lib.GUEST_READ_ONLY)[0])

    def measure(
        self,
        iterations: int,
        samples: int,
        sources: Sequence[Source] = (),
        *,
        meet: bool = True,
    ) -> Measurement:
        """Take `samples` (1..MAX_SAMPLES) of `iterations` ops (1..MAX_ITERATIONS) a vCPU.

        The vCPUs wait for each other before each sample, unless they need not `meet`.
        Raises GuestTimeout when the time limit passes first (the samples under way are
        lost, the VM is of no more use), GuestError when the guest leaves its protocol, and
        KvmIncorrect when KVM let its W^X window down.
        """
        self.prove()
        self._ask(iterations, samples, meeting=len(self.vcpus) if meet else 0)
        self._threads.run(lambda number: self._run_to(number, lib.DOORBELL_BEGIN))
        for source in sources:
            source.begin()
        self._threads.run(lambda number: self._run_to(number, lib.DOORBELL_END))
        counts: dict[str, int] = {}
        for source in reversed(sources):
            counts.update(source.end())
        if self.case.op in WINDOW_OPS and self._window() != 1:
            wrong = f"the host sees {self._window():#x} in the page where the guest wrote 1"
            raise KvmIncorrect(self.case.name, iterations, 0, wrong)
        ticks = [t for number in range(len(self.vcpus)) for t in self._ticks(number, samples)]
        preempted = [n for number in range(len(self.vcpus)) for n in self._ends(number, samples)]
        return Measurement(ticks, counts, preempted)

    def _run_to(self, number: int, doorbell: int) -> None:
        """Run a vCPU until it rings `doorbell`."""
        # The limit is the guest's: what the sources take at a doorbell is not counted.
        deadline = time.monotonic_ns() + self._timeout_ns
        while True:
            try:
                left = max(deadline - time.monotonic_ns(), 1)
                exit_ = self.vcpus[number].run(left)
            except KvmError as error:
                if error.errno == errno.ETIME:
                    raise self._timed_out(number) from None
                if error.errno in (errno.EINTR, errno.EAGAIN):
                    # Python has run its handlers: KeyboardInterrupt left already.  EAGAIN is
                    # the answer of a vCPU that was waiting for INIT and SIPI.
                    continue
                raise
            if isinstance(exit_, exits.Io) and exit_.port == lib.PORT_DOORBELL:
                if exit_.data == bytes([lib.DOORBELL_FAULT]):
                    raise self._unexpected_fault(number)
                if exit_.data != bytes([doorbell]):
                    reason = f"rang doorbell {exit_.data.hex()}, not {doorbell}"
                    raise self._error(number, reason)
                return
            seen = _DESCRIPTIONS.get(exit_.name, "left its protocol")
            raise self._error(number, f"{seen}: {exit_}")

    def _rip(self, number: int) -> int | None:
        try:
            return int(self.vcpus[number].get_regs().rip)
        except KvmError:
            return None

    def _where(self, number: int) -> tuple[int | None, str | None]:
        """Return where a vCPU stands: its rip, and that place in the guest's source."""
        rip = self._rip(number)
        at = None if rip is None else self._blob.place(rip - state.offset(self.case))
        return rip, at

    def _error(self, number: int, reason: str) -> GuestError:
        return GuestError(reason, *self._where(number))

    def _timed_out(self, number: int) -> GuestTimeout:
        limit = f"{self._timeout_ns / 1e9:g} s"
        try:
            halted = self.vcpus[number].get_mp_state() == lib.KVM_MP_STATE_HALTED
        except KvmError:
            halted = False
        seen = "halted early and slept" if halted else "rang no doorbell"
        return GuestTimeout(
            f"{seen} within {limit}; raise --timeout if it only needs longer",
            *self._where(number),
        )

    def _unexpected_fault(self, number: int) -> KvmIncorrect:
        page = state.shared_page(number)
        (code,) = struct.unpack_from("<I", self.memory, page + lib.SHARED_FAULT_CODE)
        cr2, ip, left = struct.unpack_from("<QQI", self.memory, page + lib.SHARED_FAULT_CR2)
        (iterations,) = struct.unpack_from("<I", self.memory, page + lib.SHARED_ITERATIONS)
        wrong = f"a page fault nobody expected at {cr2:#x} by the instruction at {ip:#x}"
        return KvmIncorrect(self.case.name, max(iterations - left, 0), code, wrong)

    def _ticks(self, number: int, samples: int) -> list[int]:
        page = state.shared_page(number)
        (done,) = struct.unpack_from("<I", self.memory, page + lib.SHARED_DONE)
        if done != samples:
            raise self._error(number, f"took {done} samples of {samples}")
        stamps = struct.unpack_from(f"<{2 * samples}Q", self.memory, page + lib.SHARED_STAMPS)
        ticks = [end - begin for begin, end in zip(stamps[::2], stamps[1::2], strict=True)]
        if min(ticks) < 0:
            raise self._error(number, "its TSC ran backwards inside a sample")
        if max(ticks) * 1e6 / (self.tsc_khz or FASTEST_KHZ) > LONGER * self._timeout_ns:
            raise self._error(number, "its stamps are further apart than its time limit")
        return ticks

    def _ends(self, number: int, samples: int) -> list[int]:
        """Return how often a vCPU's thread was preempted in each sample."""
        preempted = self.vcpus[number].take_preempted()
        if len(preempted) != samples:
            reason = f"told the ends of {len(preempted)} samples, took {samples}"
            raise self._error(number, reason)
        return preempted

    def close(self) -> None:
        """Destroy the vCPUs, the VM and the guest's memory."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_DESCRIPTIONS = {
    "SHUTDOWN": "triple fault",
    "HLT": "halted early",
    "INTERNAL_ERROR": "KVM could not go on",
    "FAIL_ENTRY": "the hardware refused to enter it",
}
