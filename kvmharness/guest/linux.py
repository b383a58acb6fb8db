"""A VM that boots a Linux kernel: the KVM layer's own monitor, of one vCPU and two serial ports.

The kernel is entered by PVH (Documentation/arch/x86 and include/xen/interface/hvm/start_info.h:
32-bit protected mode, %ebx at a start_info), with the in-kernel PIC, IOAPIC, APIC and PIT.  It has
no firmware, no PCI and no disk: its root comes as cpio archives.
"""

from __future__ import annotations

import errno
import re
import struct
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import msgspec

from kvmharness.errors import GuestError, GuestTimeout, Infeasible, KernelPanic, KvmError
from kvmharness.guest import state
from kvmharness.guest.loading import IDENTITY_MAP_ADDR, TSS_ADDR
from kvmharness.guest.uart import Uart
from kvmharness.kvm import exits
from kvmharness.kvm.fds import System, Vcpu, Vm, huge_begin

# What a kernel of this VM has to be told: there is no firmware, and a restart is a triple fault.
OPTIONS = ("reboot=t", "pci=off", "acpi=off", "no_timer_check", "tsc=reliable")
# Where the start_info and what it points to lie: low memory that no kernel is loaded to.
START_INFO, MODULES, MEMORY_MAP, COMMAND_LINE = 0x6000, 0x6100, 0x6200, 0x7000
COMMAND_LINE_MOST = 2047  # COMMAND_LINE_SIZE of x86, less its end
MAGIC = 0x336EC578
LOW_END, HIGH_BEGIN, E820_RAM = 0x9FC00, 0x100000, 1
PAGE, MIB = 4096, 1 << 20
COM1, COM2, COM_PORTS, COM1_IRQ, COM2_IRQ = 0x3F8, 0x2F8, 8, 4, 3
# A soft power-off as the ACPI of a PC has it: SLP_EN to PM1a_CNT.
POWER_OFF, SLP_EN = 0xB004, 0x2000
KEYBOARD, RESET = 0x64, 0xFE
# The clock of a PC, where "busy" would be waited for without end; nothing else is anywhere.
CMOS, ABSENT = 0x71, 0xFF
FEATURES, TSC_DEADLINE, HYPERVISOR = 1, 1 << 24, 1 << 31
APIC_ID_LEAVES = (0xB, 0x1F)
PANIC = re.compile(rb"Kernel panic - (.*)")

End = Literal["off", "reset", "stopped"]


class Segment(msgspec.Struct, frozen=True):
    """`size` bytes of a kernel's file from `offset`, loaded to a guest-physical `address`."""

    address: int
    offset: int
    size: int


class Linux(msgspec.Struct, frozen=True):
    """What to boot and in what: files by their names in one folder.

    `entry` is the kernel's PVH entry, `end` the address behind all that it takes, `initrd` the
    archives, joined in this order.
    """

    kernel: str
    entry: int
    segments: list[Segment]
    end: int
    initrd: list[str]
    command_line: str
    memory_mib: int


class Device(Protocol):
    """What answers at a port."""

    def write(self, data: bytes) -> None:
        """Take what an OUT wrote."""

    def read(self, size: int) -> bytes:
        """Return what an IN of `size` bytes reads."""


