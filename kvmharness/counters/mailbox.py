"""Memory that a kernel shares with the monitor it is a guest of (guest.linux), and a doorbell.

A byte by a serial port is two exits to the monitor, and each costs the level below more than what
it carries.  The memory is a part of the hole below 1 MiB that the monitor's map of the memory calls
no RAM: Linux leaves it alone, and lets root at it by /dev/mem, CONFIG_STRICT_DEVMEM or not.
Whoever writes there rings by a write to a port, which says what it is.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Protocol

ADDRESS, SIZE = 0xD0000, 0x10000
# No device of a PC is there.
PORT = 0x5E0
MEMORY, PORTS = Path("/dev/mem"), Path("/dev/port")
_LENGTH = struct.Struct("<I")
MOST = SIZE - _LENGTH.size


class Mailbox:
    """The guest's side.  Raises OSError where it may not be used, with the file's name."""

    def __init__(self, memory: Path = MEMORY, ports: Path = PORTS) -> None:
        self._memory = os.open(memory, os.O_RDWR | os.O_SYNC | os.O_CLOEXEC)
        try:
            self._ports = os.open(ports, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            os.close(self._memory)
            raise

    def tell(self, word: bytes, data: bytes = b"") -> None:
        """Put at most MOST bytes into it, and ring with a byte that says what they are."""
        if data:
            put(self, data)
        os.pwrite(self._ports, word, PORT)

    def answer(self) -> bytes:
        """Return what the monitor has put there."""
        return taken(self)

    def read_memory(self, address: int, size: int) -> bytes:
        """Return bytes at a physical address."""
        return os.pread(self._memory, size, address)

    def write_memory(self, address: int, data: bytes) -> None:
        """Write bytes there."""
        os.pwrite(self._memory, data, address)

    def close(self) -> None:
        """Let go of it."""
        os.close(self._memory)
        os.close(self._ports)


class Memory(Protocol):
    """A guest's memory, as it or its monitor sees it."""

    def read_memory(self, address: int, size: int) -> bytes:
        """Return bytes at a guest-physical address."""

    def write_memory(self, address: int, data: bytes) -> None:
        """Write bytes there."""


def taken(memory: Memory) -> bytes:
    """Return what the other side has put there; the length it tells is no more than a hint."""
    (length,) = _LENGTH.unpack(memory.read_memory(ADDRESS, _LENGTH.size))
    return memory.read_memory(ADDRESS + _LENGTH.size, min(length, MOST))


def put(memory: Memory, data: bytes) -> None:
    """Put bytes there for the other side, as many as there is room for."""
    data = data[:MOST]
    memory.write_memory(ADDRESS, _LENGTH.pack(len(data)) + data)
