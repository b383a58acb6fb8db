"""KVM's three file descriptors as objects: System, Vm, Vcpu.

Method names follow the ioctls mechanically: KVM_SET_USER_MEMORY_REGION is
`Vm.set_user_memory_region`.  Source throughout: the KVM API document, section 4.
"""

from __future__ import annotations

import errno
import grp
import mmap
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kvmharness.errors import Infeasible, KvmError, Unavailable
from kvmharness.kvm import exits, raw
from kvmharness.kvm.raw import ffi, lib

DEVICE = "/dev/kvm"
HUGE_PAGE = 0x200000
# The PIT answers for port 0x61 too, whose other bits nobody asks for.
_PIT_FLAGS = int(lib.KVM_PIT_SPEAKER_DUMMY)

_OPEN_HINTS = {
    errno.ENOENT: "load kvm_intel or kvm_amd (modprobe), or switch on virtualisation in the "
    "firmware or nested virtualisation in the cloud's settings",
    errno.ENXIO: "no KVM module answers; load kvm_intel or kvm_amd (modprobe)",
    errno.ENODEV: "no KVM module answers; load kvm_intel or kvm_amd (modprobe)",
}


def _group(number: int) -> tuple[str, bool]:
    """Return a group's name, and whether this process has it."""
    try:
        name = grp.getgrgid(number).gr_name
    except KeyError:
        name = str(number)
    return name, number in (os.getegid(), *os.getgroups())


def _why_denied(device: str) -> str:
    """Say why this user may not open a device that is there, and what would let them."""
    try:
        found = os.stat(device)
    except OSError:
        return "not readable by this user; see the permissions of its folder"
    name, is_ours = _group(found.st_gid)
    open_to_group = found.st_mode & 0o060 == 0o060
    if open_to_group and not is_ours:
        return (
            f"not readable by this user; add it to group {name} (usermod -aG {name} USER) and log "
            "in again"
        )
    if open_to_group:
        return f"denied, though this user is in its group {name}; see getfacl {device}"
    return (
        f"its mode is {stat.S_IMODE(found.st_mode):o}, open to no group; as root: chgrp kvm "
        f"{device} && chmod 660 {device}, and be in group kvm"
    )


