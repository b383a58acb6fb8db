"""A kernel laid out for the monitor of our own (guest.linux): what it loads, as a few files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from elftools.elf.elffile import ELFFile

from kvmharness.errors import UsageError
from kvmharness.guest.linux import Linux, Segment
from kvmharness.kernel.resolve import pvh_entry

KERNEL, ARCHIVE = "inner-vmlinux", "inner-{}.cpio"


def pack(
    kernel: Path, initrd: Sequence[Path], command_line: str, memory_mib: int
) -> tuple[Linux, dict[str, bytes]]:
    """Describe a vmlinux with its archives; return that and what each file named in it holds.

    Raises OSError, UsageError for a kernel that has no PVH entry.
    """
    image = kernel.read_bytes()
    vmlinux = ELFFile(io.BytesIO(image)) if image.startswith(b"\x7fELF") else None
    entry = pvh_entry(vmlinux) if vmlinux else None
    if vmlinux is None or entry is None:
        raise UsageError(f"kernel {kernel}: it has no PVH entry; build it with CONFIG_PVH=y")
    loaded = list(vmlinux.iter_segments("PT_LOAD"))
    archives = {ARCHIVE.format(n): path.read_bytes() for n, path in enumerate(initrd)}
    linux = Linux(
        KERNEL,
        entry,
        [Segment(s["p_paddr"], s["p_offset"], s["p_filesz"]) for s in loaded if s["p_filesz"]],
        max(s["p_paddr"] + s["p_memsz"] for s in loaded),
        list(archives),
        command_line,
        memory_mib,
    )
    return linux, {KERNEL: image, **archives}
