"""The thin layer: request numbers, the ioctl call, the compiled core.

Nothing else imports `kvmharness.kvm._core`.  Request numbers are built here with
python-ioctl-opt from the sizes that the compiler gave; tests hold each one against the
macro of <linux/kvm.h>.
"""

from __future__ import annotations

import errno
import os
from types import MappingProxyType
from typing import Any, Final

from ioctl_opt import IO, IOC, IOC_READ, IOC_WRITE

from kvmharness.errors import KvmError
from kvmharness.kvm._core import ffi, lib

__all__ = [
    "CPUID_ENTRIES",
    "REQUESTS",
    "answer",
    "cpuid",
    "event_filter",
    "event_open",
    "event_switch",
    "ffi",
    "ioctl",
    "lib",
    "new",
    "open_ports",
    "pace",
    "port_read",
    "port_write",
    "run",
    "trace_next",
    "trace_settled",
]

NONE = 0
# Room for KVM_GET_SUPPORTED_CPUID's answer: QEMU starts at 100, real hosts give about 60.
CPUID_ENTRIES = 256

# name: (direction, number, argument's C type); KVM API, section 4.
_SHAPES: Final[dict[str, tuple[int, int, str | None]]] = {
    "KVM_GET_API_VERSION": (NONE, 0x00, None),
    "KVM_CREATE_VM": (NONE, 0x01, None),
    "KVM_CHECK_EXTENSION": (NONE, 0x03, None),
    "KVM_GET_VCPU_MMAP_SIZE": (NONE, 0x04, None),
    "KVM_GET_SUPPORTED_CPUID": (IOC_READ | IOC_WRITE, 0x05, "struct kvm_cpuid2"),
    "KVM_CREATE_VCPU": (NONE, 0x41, None),
    "KVM_SET_USER_MEMORY_REGION": (IOC_WRITE, 0x46, "struct kvm_userspace_memory_region"),
    "KVM_SET_TSS_ADDR": (NONE, 0x47, None),
    "KVM_SET_IDENTITY_MAP_ADDR": (IOC_WRITE, 0x48, "uint64_t"),
    "KVM_CREATE_IRQCHIP": (NONE, 0x60, None),
    "KVM_IRQ_LINE": (IOC_WRITE, 0x61, "struct kvm_irq_level"),
    "KVM_CREATE_PIT2": (IOC_WRITE, 0x77, "struct kvm_pit_config"),
    "KVM_RUN": (NONE, 0x80, None),
    "KVM_GET_REGS": (IOC_READ, 0x81, "struct kvm_regs"),
    "KVM_SET_REGS": (IOC_WRITE, 0x82, "struct kvm_regs"),
    "KVM_GET_SREGS": (IOC_READ, 0x83, "struct kvm_sregs"),
    "KVM_SET_SREGS": (IOC_WRITE, 0x84, "struct kvm_sregs"),
    "KVM_SET_CPUID2": (IOC_WRITE, 0x90, "struct kvm_cpuid2"),
    "KVM_GET_MP_STATE": (IOC_READ, 0x98, "struct kvm_mp_state"),
    "KVM_SET_MP_STATE": (IOC_WRITE, 0x99, "struct kvm_mp_state"),
    "KVM_GET_TSC_KHZ": (NONE, 0xA3, None),
    "KVM_GET_STATS_FD": (NONE, 0xCE, None),
}


def _number(direction: int, nr: int, argument: str | None) -> int:
    if argument is None:
        return int(IO(lib.KVMIO, nr))
    return int(IOC(direction, lib.KVMIO, nr, ffi.sizeof(argument)))


REQUESTS = MappingProxyType({name: _number(*shape) for name, shape in _SHAPES.items()})


def new(ctype: str, init: Any = None) -> Any:
    """Allocate a zeroed C object, e.g. `new("struct kvm_regs *")`."""
    return ffi.new(ctype, init)


def ioctl(fd: int, name: str, argument: Any = 0, *, next_step: str = "") -> int:
    """Call the request `name` on `fd`; `argument` is a number or a pointer from new().

    Returns the ioctl's own result (>= 0).  Raises KvmError with `next_step` as its hint.
    A signal is no failure (KVM_CREATE_VM returns EINTR as soon as one is pending): Python runs
    its handler, and unless that raises, the call is made again.
    """
    value = argument if isinstance(argument, int) else int(ffi.cast("uintptr_t", argument))
    result: int = -errno.EINTR
    while result == -errno.EINTR:
        result = lib.kvmh_ioctl(fd, REQUESTS[name], value)
    if result < 0:
        raise KvmError(name, -result, next_step)
    return result


