"""The file that the lab's plugin writes (lab/trace.c): blocks of code, and which of them ran."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kvmharness.errors import UsageError

Words = NDArray[np.uint64]

HEADER = int.from_bytes(b"KVMHTRC2", "little")
END = int.from_bytes(b"KVMHEND1", "little")
TRAILER = 3
WORD = 8
# Of a word that is an event.
KIND_SHIFT, FIRST_SHIFT, BEGUN_SHIFT = 56, 44, 32
NUMBER_MASK, COUNT_MASK = 0xFFFFFFFF, 0xFFF


class Kind(IntEnum):
    """What an event is; a word with a thread's name follows LEAVE and RESUME."""

    L1 = 0
    L2 = 1
    BEGIN = 2
    END = 3
    LEAVE = 4
    RESUME = 5
    SETTLED = 6


@dataclass(frozen=True)
class Block:
    """A block of instructions: its address, the size of each, and their bytes."""

    start: int
    sizes: bytes
    code: bytes


@dataclass(frozen=True)
class Stretch:
    """What ran in a sample that was asked for under `label`: events.

    `later` is what the kernel ran after it until nothing was left to do; None where nobody waited.
    """

    label: int
    words: Words
    later: Words | None = None


@dataclass(frozen=True)
class Trace:
    """The samples in the order of time, and the blocks that they name."""

    blocks: dict[int, Block]
    samples: list[Stretch]


def event(kind: int, number: int, begun: int = 0, first: int = 0) -> int:
    """Return the word of an event."""
    return kind << KIND_SHIFT | first << FIRST_SHIFT | begun << BEGUN_SHIFT | number


class _Broken(Exception):
    """This is no trace; the message says why."""


def _blocks(words: Words, count: int) -> Iterator[tuple[int, Block]]:
    """Yield number and block, `count` times."""
    raw = words.tobytes()
    at = 0
    for _ in range(count):
        if at + 2 > len(words):
            raise _Broken("a block is missing")
        start, sizes = int(words[at]), int(words[at + 1])
        insns, size = sizes >> 32 & 0xFFFF, sizes >> 48
        begin = (at + 2) * WORD
        data = raw[begin : begin + insns + size]
        if not insns or len(data) != insns + size or sum(data[:insns]) != size:
            raise _Broken("a block contradicts itself")
        yield sizes & NUMBER_MASK, Block(start, data[:insns], data[insns:])
        at += 2 + -(-(insns + size) // WORD)
    if at != len(words):
        raise _Broken("something is left over after the blocks")


def _samples(events: Words) -> Iterator[Stretch]:
    """Cut the events at the samples' begins and ends."""
    # A thread's name is an address in the kernel's half, whose top byte is that of no event.
    kinds = events >> np.uint64(KIND_SHIFT)
    begins, ends = np.flatnonzero(kinds == Kind.BEGIN), np.flatnonzero(kinds == Kind.END)
    if len(begins) != len(ends) or (begins > ends).any() or (begins[1:] < ends[:-1]).any():
        raise _Broken("a sample without begin or end")
    if len(events) and (not len(begins) or begins[0] != 0):
        raise _Broken("something ran outside of samples")
    nexts = [*begins, len(events)][1:]
    settled = np.flatnonzero(kinds == Kind.SETTLED)
    for begin, end, after in zip(begins, ends, nexts, strict=True):
        done = settled[(settled > begin) & (settled < after)]
        if len(done) > 1 or (len(done) and not end < done[0] == after - 1):
            raise _Broken("a sample is settled before it ends, or twice")
        label = int(events[begin]) & NUMBER_MASK
        later = events[end + 1 : after - 1] if len(done) else None
        yield Stretch(label, events[begin + 1 : end], later)


def _check(events: Words, blocks: dict[int, Block]) -> None:
    """Check all events at once: known kinds, known blocks, no more begun than there is."""
    kinds = events >> np.uint64(KIND_SHIFT)
    named = np.flatnonzero((kinds == Kind.LEAVE) | (kinds == Kind.RESUME)) + 1
    if named.size and (named[-1] >= len(events) or (kinds[named] < 0xFF).any()):
        raise _Broken("a switch between threads names none")
    plain = np.delete(kinds, named)
    if (plain > Kind.SETTLED).any():
        raise _Broken("an event of no known kind")
    ran = events[kinds <= Kind.L2]
    # As many as there are blocks: their numbers may be anything.
    known = np.array(sorted(blocks) or [NUMBER_MASK], dtype=np.uint64)
    lengths = np.array([len(blocks[int(n)].sizes) if blocks else 0 for n in known], dtype=np.uint64)
    numbers = ran & np.uint64(NUMBER_MASK)
    places = np.minimum(np.searchsorted(known, numbers), len(known) - 1)
    begun = ran >> np.uint64(BEGUN_SHIFT) & np.uint64(COUNT_MASK)
    last = begun + (ran >> np.uint64(FIRST_SHIFT) & np.uint64(COUNT_MASK))
    if (known[places] != numbers).any() or not begun.all() or (last > lengths[places]).any():
        raise _Broken("an event of a block that is not there, or not so long")


def parse(data: bytes) -> Trace:
    """Read a trace from the file's bytes.  Raises ValueError for anything that is not one."""
    try:
        return _parse(data)
    except _Broken as error:
        raise ValueError(str(error)) from None


def _parse(data: bytes) -> Trace:
    if len(data) % WORD or len(data) < (1 + TRAILER) * WORD:
        raise _Broken("cut short")
    words = np.frombuffer(data, dtype="<u8")
    end, before, count = (int(word) for word in words[-TRAILER:])
    if words[0] != HEADER or end != END or not 1 <= before <= len(words) - TRAILER:
        raise _Broken("no header or no end")
    blocks = dict(_blocks(words[before:-TRAILER], count))
    if len(blocks) != count:
        raise _Broken("a block comes twice")
    events = words[1:before]
    _check(events, blocks)
    return Trace(blocks, list(_samples(events)))


def read(path: Path) -> Trace:
    """Read a trace file.  Raises UsageError for anything that is not one."""
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise UsageError(f"read {path}: {error.strerror}; trace again") from None
    except ValueError as error:
        raise UsageError(f"read {path}: not a trace: {error}; trace again") from None
