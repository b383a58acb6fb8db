"""Temporary folders that the next one sweeps up where a process was killed.

A folder is its own lock: whoever holds it is alive, whatever its number.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path


def _lock(path: str | Path) -> int | None:
    """Lock a folder of ours; return its descriptor, None where another one has it, or it is gone.

    Raises BlockingIOError where it is held, another OSError where it is no folder.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _sweep(home: Path, prefix: str) -> None:
    """Remove the folders of this user that nobody holds."""
    for left in home.glob(f"{prefix}*"):
        with suppress(OSError):
            # In a folder for all, what is another user's is none of ours.
            if os.lstat(left).st_uid != os.geteuid():
                continue
            descriptor = _lock(left)
            if descriptor is not None:
                shutil.rmtree(left, ignore_errors=True)
                os.close(descriptor)


class Scratch:
    """A new temporary folder, at `path` until close(); `prefix` says whose folders are swept.

    Raises OSError where there can be none.
    """

    def __init__(self, prefix: str, home: Path | None = None) -> None:
        home = home or Path(tempfile.gettempdir())
        _sweep(home, prefix)
        self._descriptor = None
        while self._descriptor is None:
            self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=home))
            # Somebody else's sweep may come between: then there is another folder.
            with suppress(FileNotFoundError, BlockingIOError):
                self._descriptor = _lock(self.path)

    def close(self) -> None:
        """Remove it; a second call does nothing."""
        if self._descriptor is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._descriptor)
            self._descriptor = None
