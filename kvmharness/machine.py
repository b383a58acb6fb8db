"""One VM with one guest in it: create, load, and measure between its doorbells."""

from __future__ import annotations

import errno
import struct
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self

from kvmharness import exits, guest
from kvmharness.cases import Case
from kvmharness.counters.source import Source
from kvmharness.errors import GuestError, GuestTimeout, KvmError
from kvmharness.kvm import System, Vcpu, Vm
from kvmharness.raw import lib

# Below 4 GiB and above any guest's memory, where other VMMs put them too.
IDENTITY_MAP_ADDR = 0xFFFBC000
TSS_ADDR = 0xFFFBD000
MAX_SAMPLES = int(lib.SHARED_MAX_SAMPLES)
MAX_ITERATIONS = 2**32 - 1
DEFAULT_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Measurement:
    """What lay between one begin and one end doorbell.

    `ticks` holds each sample's length in guest TSC ticks, `counts` what the sources counted
    over all samples together, `pio_exits` the port writes of the op `pio`.
    """

    ticks: list[int]
    counts: dict[str, int]
    pio_exits: int


class Machine:
    """A VM loaded with a case's guest, standing before its first doorbell.

    Raises KvmError where KVM refuses a part of the set-up.
    """

    def __init__(
        self, system: System, case: Case, *, timeout_s: float = DEFAULT_TIMEOUT_S,
        blob: guest.Blob | None = None,
    ) -> None:
        self.case = case
        self._timeout_ns = int(timeout_s * 1e9)
        self._stack = ExitStack()
        with ExitStack() as stack:
            self.vm: Vm = stack.enter_context(system.create_vm())
            self.vm.set_identity_map_addr(IDENTITY_MAP_ADDR)
            self.vm.set_tss_addr(TSS_ADDR)
            if case["irqchip"]:
                self.vm.create_irqchip()
            self.memory = self.vm.set_user_memory_region(0, 0, lib.GUEST_MEMORY)
            self.vcpu: Vcpu = stack.enter_context(self.vm.create_vcpu(0))
            self.vcpu.set_cpuid2(system.get_supported_cpuid())
            sregs = self.vcpu.get_sregs()
            code = blob or guest.blob(case.guest)
            regs = guest.load(code, case.op, case["high"], self.memory, sregs)
            self.vcpu.set_sregs(sregs)
            self.vcpu.set_regs(regs)
            self.tsc_khz = self.vcpu.get_tsc_khz()
            self._stack = stack.pop_all()

    def measure(
        self, iterations: int, samples: int, sources: Sequence[Source] = ()
    ) -> Measurement:
        """Take `samples` (1..MAX_SAMPLES) of `iterations` ops (1..MAX_ITERATIONS) each.

        Raises GuestTimeout when the time limit passes first (the samples under way are
        lost, the VM is of no more use) and GuestError when the guest leaves its protocol.
        """
        struct.pack_into(
            "<II", self.memory, lib.GUEST_SHARED + lib.SHARED_ITERATIONS, iterations, samples
        )
        self._run_to(lib.DOORBELL_BEGIN)
        for source in sources:
            source.begin()
        pio = self._run_to(lib.DOORBELL_END)
        counts: dict[str, int] = {}
        for source in reversed(sources):
            counts.update(source.end())
        return Measurement(self._ticks(samples), counts, pio)

    def _run_to(self, doorbell: int) -> int:
        """Run until the guest rings `doorbell`; return the op `pio`'s exits on the way."""
        # The limit is the guest's: what the sources take at a doorbell is not counted.
        deadline = time.monotonic_ns() + self._timeout_ns
        pio_exits = 0
        while True:
            try:
                left = max(deadline - time.monotonic_ns(), 1)
                exit_, pio = self.vcpu.run(left)
            except KvmError as error:
                if error.errno == errno.ETIME:
                    raise self._timed_out() from None
                if error.errno == errno.EINTR:
                    continue  # Python has run its handlers: KeyboardInterrupt left already
                raise
            pio_exits += pio
            if isinstance(exit_, exits.Io) and exit_.port == lib.PORT_DOORBELL:
                if exit_.data != bytes([doorbell]):
                    raise self._error(f"rang doorbell {exit_.data.hex()}, not {doorbell}")
                return pio_exits
            raise self._error(_DESCRIPTIONS.get(exit_.name, "left its protocol") + f": {exit_}")

    def _rip(self) -> int | None:
        try:
            return int(self.vcpu.get_regs().rip)
        except KvmError:
            return None

    def _error(self, reason: str) -> GuestError:
        return GuestError(reason, self._rip())

    def _timed_out(self) -> GuestTimeout:
        limit = f"{self._timeout_ns / 1e9:g} s"
        try:
            halted = self.vcpu.get_mp_state() == lib.KVM_MP_STATE_HALTED
        except KvmError:
            halted = False
        seen = "halted early and slept" if halted else "rang no doorbell"
        return GuestTimeout(f"{seen} within {limit}; raise --timeout if it only needs longer",
                            self._rip())

    def _ticks(self, samples: int) -> list[int]:
        (done,) = struct.unpack_from("<I", self.memory, lib.GUEST_SHARED + lib.SHARED_DONE)
        if done != samples:
            raise self._error(f"took {done} samples of {samples}")
        at = lib.GUEST_SHARED + lib.SHARED_STAMPS
        stamps = struct.unpack_from(f"<{2 * samples}Q", self.memory, at)
        ticks = [end - begin for begin, end in zip(stamps[::2], stamps[1::2], strict=True)]
        if min(ticks) < 0:
            raise self._error("its TSC ran backwards inside a sample")
        return ticks

    def close(self) -> None:
        """Destroy the vCPU, the VM and the guest's memory."""
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
