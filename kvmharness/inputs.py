"""Files that a user names to be read: regular ones of a bounded size, or refused with the reason.

A device has no end, and a FIFO that nobody writes to never gives anything.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path

# More than any run, explanation or list of ours holds; of kernels, images with debug information.
MOST = 256 << 20
MOST_OF_A_KERNEL = 4 << 30
_CHUNK = 1 << 20

_KINDS = (
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def _refuse(path: Path | str, found: os.stat_result, most: int) -> None:
    """Raise OSError, whose strerror says what it is, for what is not to be read."""
    if stat.S_ISDIR(found.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    kind = next((what for is_so, what in _KINDS if is_so(found.st_mode)), None)
    # A shell's <(command) is a pipe too; it has a writer, and no name that leads to it.
    if kind and not (stat.S_ISFIFO(found.st_mode) and not os.path.exists(os.path.realpath(path))):
        raise OSError(errno.EINVAL, f"it is {kind}, no file", str(path))
    if found.st_size > most:
        raise _too_large(path, most)


def _too_large(path: Path | str, most: int) -> OSError:
    return OSError(errno.EFBIG, f"it holds more than {most >> 20} MiB", str(path))


def open_file(path: Path | str, most: int = MOST) -> io.BufferedReader:
    """Open a file of at most `most` bytes for reading.

    Raises OSError, also for what is neither a regular file nor a shell's pipe.
    """
    _refuse(path, os.stat(path), most)  # before opening, which a device may notice
    # What took its place meanwhile must not block either.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _refuse(path, os.fstat(descriptor), most)
        os.set_blocking(descriptor, True)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read(path: Path | str, most: int = MOST) -> bytes:
    """Return what a file holds.  Raises OSError as open_file does."""
    data = bytearray()
    with open_file(path, most) as file:
        while chunk := file.read(_CHUNK):
            data += chunk
            if len(data) > most:
                raise _too_large(path, most)
    return bytes(data)
