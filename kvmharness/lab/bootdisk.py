"""The disk that a machine boots where an emulator cannot enter a kernel by itself.

guests/boot/disk.S is its first sectors.  Behind them lie the kernel's segments and the initrd,
each from a sector of its own on; what is zero is not stored but filled in as it is loaded.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from elftools.elf.elffile import ELFFile

from kvmharness.errors import UsageError
from kvmharness.kernel.resolve import pvh_entry

SECTOR = 512
# A disk is described in cylinders, of 16 heads and 63 sectors each.
CYLINDER = 16 * 63 * SECTOR
# Zeros are looked for in steps of so many bytes.
STEP = 1 << 16
# The initrd begins on a page of its own, whatever its size in pages.
INITRD_ALIGN = 1 << 20


class Piece(NamedTuple):
    """What is loaded to `address`: bytes of the kernel's file, or `size` zeros (None)."""

    address: int
    size: int
    data: memoryview | None


class Loader(NamedTuple):
    """The assembled first sectors, and where in them each field lies that a disk fills in."""

    code: bytes
    fields: dict[str, int]


def loader() -> Loader:
    """Return the boot sector as the package was built with it."""
    blobs = files("kvmharness") / "blobs"
    row = json.loads((blobs / "index.json").read_text())["disk"]
    start = row["symbols"]["boot_start"]
    fields = {name: at - start for name, at in row["symbols"].items()}
    return Loader((blobs / "disk.bin").read_bytes(), fields)


def _runs(address: int, data: memoryview) -> Iterator[Piece]:
    """Cut a segment into what has to be stored and what is zero."""
    zeros = bytes(STEP)
    begin, was_zero = 0, False
    for at in range(0, len(data), STEP):
        part = data[at : at + STEP]
        is_zero = part == zeros[: len(part)]
        if at and is_zero != was_zero:
            yield Piece(address + begin, at - begin, None if was_zero else data[begin:at])
            begin = at
        was_zero = is_zero
    yield Piece(address + begin, len(data) - begin, None if was_zero else data[begin:])


def _segments(vmlinux: ELFFile, data: memoryview) -> Iterator[Piece]:
    for segment in vmlinux.iter_segments("PT_LOAD"):
        address, size = segment["p_paddr"], segment["p_filesz"]
        start = segment["p_offset"]
        if size:
            yield from _runs(address, data[start : start + size])
        if segment["p_memsz"] > size:
            yield Piece(address + size, segment["p_memsz"] - size, None)


def _sectors(size: int) -> int:
    return -(-size // SECTOR)


def _fill(code: bytes, fields: dict[str, int], values: dict[str, bytes]) -> bytes:
    """Return the loader with its fields written."""
    filled = bytearray(code)
    for name, value in values.items():
        end = min(at for at in (*fields.values(), len(code)) if at > fields[name])
        room = end - fields[name]
        if len(value) > room:
            what = name.removeprefix("boot_").replace("_", " ")
            raise UsageError(
                f"boot disk: {what} of {len(value)} bytes, room for {room}; shorten it"
            )
        filled[fields[name] : fields[name] + len(value)] = value
    return bytes(filled)


def write(path: Path, kernel: Path, initrd: Path, command_line: str, memory: int) -> None:
    """Write a disk that boots a vmlinux with an initrd in `memory` bytes.

    Raises OSError, UsageError for a kernel that has no PVH entry or does not fit.
    """
    image = kernel.read_bytes()
    vmlinux = ELFFile(io.BytesIO(image)) if image.startswith(b"\x7fELF") else None
    entry = pvh_entry(vmlinux) if vmlinux else None
    if vmlinux is None or entry is None:
        raise UsageError(f"kernel {kernel}: it has no PVH entry; build it with CONFIG_PVH=y")
    pieces = list(_segments(vmlinux, memoryview(image)))
    end = max(piece.address + piece.size for piece in pieces)
    size = initrd.stat().st_size
    at = -(-end // INITRD_ALIGN) * INITRD_ALIGN
    if at + size > memory:
        needed = -(-(at + size) >> 20)
        raise UsageError(
            f"kernel {kernel}: with its initrd it takes {needed} MiB of {memory >> 20}; "
            "leave out what it does not need"
        )
    pieces.append(Piece(at, size, memoryview(initrd.read_bytes())))
    _write(
        path,
        pieces,
        {
            "boot_entry": struct.pack("<I", entry),
            "boot_initrd": struct.pack("<QQ", at, size),
            "boot_command_line": command_line.encode() + b"\0",
        },
    )


def _write(path: Path, pieces: Sequence[Piece], values: dict[str, bytes]) -> None:
    code, fields = loader()
    rows, sector = [], len(code) // SECTOR
    with path.open("wb") as disk:
        for piece in pieces:
            sectors = _sectors(piece.size)
            rows.append((piece.address, sector if piece.data is not None else 0, sectors))
            if piece.data is not None:
                disk.seek(sector * SECTOR)
                disk.write(piece.data)
                sector += sectors
        disk.truncate(-(-sector * SECTOR // CYLINDER) * CYLINDER)
        values["boot_pieces"] = b"".join(struct.pack("<III", *row) for row in (*rows, (0, 0, 0)))
        disk.seek(0)
        disk.write(_fill(code, fields, values))
