"""stdin, stdout and stderr as a command line needs them."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from typing import Any, NoReturn

from kvmharness.errors import EXIT_USAGE, StdoutLost

STDOUT = 1


class _Stdout(io.FileIO):
    """Says that it was stdout which failed: an OSError that comes from anywhere does not."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise StdoutLost(error.errno or errno.EIO) from None


def take_over() -> None:
    """Have stdout fail by StdoutLost, and print what its encoding lacks as escapes.

    A closed stderr swallows what it is given.
    """
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - as long as we live
    given = sys.stdout
    if given is not sys.__stdout__ or not isinstance(given, io.TextIOWrapper):
        return  # a test reads it
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_Stdout(STDOUT, "w", closefd=False)),
        encoding=given.encoding,
        errors="backslashreplace",
        line_buffering=given.line_buffering,
    )


def give_up(lost: StdoutLost) -> NoReturn:
    """End as whoever writes to a stdout that is lost: silently where the reader only left."""
    # What is left in the buffer cannot be written at exit either.
    os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)
    if lost.errno == errno.EPIPE:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGPIPE)
    sys.stderr.write(f"kvmharness: {lost}\n")
    sys.exit(EXIT_USAGE)


def system_failure(error: OSError | MemoryError) -> str | None:
    """Say in a line what the system refused us, and what to do; None for what looks like a bug."""
    if isinstance(error, MemoryError) or error.errno == errno.ENOMEM:
        return "memory: there is no more to be had; free some, or raise the limit (ulimit -v)"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "files: no more may be open at once; raise the limit (ulimit -n 1024)"
    if error.errno == errno.EAGAIN:  # of fork and clone; nothing here reads without waiting
        return "processes: no more may be started; raise the limit (ulimit -u)"
    where = error.filename or "temporary files"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
        return f"{where}: {error.strerror}; make room, or set TMPDIR to another folder"
    if error.filename is not None:
        return f"{where}: {error.strerror}; see what is there"
    return None
