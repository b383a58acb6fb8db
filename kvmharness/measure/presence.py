"""Runs that measure on one machine at the same time: they notice each other and keep apart."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from kvmharness import cache

LOCKS = Path("/run/lock")
PREFIX = "run-"
NO_CPU = "none"
# How often and how long to wait for a run that is choosing, which takes milliseconds.
TRIES, PAUSE_S = 50, 0.02


def folder() -> Path:
    """Return where runs of all users leave their marks, else where this user's do."""
    shared = LOCKS / "kvmharness"
    with suppress(OSError):
        shared.mkdir()
        shared.chmod(0o1777)  # whatever the umask
    return shared if os.access(shared, os.W_OK) else cache.folder("runs")


@contextmanager
def _choosing(folder: Path) -> Iterator[None]:
    """Let runs choose one after the other, whoever's they are; the folder itself is the lock.

    A file in it would be somebody's, and none of another user's.  Who holds the lock for long
    is no run of ours: it is not waited for.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for _ in range(TRIES):
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(PAUSE_S)
        yield
    finally:
        os.close(descriptor)


def _is_alive(descriptor: int) -> bool:
    """Tell whether somebody holds the lock of a mark."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


class Presence:
    """This run's mark: a locked file that holds the CPU it measures on.

    Where `cpus` are allowed, the last one that no other run has is chosen, or the last of all;
    without them it is `cpu`.  `cpu` is then the one to use, None for any.
    """

    def __init__(
        self, cpu: int | None, cpus: Iterable[int] = (), marks: Path | None = None
    ) -> None:
        self._folder = marks or folder()
        with _choosing(self._folder):
            taken = self._others()
            free = [one for one in sorted(cpus, reverse=True) if one not in taken]
            self.cpu = free[0] if free else cpu
            self._descriptor, name = tempfile.mkstemp(prefix=PREFIX, dir=self._folder)
            self._mark = Path(name)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            self._mark.chmod(0o644)
            os.write(self._descriptor, str(NO_CPU if self.cpu is None else self.cpu).encode())

    def others(self) -> list[int | None]:
        """Return the CPU of each other run that is under way (None: any)."""
        # A mark that is being made is not locked yet, and would be taken for one left behind.
        with _choosing(self._folder):
            return self._others()

    def _others(self) -> list[int | None]:
        found: list[int | None] = []
        for path in self._folder.glob(f"{PREFIX}*"):
            if path == getattr(self, "_mark", None):
                continue
            with suppress(OSError, ValueError):
                # Anybody may put anything here: a link to elsewhere, a FIFO that nobody writes to.
                descriptor = os.open(
                    path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                )
                try:
                    if _is_alive(descriptor):
                        said = os.read(descriptor, 16).decode()
                        found.append(int(said) if said.isdecimal() else None)
                    else:  # of a run that was killed
                        path.unlink()
                finally:
                    os.close(descriptor)
        return found

    def close(self) -> None:
        """Take the mark away."""
        with suppress(OSError):
            self._mark.unlink()
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
