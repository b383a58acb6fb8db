"""The boot disk: what lies on it, and what a kernel that is booted from it is given."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from kvmharness.errors import UsageError
from kvmharness.kernel.resolve import Kernel
from kvmharness.lab import bootdisk
from tests.support.pvh import pvh_kernel

__all__ = ["pvh_kernel"]

MEMORY = 64 << 20


@pytest.fixture
def initrd(tmp_path: Path) -> Path:
    path = tmp_path / "initrd"
    path.write_bytes(bytes(range(256)) * 300 + b"end")
    return path


def write(kernel: Kernel, initrd: Path, words: str = "off", memory: int = MEMORY) -> Path:
    disk = initrd.with_name("disk.img")
    bootdisk.write(disk, kernel.image, initrd, words, memory)
    return disk


def pieces(disk: bytes) -> list[tuple[int, int, int]]:
    """Return address, first sector and length of each piece that the disk says to load."""
    code, fields = bootdisk.loader()
    assert disk.startswith(code[: fields["boot_entry"]])
    rows = struct.iter_unpack("<III", disk[fields["boot_pieces"] : fields["boot_command_line"]])
    found = [(address, sector, sectors) for address, sector, sectors in rows]
    return found[: [row[2] for row in found].index(0)]


def test_the_first_sector_is_one_that_a_bios_boots() -> None:
    code = bootdisk.loader().code
    assert code[510:512] == b"\x55\xaa"
    assert len(code) % bootdisk.SECTOR == 0


def test_every_piece_lies_on_the_disk_and_none_on_another(pvh_kernel: Kernel, initrd: Path) -> None:
    disk = write(pvh_kernel, initrd).read_bytes()
    assert len(disk) % bootdisk.CYLINDER == 0
    stored = [(sector, sectors) for _, sector, sectors in pieces(disk) if sector]
    ends = [sector + sectors for sector, sectors in stored]
    assert [sector for sector, _ in stored[1:]] == ends[:-1]
    assert stored[0][0] * bootdisk.SECTOR == len(bootdisk.loader().code)
    assert ends[-1] * bootdisk.SECTOR <= len(disk)


def test_the_initrd_is_there_whole_and_above_the_kernel(pvh_kernel: Kernel, initrd: Path) -> None:
    disk = write(pvh_kernel, initrd).read_bytes()
    *kernel, (address, sector, _) = pieces(disk)
    assert address >= max(at + sectors * bootdisk.SECTOR for at, _, sectors in kernel)
    data = initrd.read_bytes()
    assert disk[sector * bootdisk.SECTOR :].startswith(data)
    at = bootdisk.loader().fields["boot_initrd"]
    assert struct.unpack_from("<QQ", disk, at) == (address, len(data))


def test_long_runs_of_zeros_are_not_stored(pvh_kernel: Kernel, initrd: Path) -> None:
    zeros = [
        sectors
        for _, sector, sectors in pieces(write(pvh_kernel, initrd).read_bytes())
        if not sector
    ]
    # The middle of its data segment, and its .bss.
    assert len(zeros) == 2
    assert zeros[0] * bootdisk.SECTOR >= 0x20000


def test_a_kernel_without_the_entry_is_refused(initrd: Path, pvh_kernel: Kernel) -> None:
    image = initrd.with_name("vmlinux")
    image.write_bytes(pvh_kernel.image.read_bytes().replace(b"Xen\0", b"Yen\0"))
    with pytest.raises(UsageError, match="it has no PVH entry; build it with CONFIG_PVH=y"):
        bootdisk.write(initrd.with_name("disk.img"), image, initrd, "", MEMORY)
    with pytest.raises(UsageError, match="it has no PVH entry"):
        bootdisk.write(initrd.with_name("disk.img"), initrd, initrd, "", MEMORY)


@pytest.mark.parametrize("memory", [8 << 20, 17 << 20])
def test_what_does_not_fit_in_memory_is_refused(
    pvh_kernel: Kernel, initrd: Path, memory: int
) -> None:
    with pytest.raises(UsageError, match=f"it takes 18 MiB of {memory >> 20};"):
        write(pvh_kernel, initrd, memory=memory)


def test_a_command_line_that_is_too_long_is_refused(pvh_kernel: Kernel, initrd: Path) -> None:
    with pytest.raises(UsageError, match="boot disk: command line of 5001 bytes"):
        write(pvh_kernel, initrd, "x" * 5000)