class LinuxVm:
    """A VM with a Linux kernel, standing before its first instruction.

    `console` takes the bytes of its first serial port, `results` those of the second; `devices`
    are others, by port.  Raises OSError for a file, Infeasible where memory does not hold it,
    KvmError where KVM refuses a part.
    """

    def __init__(
        self,
        system: System,
        linux: Linux,
        folder: Path,
        results: Callable[[bytes], None],
        devices: Mapping[int, Device] | None = None,
    ) -> None:
        self.console = bytearray()
        self._heard = time.monotonic()
        self._results = results
        self._devices = devices or {}
        self._raised = {COM1_IRQ: False, COM2_IRQ: False}
        self._uarts = {
            COM1: (Uart(self._say), COM1_IRQ),
            COM2: (Uart(self._send), COM2_IRQ),
        }
        with ExitStack() as stack:
            self.vm: Vm = stack.enter_context(system.create_vm())
            self.vm.set_identity_map_addr(IDENTITY_MAP_ADDR)
            self.vm.set_tss_addr(TSS_ADDR)
            self.vm.create_irqchip()
            self.vm.create_pit2()
            self._load(linux, folder)
            self.vcpus: list[Vcpu] = [stack.enter_context(self.vm.create_vcpu(0))]
            self.vcpus[0].set_cpuid2(_cpuid(system))
            _enter(self.vcpus[0], linux.entry)
            self._stack = stack.pop_all()

    @property
    def thread_ids(self) -> list[int]:
        """The kernel's id of the thread that runs the vCPU: the calling one."""
        return [threading.get_native_id()]

    def _say(self, data: bytes) -> None:
        self.console += data
        self._heard = time.monotonic()

    def _send(self, data: bytes) -> None:
        self._results(data)
        self._heard = time.monotonic()

    def _load(self, linux: Linux, folder: Path) -> None:
        """Put the kernel, its root and what it is told into fresh memory."""
        size = linux.memory_mib * MIB
        initrd = [folder / name for name in linux.initrd]
        lengths = [_aligned(path.stat().st_size, 4) for path in initrd]
        begin = (size - sum(lengths)) & -PAGE
        _check_room(linux, begin, sum(lengths))
        mapped = self.vm.set_user_memory_region(0, 0, size, huge=True)
        first = huge_begin(mapped)
        self._mapped, self._memory_begin = mapped, first
        with memoryview(mapped) as whole, whole[first : first + size] as memory:
            with (folder / linux.kernel).open("rb") as file:
                for segment in linux.segments:
                    file.seek(segment.offset)
                    _read(file, memory, segment.address, segment.size)
            at = begin
            for path, length in zip(initrd, lengths, strict=True):
                with path.open("rb") as file:
                    _read(file, memory, at, path.stat().st_size)
                at += length
            _describe(memory, linux.command_line, begin, at - begin, size)

    def read_memory(self, address: int, size: int) -> bytes:
        """Return bytes of its memory, at a guest-physical address that is ours to choose."""
        begin = self._memory_begin + address
        return bytes(self._mapped[begin : begin + size])

    def write_memory(self, address: int, data: bytes) -> None:
        """Write bytes to its memory."""
        begin = self._memory_begin + address
        self._mapped[begin : begin + len(data)] = data

    def run(self, silent_s: float, until: Callable[[], bool] = lambda: False) -> End:
        """Run until the machine goes off or restarts, or `until` holds ("stopped").

        Raises KernelPanic, GuestTimeout after `silent_s` seconds in which neither a serial port nor
        a device was written, GuestError where KVM could not go on.
        """
        self._heard = time.monotonic()
        while not until():
            left = self._heard + silent_s - time.monotonic()
            if left <= 0:
                raise GuestTimeout(f"wrote nothing for {silent_s:g} s", self._rip())
            try:
                exit_ = self.vcpus[0].run(int(left * 1e9))
            except KvmError as error:
                if error.errno in (errno.ETIME, errno.EINTR):
                    continue
                raise
            end = self._handle(exit_)
            if end:
                self._check_panic()
                return end
        return "stopped"

    def _check_panic(self) -> None:
        found = PANIC.search(self.console)
        if found:
            why = found[1].decode(errors="replace").strip()
            raise KernelPanic(f"kernel panic: {why}", self._rip())

    def _rip(self) -> int | None:
        try:
            return int(self.vcpus[0].get_regs().rip)
        except KvmError:
            return None

    def _handle(self, exit_: exits.Exit) -> End | None:
        if isinstance(exit_, exits.Io):
            if exit_.write:
                return self._out(exit_)
            self._in(exit_)
            return None
        if isinstance(exit_, exits.Mmio):
            return None  # nothing is there: reads give what they give, writes are lost
        if exit_.name == "SHUTDOWN":
            return "reset"
        raise GuestError(f"KVM could not go on: {exit_}", self._rip())

    def _uart(self, port: int) -> tuple[Uart, int, int] | None:
        """Return the serial port at an I/O port, the register and the interrupt line."""
        found = self._uarts.get(port & -COM_PORTS)
        return (found[0], port % COM_PORTS, found[1]) if found else None

    def _out(self, io: exits.Io) -> End | None:
        uart = self._uart(io.port)
        if uart:
            for value in io.data:
                uart[0].write(uart[1], value)
            self._set_line(uart)
        elif io.port in self._devices:
            self._devices[io.port].write(io.data)
            self._heard = time.monotonic()
        elif io.port == POWER_OFF and int.from_bytes(io.data, "little") & SLP_EN:
            return "off"
        elif io.port == KEYBOARD and io.data == bytes([RESET]):
            return "reset"
        return None

    def _in(self, io: exits.Io) -> None:
        uart, size = self._uart(io.port), io.size * io.count
        if uart:
            self.vcpus[0].answer(bytes([uart[0].read(uart[1])] * size))
            self._set_line(uart)
        elif io.port in self._devices:
            self.vcpus[0].answer(self._devices[io.port].read(size))
        else:
            self.vcpus[0].answer(bytes([0 if io.port == CMOS else ABSENT] * size))

    def _set_line(self, uart: tuple[Uart, int, int]) -> None:
        port, _, line = uart
        if port.interrupt != self._raised[line]:
            self._raised[line] = port.interrupt
            self.vm.irq_line(line, port.interrupt)

    def close(self) -> None:
        """Destroy the vCPU, the VM and its memory."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check_room(linux: Linux, begin: int, root: int) -> None:
    """Raise Infeasible for what does not fit; the root would begin at `begin`."""
    if begin < linux.end:
        needed = (linux.end + root) // MIB + 1
        raise Infeasible(
            f"memory: a kernel with its root takes {needed} MiB of {linux.memory_mib}; give it more"
        )
    if len(linux.command_line) > COMMAND_LINE_MOST:
        raise Infeasible(
            f"command line: {len(linux.command_line)} bytes, room for {COMMAND_LINE_MOST}; "
            "shorten it"
        )


def _aligned(size: int, to: int) -> int:
    return -(-size // to) * to


def _read(file: Any, memory: memoryview, at: int, size: int) -> None:
    with memory[at : at + size] as part:
        if file.readinto(part) != size:
            raise OSError(errno.EIO, f"{file.name} is shorter than it was")


def _describe(memory: memoryview, text: str, begin: int, size: int, end: int) -> None:
    """Write the start_info: the command line, the root's place, the memory map."""
    ram = [(0, LOW_END), (HIGH_BEGIN, end - HIGH_BEGIN)]
    rows = [(MAGIC, 1, 0, 1, MODULES, COMMAND_LINE, 0, MEMORY_MAP, len(ram), 0)]
    struct.pack_into("<4I4Q2I", memory, START_INFO, *rows[0])
    struct.pack_into("<4Q", memory, MODULES, begin, size, 0, 0)
    for number, (at, length) in enumerate(ram):
        struct.pack_into("<2Q2I", memory, MEMORY_MAP + 24 * number, at, length, E820_RAM, 0)
    data = text.encode() + b"\0"
    memory[COMMAND_LINE : COMMAND_LINE + len(data)] = data


def _cpuid(system: System) -> Any:
    """Return what KVM supports, as vCPU 0 of a VM with an in-kernel APIC should see it."""
    cpuid = system.get_supported_cpuid()
    for number in range(cpuid.nent):
        entry = cpuid.entries[number]
        if entry.function == FEATURES:
            entry.ebx &= 0x00FFFFFF  # KVM tells the APIC's id of the CPU that it runs on
            entry.ecx |= HYPERVISOR
            if system.check_extension("TSC_DEADLINE_TIMER"):
                entry.ecx |= TSC_DEADLINE
        elif entry.function in APIC_ID_LEAVES:
            entry.edx = 0
    return cpuid


def _enter(vcpu: Vcpu, entry: int) -> None:
    """Set the state that PVH asks for: flat 32-bit segments, no paging, %ebx at the start_info."""
    sregs = vcpu.get_sregs()
    state.set_flat(sregs)
    sregs.cr0, sregs.cr4, sregs.efer = state.CR0["flat32"], state.CR4["flat32"], 0
    vcpu.set_sregs(sregs)
    regs = vcpu.get_regs()
    regs.rip, regs.rbx, regs.rflags = entry, START_INFO, state.RFLAGS_RESERVED
    vcpu.set_regs(regs)
