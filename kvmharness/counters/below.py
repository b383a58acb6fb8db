"""What the level below counts while this one measures: L0's counts, asked for by a port.

This kernel is a guest of the lab's own monitor (guest.linux): it writes a byte to a port where an
interval begins and where it ends, which the monitor sees as any other exit, and reads the counts
from the same port, byte by byte: their length, then JSON.  `Counts` is the monitor's side.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from kvmharness.counters.source import Source, Watched
from kvmharness.model.counters import BELOW, BELOW_EXIT

# No device of a PC is there.
PORT = 0x5E0
# What begins an interval says what is counted in it: events, or exits by their reasons.
EVENTS, REASONS, END = b"\1", b"\2", b"\3"
PREFIXES = {EVENTS: BELOW, REASONS: BELOW_EXIT}
ABSENT = f"{BELOW}*"
PORTS = Path("/dev/port")
_LENGTH = struct.Struct("<I")


class Below:
    """The counts of the level below, as a source of this one; each name begins with `l0.`.

    `kind` is EVENTS, or REASONS for exits by reason.
    """

    def __init__(self, kind: bytes = EVENTS, ports: Path = PORTS) -> None:
        self.absent: dict[str, str] = {}
        self._kind = kind
        self._ports = ports
        self._fd = -1

    def attach(self, guest: Watched) -> None:
        """Open the I/O ports."""
        self.close()
        self.absent = {}
        try:
            self._fd = os.open(self._ports, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            self.absent[ABSENT] = f"{self._ports}: {error.strerror}"

    def _tell(self, word: bytes) -> None:
        os.pwrite(self._fd, word, PORT)

    def _read(self, size: int) -> bytes:
        # A read of several bytes would go to as many ports.
        return b"".join(os.pread(self._fd, 1, PORT) for _ in range(size))

    def begin(self) -> None:
        """Tell the level below that an interval begins."""
        if self._fd >= 0:
            self._tell(self._kind)

    def end(self) -> dict[str, int]:
        """Tell that it ends, and return what was counted below."""
        if self._fd < 0:
            return {}
        self._tell(END)
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size))
        told = json.loads(self._read(length))
        prefix = PREFIXES[self._kind]
        self.absent.update({prefix + name: why for name, why in told["absent"].items()})
        return {prefix + name: count for name, count in told["counts"].items()}

    def close(self) -> None:
        """Close the I/O ports."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Counts:
    """The monitor's side of PORT: counts what its guest causes, by the `sources` of each kind.

    `guest` is set once there is one.
    """

    def __init__(self, sources: Mapping[bytes, Sequence[Source]]) -> None:
        self.guest: Watched | None = None
        self._kinds = sources
        self._sources: Sequence[Source] = ()
        self._answer = b""

    def write(self, data: bytes) -> None:
        """Begin or end an interval."""
        if data in self._kinds and self.guest:
            self._sources = self._kinds[data]
            for source in self._sources:
                source.attach(self.guest)
            for source in self._sources:
                source.begin()
        elif data == END:
            self._answer = self._end()

    def _end(self) -> bytes:
        counts: dict[str, int] = {}
        absent: dict[str, str] = {}
        for source in reversed(self._sources):
            counts.update(source.end())
            absent.update(source.absent)
            source.close()
        text = json.dumps({"counts": counts, "absent": absent}).encode()
        return _LENGTH.pack(len(text)) + text

    def read(self, size: int) -> bytes:
        """Return the next bytes of the answer, zeros behind its end."""
        data, self._answer = self._answer[:size], self._answer[size:]
        return data.ljust(size, b"\0")

    def close(self) -> None:
        """End an interval that its guest did not live to end."""
        for source in self._sources:
            source.close()
