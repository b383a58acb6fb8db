"""Stopped machines in the cache (lab.stopped makes them and goes on with them).

A snapshot is a folder, named by all that went into the machine: its memory without what is zero,
the state of its devices, what its console has said, and an index with a checksum of each piece.
Whoever reads one has checked all of it, and holds a copy: it may be taken away meanwhile.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec

from kvmharness import cache

HOME, INDEX, MEMORY, STATE, CONSOLE = "snapshots", "index.json", "memory", "state", "console.log"
# All of them together; one has about 130 MB.
LIMIT = 4 << 30
# Held while snapshots are taken away.
EVICTING = ".evict.lock"
# Memory is looked through, and stored, in pieces of at most so many bytes.
STEP, PAGE = 1 << 20, 1 << 12
ZEROS = bytes(PAGE)


class Piece(NamedTuple):
    """Bytes of a machine's memory that are stored: where they begin, how many, their crc32."""

    at: int
    size: int
    crc: int


class Index(msgspec.Struct, frozen=True):
    """What a snapshot holds; `state` and `console` are crc32s."""

    pieces: list[Piece]
    state: int
    console: int


@dataclass(frozen=True)
class Stopped:
    """A stopped machine: open files of its memory and devices, and what its console has said."""

    memory: int
    state: int
    console: bytes


class Damaged(Exception):
    """A snapshot in the cache is not what was written; it is gone now."""


def claimed(name: str) -> AbstractContextManager[None]:
    """Hold a snapshot, there or not, against whoever else would make it."""
    return cache.locked(cache.folder(HOME) / f".{name}.lock")


def _written(memory: int) -> Iterator[tuple[int, int]]:
    """Yield begin and end of what was ever written of a file that lives in memory."""
    end, size = 0, os.fstat(memory).st_size
    while end < size:
        try:
            begin = os.lseek(memory, end, os.SEEK_DATA)
        except OSError:  # nothing more
            return
        end = os.lseek(memory, begin, os.SEEK_HOLE)
        yield begin, end


def _runs(view: memoryview, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield begin and end of what is not zero, in whole pages and at most STEP bytes."""
    start = None
    for at in range(begin, end, PAGE):
        is_zero = view[at : at + PAGE] == ZEROS
        if start is not None and (is_zero or at - start >= STEP):
            yield start, at
            start = None
        if start is None and not is_zero:
            start = at
    if start is not None:
        yield start, end


def _store(memory: int, path: Path) -> list[Piece]:
    """Write a machine's memory without what is zero.  Raises OSError."""
    pieces = []
    with (
        mmap.mmap(memory, 0, prot=mmap.PROT_READ) as mapped,
        memoryview(mapped) as view,
        path.open("wb") as file,
    ):
        for begin, end in _written(memory):
            for start, stop in _runs(view, begin, end):
                with view[start:stop] as data:
                    file.write(data)
                    pieces.append(Piece(start, stop - start, zlib.crc32(data)))
        file.flush()
        os.fsync(file.fileno())
    return pieces


def keep(name: str, stopped: Stopped) -> None:
    """Write a snapshot, whole or not at all, once older ones have made room.

    Whoever calls has claimed it.  Raises OSError.
    """
    place = cache.folder(HOME) / name
    state = os.pread(stopped.state, os.fstat(stopped.state).st_size, 0)
    needed = os.fstat(stopped.memory).st_blocks * 512 + len(state) + len(stopped.console)
    evict(LIMIT - needed)
    scratch = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=place.parent))
    try:
        pieces = _store(stopped.memory, scratch / MEMORY)
        (scratch / STATE).write_bytes(state)
        (scratch / CONSOLE).write_bytes(stopped.console)
        index = Index(pieces, zlib.crc32(state), zlib.crc32(stopped.console))
        data = msgspec.json.encode(index)
        (scratch / INDEX).write_bytes(b"%08x\n" % zlib.crc32(data) + data)
        scratch.rename(place)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def load(name: str, into: Stopped) -> Stopped:
    """Return a snapshot that was kept, its memory and its devices in the open files of `into`.

    Raises FileNotFoundError where there is none, Damaged.
    """
    place = cache.folder(HOME) / name
    if not place.is_dir():
        raise FileNotFoundError(place)
    try:
        os.utime(place)
        index = _index(place / INDEX)
        _fill(into.memory, place / MEMORY, index.pieces)
        state, console = (place / STATE).read_bytes(), (place / CONSOLE).read_bytes()
        if (zlib.crc32(state), zlib.crc32(console)) != (index.state, index.console):
            raise Damaged(f"{STATE} or {CONSOLE} is not what was written")
    except (OSError, ValueError, msgspec.MsgspecError, Damaged) as error:
        size = os.fstat(into.memory).st_size
        os.ftruncate(into.memory, 0)  # as nobody has written to it
        os.ftruncate(into.memory, size)
        if not place.is_dir():  # it had to make room meanwhile
            raise FileNotFoundError(place) from None
        cache.remove(place)
        raise Damaged(str(error)) from None
    os.pwrite(into.state, state, 0)
    return Stopped(into.memory, into.state, console)


def _index(path: Path) -> Index:
    """Return a snapshot's index.  Raises OSError, Damaged, msgspec.MsgspecError."""
    crc, _, data = path.read_bytes().partition(b"\n")
    if crc != b"%08x" % zlib.crc32(data):
        raise Damaged(f"{INDEX} is not what was written")
    return msgspec.json.decode(data, type=Index)


def _fill(memory: int, path: Path, pieces: list[Piece]) -> None:
    """Write a machine's memory as it was stored.  Raises OSError, Damaged, ValueError."""
    with (
        path.open("rb") as file,
        mmap.mmap(memory, 0) as mapped,
        memoryview(mapped) as view,
    ):
        for piece in pieces:
            with view[piece.at : piece.at + piece.size] as data:
                if file.readinto(data) != piece.size or zlib.crc32(data) != piece.crc:
                    raise Damaged(f"memory at {piece.at:#x} is not what was written")
        if file.read(1):
            raise Damaged("there is more memory than was written")


class Kept(NamedTuple):
    """A snapshot in the cache: its folder, the bytes that it takes, when it was used last."""

    place: Path
    size: int
    used: float


def kept() -> list[Kept]:
    """Return all that are kept, the one that was used least recently first."""
    found = []
    for place in cache.folder(HOME).iterdir():
        if place.name[0] != ".":
            with suppress(FileNotFoundError):  # taken away meanwhile
                found.append(Kept(place, cache.size(place), place.stat().st_mtime))
    return sorted(found, key=lambda one: one.used)


def _sweep(left: Path) -> None:
    """Remove what a process that was killed has left, unless its snapshot is being made."""
    lock = left.parent / f".{left.name.split('.')[1]}.lock"
    with suppress(OSError), lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(left, ignore_errors=True)


def evict(limit: int) -> None:
    """Take away what was used least recently until all have at most `limit` bytes together.

    What a process that was killed has left goes first.
    """
    home = cache.folder(HOME)
    with cache.locked(home / EVICTING):
        for left in home.glob(".*.*"):
            if left.is_dir():
                _sweep(left)
        found = kept()
        total = sum(one.size for one in found)
        for one in found:
            if total <= limit:
                break
            cache.remove(one.place)
            total -= one.size
