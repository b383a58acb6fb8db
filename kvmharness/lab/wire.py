"""How results leave a machine: files and progress as lines on a serial port.

    progress TEXT
    file NAME
    <base64 of the deflated bytes, in lines>
    end NAME SIZE CRC32

A file counts with its `end` only, and where size and checksum are right: a port may lose what
nobody reads, and a machine may end at any moment.
"""

from __future__ import annotations

import base64
import binascii
import termios
import zlib
from collections.abc import Callable
from typing import IO

from kvmharness.text import short

# An emulated CPU spends more on packing tighter than on sending the rest: for a kernel's symbols a
# quarter of it, for a fourth more bytes.
LEVEL = 1
# Serial drivers and terminals take lines of this length; base64 makes 4 of 3.
LINE = 57 * 16
# What a machine that went mad may make us keep: more than any trace, packed and unpacked.
MOST_PACKED, MOST, MOST_FILES = 256 << 20, 1 << 30, 100
LONGEST_LINE = 1 << 16
SHOWN = 200


class Sender:
    """Writes progress and files to a port, whole lines at a time."""

    def __init__(self, port: IO[bytes]) -> None:
        self._port = port

    def _write(self, data: bytes) -> None:
        while data:
            data = data[self._port.write(data) :]

    def say(self, text: str) -> None:
        """Tell what is being done."""
        self._write(f"progress {text}\n".encode())

    def use(self, port: IO[bytes]) -> None:
        """Write to another port from now on."""
        self.drain()
        self._port = port

    def drain(self) -> None:
        """Wait until the port has sent all of it.  Raises OSError where it is no terminal."""
        termios.tcdrain(self._port)

    def send(self, name: str, data: bytes) -> None:
        """Send a file; one sent earlier by this name is replaced."""
        packed = zlib.compress(data, LEVEL)
        lines = [packed[at : at + LINE] for at in range(0, len(packed), LINE)]
        text = b"".join(base64.b64encode(line) + b"\n" for line in lines)
        end = f"end {name} {len(data)} {zlib.crc32(data):08x}\n"
        self._write(f"file {name}\n".encode() + text + end.encode())


class Receiver:
    """Puts together what a Sender has sent, fed with bytes as they come.

    `files` has the last whole one of each name, `torn` the names of those that came damaged;
    `heard` is called with each line of progress.
    """

    def __init__(self, heard: Callable[[str], None]) -> None:
        self.files: dict[str, bytes] = {}
        self.torn: set[str] = set()
        self._heard = heard
        self._rest = b""
        self._name: str | None = None
        self._lines: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> None:
        """Take what has come, whole lines or not."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-LONGEST_LINE:]
        for line in lines:
            self._line(line.strip(b"\r"))

    def _line(self, line: bytes) -> None:
        word, _, rest = line.partition(b" ")
        text = rest.decode(errors="replace")
        if word == b"progress":
            self._heard(short(text, SHOWN))
        elif word == b"file":
            self._name, self._lines, self._size = text, [], 0
        elif word == b"end":
            self._end(text.split(" "))
        elif self._name is not None:
            self._size += len(line)
            if self._size <= MOST_PACKED:
                self._lines.append(line)

    def _end(self, fields: list[str]) -> None:
        name, lines = self._name, self._lines
        self._name, self._lines = None, []
        try:
            stream = zlib.decompressobj()
            data = stream.decompress(
                b"".join(base64.b64decode(line, validate=True) for line in lines), MOST
            )
            whole = stream.eof and fields == [name, str(len(data)), f"{zlib.crc32(data):08x}"]
        except (zlib.error, binascii.Error):
            whole = False
        if len(self.files) + len(self.torn) >= MOST_FILES:
            return
        if whole:
            assert name is not None
            self.files[name] = data
            self.torn.discard(name)
        else:
            self.torn.add(short(fields[0], SHOWN))