class _Fd:
    """A file descriptor that a `with` block closes."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        """Close it; a second call does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class System(_Fd):
    """The system file descriptor, /dev/kvm.

    Raises Unavailable where it cannot be opened or speaks another API version.
    """

    def __init__(self, device: str = DEVICE) -> None:
        try:
            super().__init__(os.open(device, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            code = error.errno or 0
            hint = _OPEN_HINTS.get(code, "see `kvmharness doctor`")
            if code in (errno.EACCES, errno.EPERM):
                hint = _why_denied(device)
            name = errno.errorcode.get(code, str(code))
            raise Unavailable(f"open {device}: {name}: {hint}") from None
        try:
            self._check_version(device)
        except BaseException:
            self.close()
            raise

    def _check_version(self, device: str) -> None:
        try:
            version = self.get_api_version()
        except KvmError as error:
            foreign = error.errno == errno.ENOTTY
            step = "it is not KVM's device" if foreign else "see the kernel's log: dmesg | tail"
            raise Unavailable(f"{device}: {error}; {step}") from None
        if version != lib.KVM_API_VERSION:
            raise Unavailable(
                f"{device}: KVM_GET_API_VERSION: {version} where {lib.KVM_API_VERSION} is "
                "needed; use a kernel from 2.6.22 on"
            )

    def get_api_version(self) -> int:
        """Return the API version, 12 since Linux 2.6.22."""
        return raw.ioctl(self.fd, "KVM_GET_API_VERSION")

    def check_extension(self, capability: str) -> int:
        """Return what KVM_CHECK_EXTENSION says of KVM_CAP_<capability>: 0 if unsupported.

        A capability that the build's header does not name counts as unsupported.
        """
        number = getattr(lib, f"KVM_CAP_{capability}", None)
        return 0 if number is None else raw.ioctl(self.fd, "KVM_CHECK_EXTENSION", number)

    def get_vcpu_mmap_size(self) -> int:
        """Return the size in bytes of a vCPU's mapped `struct kvm_run`."""
        return raw.ioctl(self.fd, "KVM_GET_VCPU_MMAP_SIZE")

    def get_supported_cpuid(self) -> Any:
        """Return KVM's `struct kvm_cpuid2 *` of what a guest may be offered."""
        cpuid = raw.new("struct kvm_cpuid2 *", {"entries": raw.CPUID_ENTRIES})
        cpuid.nent = raw.CPUID_ENTRIES
        raw.ioctl(self.fd, "KVM_GET_SUPPORTED_CPUID", cpuid)
        return cpuid

    def create_vm(self) -> Vm:
        """Create a VM of the default type."""
        hint = "/dev/kvm may be held by another hypervisor, or memory is short"
        return Vm(raw.ioctl(self.fd, "KVM_CREATE_VM", next_step=hint), self.get_vcpu_mmap_size())


class _WithStats(_Fd):
    def get_stats_fd(self) -> int:
        """Return a new file descriptor of the binary statistics (KVM API 4.133, Linux 5.14)."""
        try:
            return raw.ioctl(self.fd, "KVM_GET_STATS_FD")
        except KvmError as error:
            if error.errno in (errno.ENOTTY, errno.EINVAL):
                raise KvmError(error.ioctl, error.errno, "Linux 5.14 or later has it") from None
            raise


def _check_huge(base: int, size: int) -> None:
    """Raise Infeasible unless the mapping that holds `base` is made of huge pages."""
    backed = 0
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split(maxsplit=1)[0]
        if "-" in first and not first.endswith(":"):
            begin, end = (int(edge, 16) for edge in first.split("-"))
            inside = begin < base + size and base < end
        elif inside and first == "AnonHugePages:":
            backed += int(line.split()[1]) * 1024
    if backed < size:
        raise Infeasible(
            f"the host backed {backed >> 20} of {size >> 20} MiB by huge pages; free memory, or "
            "echo madvise >/sys/kernel/mm/transparent_hugepage/enabled"
        )


def huge_begin(memory: mmap.mmap) -> int:
    """Return where in a mapping the first huge page begins: there lies what `huge` maps."""
    return -int(ffi.cast("uintptr_t", ffi.from_buffer(memory))) % HUGE_PAGE


def _map_memory(size: int, *, huge: bool) -> mmap.mmap:
    """Map zeroed private memory; with `huge` 2 MiB more, so that it can be aligned."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    try:
        memory = mmap.mmap(-1, size + HUGE_PAGE if huge else size, flags=flags)
    except OSError as error:
        raise KvmError("mmap of guest memory", error.errno or 0, "free some memory") from None
    try:
        memory.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
    except OSError as error:
        if huge:
            memory.close()
            hint = "this kernel has no transparent huge pages; leave huge=1 out"
            raise KvmError("madvise MADV_HUGEPAGE", error.errno or 0, hint) from None
        # Without CONFIG_TRANSPARENT_HUGEPAGE there is nothing to bar.
    return memory


class Vm(_WithStats):
    """A VM's file descriptor; owns the mappings of the guest's memory."""

    def __init__(self, fd: int, vcpu_mmap_size: int) -> None:
        super().__init__(fd)
        self._vcpu_mmap_size = vcpu_mmap_size
        self._memory: list[mmap.mmap] = []

    def set_tss_addr(self, address: int) -> None:
        """Reserve three pages below 4 GiB, which Intel needs for real mode."""
        raw.ioctl(self.fd, "KVM_SET_TSS_ADDR", address)

    def set_identity_map_addr(self, address: int) -> None:
        """Reserve one page below 4 GiB, which Intel needs for unpaged mode with EPT."""
        raw.ioctl(self.fd, "KVM_SET_IDENTITY_MAP_ADDR", raw.new("uint64_t *", address))

    def create_irqchip(self) -> None:
        """Create the in-kernel PIC, IOAPIC and local APICs."""
        raw.ioctl(self.fd, "KVM_CREATE_IRQCHIP")

    def create_pit2(self) -> None:
        """Create the in-kernel PIT, port 0x61 with it; it needs the irqchip."""
        raw.ioctl(self.fd, "KVM_CREATE_PIT2", raw.new("struct kvm_pit_config *", [_PIT_FLAGS]))

    def irq_line(self, irq: int, level: bool) -> None:
        """Set the level of an interrupt line of the in-kernel PIC and IOAPIC."""
        line = raw.new("struct kvm_irq_level *", [irq, int(level)])
        raw.ioctl(self.fd, "KVM_IRQ_LINE", line)

    def set_user_memory_region(
        self, slot: int, address: int, size: int, *, huge: bool = False, populate: bool = False
    ) -> mmap.mmap:
        """Back guest-physical `address` with `size` bytes of fresh zeroed memory; return it.

        The mapping is private and lives until close().  It is barred from transparent huge
        pages, so that a guest's 4 KiB page is one on the host, unless `huge` asks for them
        (then guest-physical `address` lies at the first multiple of 2 MiB in it).
        `populate` gives every page its own frame at once.  Raises Infeasible where the
        kernel did not back it by huge pages as asked.
        """
        memory = _map_memory(size, huge=huge)
        base = int(ffi.cast("uintptr_t", ffi.from_buffer(memory)))
        begin = huge_begin(memory) if huge else 0
        base += begin
        if populate:
            for at in range(begin, begin + size, HUGE_PAGE if huge else mmap.PAGESIZE):
                memory[at] = 1
        if huge and populate:
            _check_huge(base, size)
        region = raw.new("struct kvm_userspace_memory_region *", [slot, 0, address, size, base])
        raw.ioctl(self.fd, "KVM_SET_USER_MEMORY_REGION", region)
        self._memory.append(memory)
        return memory

    def create_vcpu(self, number: int) -> Vcpu:
        """Create vCPU `number` and map its `struct kvm_run`."""
        return Vcpu(raw.ioctl(self.fd, "KVM_CREATE_VCPU", number), self._vcpu_mmap_size)

    def close(self) -> None:
        """Close the VM and unmap the guest's memory; its vCPUs are closed first."""
        super().close()
        while self._memory:
            self._memory.pop().close()


class Vcpu(_WithStats):
    """A vCPU's file descriptor; one thread at a time may use it."""

    def __init__(self, fd: int, mmap_size: int) -> None:
        super().__init__(fd)
        self._mapping = mmap.mmap(fd, mmap_size)
        self._buffer = ffi.from_buffer(self._mapping)
        self.kvm_run = ffi.cast("struct kvm_run *", self._buffer)
        self._preempted = raw.new(f"uint32_t[{lib.SHARED_MAX_SAMPLES + 1}]")

    def _get(self, name: str, ctype: str) -> Any:
        value = raw.new(ctype)
        raw.ioctl(self.fd, name, value)
        return value

    def get_regs(self) -> Any:
        """Return a new `struct kvm_regs *`."""
        return self._get("KVM_GET_REGS", "struct kvm_regs *")

    def set_regs(self, regs: Any) -> None:
        """Set the general registers from a `struct kvm_regs *`."""
        raw.ioctl(self.fd, "KVM_SET_REGS", regs)

    def get_sregs(self) -> Any:
        """Return a new `struct kvm_sregs *`: segments, control registers, EFER."""
        return self._get("KVM_GET_SREGS", "struct kvm_sregs *")

    def set_sregs(self, sregs: Any) -> None:
        """Set the special registers from a `struct kvm_sregs *`."""
        raw.ioctl(self.fd, "KVM_SET_SREGS", sregs)

    def set_cpuid2(self, cpuid: Any) -> None:
        """Set what the guest's CPUID says, before its first KVM_RUN."""
        raw.ioctl(self.fd, "KVM_SET_CPUID2", cpuid)

    def get_mp_state(self) -> int:
        """Return KVM_MP_STATE_*; it needs an in-kernel irqchip to tell of a halt."""
        return int(self._get("KVM_GET_MP_STATE", "struct kvm_mp_state *").mp_state)

    def set_mp_state(self, mp_state: int) -> None:
        """Set KVM_MP_STATE_*."""
        raw.ioctl(self.fd, "KVM_SET_MP_STATE", raw.new("struct kvm_mp_state *", [mp_state]))

    def answer(self, data: bytes) -> None:
        """Give what the port read that ended the last run() reads; the next one delivers it."""
        raw.answer(self.kvm_run, data)

    def get_tsc_khz(self) -> int | None:
        """Return the guest's TSC frequency in kHz, None where KVM cannot tell it.

        Then it says 0, or EIO on a host whose TSC is unstable (KVM API 4.56).
        """
        try:
            return raw.ioctl(self.fd, "KVM_GET_TSC_KHZ") or None
        except KvmError as error:
            if error.errno == errno.EIO:
                return None
            raise

    def run(self, timeout_ns: int) -> exits.Exit:
        """Run until the guest leaves to user space for more than the op `pio` or a sample's end.

        Raises KvmError: ETIME after `timeout_ns` nanoseconds, EINTR for another signal.
        """
        error = raw.run(self.fd, self.kvm_run, timeout_ns, self._preempted)
        if error:
            raise KvmError("KVM_RUN", error)
        return exits.read(self.kvm_run)

    def take_preempted(self) -> list[int]:
        """Return how often the vCPU's thread was preempted in each sample since the last call."""
        samples = self._preempted[0]
        self._preempted[0] = 0
        return list(self._preempted[1 : samples + 1])

    def close(self) -> None:
        """Unmap `struct kvm_run` and close; a second call does nothing."""
        if self.fd >= 0:
            self.kvm_run = None
            ffi.release(self._buffer)
            self._mapping.close()
        super().close()
