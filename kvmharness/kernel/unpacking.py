"""Unpack what kernels and modules are packed with, told by the first bytes."""

from __future__ import annotations

import bz2
import lzma
import mmap
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from kvmharness.child import environment
from kvmharness.errors import UsageError

Image = bytes | mmap.mmap

# A Debian vmlinux unpacks to 60 MiB; the limit only stops what is no kernel at all.
LIMIT = 512 << 20
# A kernel's modules with all debug information; a package that packs zeros holds more.
MOST_OF_A_PACKAGE = 4 << 30
_CHUNK = 1 << 20


def _stdlib_unpack(make: Callable[[], object]) -> Callable[[Image, str], bytes]:
    """Return an unpacker; zlib, bz2 and lzma name the two things it needs alike."""

    def unpack(data: Image, name: str) -> bytes:
        stream = make()
        try:
            out: bytes = stream.decompress(data, LIMIT)  # type: ignore[attr-defined]
        except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, MemoryError) as error:
            raise UsageError(f"unpack {name}: {error}; it is damaged, copy it again") from None
        if not stream.eof:  # type: ignore[attr-defined]
            why = "it is cut short" if len(out) < LIMIT else f"more than {LIMIT >> 20} MiB"
            raise UsageError(f"unpack {name}: {why}; copy it again")
        return out

    return unpack


def _command_unpack(*command: str) -> Callable[[Image, str], bytes]:
    def unpack(data: Image, name: str) -> bytes:
        tool = command[0]
        if shutil.which(tool) is None:
            raise UsageError(f"unpack {name}: it is packed with {tool}; install {tool}")
        with tempfile.TemporaryFile() as packed:
            packed.write(data)
            packed.seek(0)
            with subprocess.Popen(
                command,
                stdin=packed,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment(),
            ) as process:
                assert process.stdout is not None
                out = process.stdout.read(LIMIT + 1)
                if len(out) > LIMIT:
                    process.kill()
        if process.returncode:
            raise UsageError(f"unpack {name}: {tool} failed; it is damaged, copy it again")
        return out

    return unpack


_UNPACKERS = (
    (b"\x1f\x8b", _stdlib_unpack(lambda: zlib.decompressobj(wbits=31))),
    (b"\xfd7zXZ\0", _stdlib_unpack(lambda: lzma.LZMADecompressor(memlimit=LIMIT))),
    (b"\x5d\0\0", _stdlib_unpack(lambda: lzma.LZMADecompressor(memlimit=LIMIT))),
    (b"BZh", _stdlib_unpack(bz2.BZ2Decompressor)),
    (b"\x28\xb5\x2f\xfd", _command_unpack("zstd", "-dcq")),
    (b"\x02\x21\x4c\x18", _command_unpack("lz4", "-dcq")),
    (b"\x89LZO", _command_unpack("lzop", "-dc")),
)


def unpacker(data: Image) -> Callable[[Image, str], bytes] | None:
    """Return what unpacks `data` (called with it and a name for errors), None if not packed.

    The unpacker raises UsageError.
    """
    return next((unpack for magic, unpack in _UNPACKERS if data[: len(magic)] == magic), None)


class Bounded:
    """A package's files as they come out of dpkg-deb, no more than a kernel's.

    read() raises UsageError beyond that.
    """

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._stream, self._name = stream, name
        self._left = MOST_OF_A_PACKAGE

    def read(self, size: int = _CHUNK) -> bytes:
        """Return the next `size` bytes, fewer at the end."""
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise UsageError(
                f"unpack {self._name}: it holds more than {MOST_OF_A_PACKAGE >> 30} GiB, which no "
                "kernel does; name a kernel's package"
            )
        return data


def deb_files(deb: Path) -> list[str]:
    """Return the command that writes a package's files as a tar archive."""
    # The absolute path cannot be taken for an option.
    return ["dpkg-deb", "--fsys-tarfile", str(deb.absolute())]


def _said(log: IO[bytes]) -> str:
    """Return the first line that a command wrote, without who said it."""
    log.seek(0)
    line = log.readline(500).decode(errors="replace").strip()
    return line.removeprefix("dpkg-deb: error: ").removeprefix("tar: ") or "it failed"


def unpack_deb(deb: Path, into: Path) -> None:
    """Unpack a package's files below `into`, owned by us.  Raises UsageError."""
    command = ["tar", "-x", "--no-same-owner", "--no-same-permissions", "-C", str(into)]
    pipe = subprocess.PIPE
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(deb_files(deb), stdout=pipe, stderr=log, env=environment()) as source,
        subprocess.Popen(command, stdin=pipe, stderr=log, env=environment()) as tar,
    ):
        assert source.stdout
        assert tar.stdin
        stream = Bounded(source.stdout, deb.name)
        try:
            while data := stream.read():
                tar.stdin.write(data)
            tar.stdin.close()
        except BrokenPipeError:  # tar has said why
            source.kill()
            with suppress(BrokenPipeError):
                tar.stdin.close()
        except BaseException:
            source.kill()
            tar.kill()
            raise
        failed = any([source.wait(), tar.wait()])
        if failed:
            raise UsageError(f"unpack {deb.name}: {_said(log)}; is it a whole package?")
