"""stdin, stdout and stderr as a command line needs them."""

from __future__ import annotations

import errno
import io
import os
import resource
import signal
import sys
from typing import Any, NoReturn

from kvmharness.errors import EXIT_USAGE, StdoutLost, UsageError

STDOUT = 1
# Of address space: a report takes 230 MiB.
LEAST_MEMORY = 384 << 20


_TOO_MANY_FILES = "files: no more may be open at once; raise the limit (ulimit -n 1024)"
_LIMITS = {
    errno.EMFILE: _TOO_MANY_FILES,
    errno.ENFILE: _TOO_MANY_FILES,
    # Of fork and clone: nothing here reads without waiting.
    errno.EAGAIN: "processes: no more may be started; raise the limit (ulimit -u)",
}


class _Stdout(io.FileIO):
    """Says that it was stdout which failed: an OSError that comes from anywhere does not."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise StdoutLost(error.errno or errno.EIO) from None


def bisecting() -> bool:
    """Tell whether git reads our exit code: it would take our own ones for a bad commit."""
    return not {"--bisect", "bisect-step"}.isdisjoint(sys.argv)


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
        write_through=given.write_through,
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


def check_memory() -> None:
    """Raise UsageError where numpy's library would get too little: it hangs then, or ends us."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if resource.RLIM_INFINITY != limit < LEAST_MEMORY:
        raise UsageError(
            f"memory: the limit is {limit >> 20} MiB, {LEAST_MEMORY >> 20} are needed; raise it "
            f"(ulimit -v {LEAST_MEMORY >> 10})"
        )


def _is_for_memory(error: Exception) -> bool:
    """Tell whether it failed for want of memory, which the loader says in words only."""
    if isinstance(error, ImportError):
        return "failed to map segment" in str(error) or "annot allocate memory" in str(error)
    return isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM


def _not_installed(module: str) -> str | None:
    """Say how a module comes here; None for one that must be here whatever was done."""
    if module == "kvmharness.kvm._core":
        return f"set-up: {module} is not built; make bench in the checkout, or pip install it"
    if module.startswith("kvmharness"):
        return None
    return f"set-up: Python's module {module} is not installed; pip install it"


def system_failure(error: Exception) -> str | None:
    """Say in a line what the system refused us, and what to do; None for what looks like a bug."""
    if _is_for_memory(error):
        return "memory: there is no more to be had; free some, or raise the limit (ulimit -v)"
    if isinstance(error, ModuleNotFoundError):
        return _not_installed(error.name or "")
    if not isinstance(error, OSError):
        return None
    if error.errno in _LIMITS:
        return _LIMITS[error.errno]
    where = error.filename or "temporary files"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
        return f"{where}: {error.strerror}; make room, or set TMPDIR to another folder"
    return None if error.filename is None else f"{where}: {error.strerror}; see what is there"