def run(fd: int, kvm_run: Any, timeout_ns: int, preempted: Any) -> int:
    """KVM_RUN until a doorbell or any other exit that is neither the op `pio` nor a sample's end.

    `kvm_run` is the mapped struct, `timeout_ns` > 0 bounds the call; `preempted`, a
    `uint32_t[SHARED_MAX_SAMPLES + 1]`, takes the number of samples that ended, then how often
    this thread was preempted in each.  Returns 0 or a positive errno; ETIME means the watchdog
    ended it.
    """
    error: int = lib.kvmh_run(fd, kvm_run, timeout_ns, preempted)
    return -error


def answer(kvm_run: Any, data: bytes) -> None:
    """Write what an IN reads to where KVM_EXIT_IO said that it is expected."""
    at = ffi.cast("uint8_t *", kvm_run) + kvm_run.io.data_offset
    size = kvm_run.io.size * kvm_run.io.count
    ffi.memmove(at, data[:size], min(size, len(data)))


def cpuid(leaf: int) -> tuple[int, int, int, int]:
    """Execute CPUID with subleaf 0 on this CPU; returns eax, ebx, ecx, edx."""
    registers = ffi.new("uint32_t[4]")
    lib.kvmh_cpuid(leaf, registers)
    return registers[0], registers[1], registers[2], registers[3]


def trace_next(label: int) -> None:
    """Ask for a trace of the next samples under a label of 32 bits.

    NOPs (see lab/plugin.h): only a lab that traces hears of it.
    """
    lib.kvmh_trace_next(label)


def open_ports(first: int, count: int) -> None:
    """Let this process use I/O ports of the machine (ioperm(2)).  Raises OSError."""
    error: int = lib.kvmh_ports(first, count)
    if error:
        raise OSError(-error, f"I/O ports: {os.strerror(-error)}")


def port_write(port: int, value: int, size: int = 1) -> None:
    """Write a byte, or with `size` 2 two at once, to a port that open_ports() has opened."""
    (lib.kvmh_out16 if size == 2 else lib.kvmh_out8)(port, value)


def port_read(port: int, count: int) -> bytes:
    """Read a port that open_ports() has opened `count` times, a byte each."""
    buffer = ffi.new("uint8_t[]", max(count, 1))
    lib.kvmh_in8(port, buffer, count)
    return bytes(ffi.buffer(buffer, count))


def _check(result: int, call: str) -> int:
    if result < 0:
        raise OSError(-result, f"{call}: {errno.errorcode.get(-result)}: {os.strerror(-result)}")
    return result


def event_open(kind: int, config: int, exclude: str = "", thread: int = 0) -> int:
    """Count an event of the kernel's on a thread (0: this one) once it is switched on.

    `exclude` "host" or "guest" leaves that side out.  Returns a descriptor that reads as three
    64-bit numbers: count, ns enabled, ns counted.  Source: perf_event_open(2).  Raises OSError.
    """
    found = lib.kvmh_event_open(kind, config, exclude == "host", exclude == "guest", thread)
    return _check(found, "perf_event_open")


def sleep_until(ns: int) -> None:
    """Sleep until CLOCK_MONOTONIC has come to `ns`; at once where it has."""
    lib.kvmh_sleep_until(ns)


def before_tick(lead: int, most: int) -> None:
    """Return `lead` ns before the kernel's next tick, after `most` ns at the latest.

    It keeps this CPU busy meanwhile, on a machine that is an emulated one: others hold it up.
    """
    lib.kvmh_before_tick(lead, most)


def event_log(config: int, cpu: int) -> int:
    """Write down when a tracepoint is passed on a CPU, once it is switched on.

    Returns a descriptor to map: records of a header and 64 bits, ns of CLOCK_MONOTONIC.
    Source: perf_event_open(2).  Raises OSError.
    """
    return _check(lib.kvmh_event_log(config, cpu), "perf_event_open")


def event_filter(descriptor: int, text: str) -> None:
    """Count only those of a tracepoint for which `text` holds.  Raises OSError."""
    _check(lib.kvmh_event_filter(descriptor, text.encode()), f"filter {text!r}")


def event_switch(descriptor: int, on: bool) -> None:
    """Start or stop counting.  Raises OSError."""
    _check(lib.kvmh_event_switch(descriptor, on), "perf_event_open: switch")


def trace_settled() -> None:
    """Tell a lab that traces that what the last samples left for later is done.

    Before the first: that samples will come.
    """
    lib.kvmh_trace_settled()


def pace() -> int:
    """Return how many ticks of the TSC a fixed loop of some µs takes this CPU."""
    return int(lib.kvmh_pace())
