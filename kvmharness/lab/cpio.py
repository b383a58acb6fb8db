"""Write cpio archives of the kind that a kernel unpacks as its first root (initramfs).

Source: Documentation/driver-api/early-userspace/buffer-format.rst, "newc" without checksums.
Owner, times and numbers are fixed, so the same files give the same bytes; whoever writes one
needs no right to make what is in it.
"""

from __future__ import annotations

import shutil
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ALIGN = 4
TRAILER = "TRAILER!!!"


@dataclass(frozen=True)
class Entry:
    """One file of an archive: its path without a leading slash, its mode, what it holds.

    `data` is a symbolic link's target where `mode` says link; `device` is major and minor.
    """

    path: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def file(path: str, data: bytes, executable: bool = False) -> Entry:
    """Return a plain file's entry."""
    return Entry(path, stat.S_IFREG | (0o755 if executable else 0o644), data)


def folder(path: str) -> Entry:
    """Return a folder's entry."""
    return Entry(path, stat.S_IFDIR | 0o755)


def link(path: str, target: str) -> Entry:
    """Return a symbolic link's entry."""
    return Entry(path, stat.S_IFLNK | 0o777, target.encode())


def character_device(path: str, major: int, minor: int) -> Entry:
    """Return the entry of a device that is read and written by characters."""
    return Entry(path, stat.S_IFCHR | 0o600, device=(major, minor))


def _pad(out: IO[bytes]) -> None:
    out.write(bytes(-out.tell() % ALIGN))


def _write_one(out: IO[bytes], number: int, entry: Entry) -> None:
    name = entry.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    # ino, mode, uid, gid, nlink, mtime, filesize, dev (2), rdev (2), namesize, check.
    fields = (number, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device)
    numbers = (*fields, len(name), 0)
    out.write(b"070701" + "".join(f"{field:08X}" for field in numbers).encode() + name)
    _pad(out)
    out.write(entry.data)
    _pad(out)


def _with_folders(entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries, sorted, with every folder that one of them lies in before it."""
    found = {entry.path: entry for entry in entries}
    for path in list(found):
        for parent in Path(path).parents[:-1]:
            found.setdefault(str(parent), folder(str(parent)))
    return [found[path] for path in sorted(found)]


def write(path: Path, entries: Iterable[Entry]) -> None:
    """Write an archive of the entries and the folders that they lie in.  Raises OSError."""
    with path.open("wb") as out:
        # Numbers from 1: the kernel takes equal ones for hard links.
        for number, entry in enumerate(_with_folders(entries), 1):
            _write_one(out, number, entry)
        _write_one(out, 0, Entry(TRAILER, 0))


def concatenate(archives: Sequence[Path], into: Path) -> None:
    """Write archives one after the other: the kernel unpacks them in this order.

    Raises OSError.
    """
    with into.open("wb") as out:
        for archive in archives:
            with archive.open("rb") as part:
                shutil.copyfileobj(part, out, 1 << 20)
            _pad(out)
