"""Temporary folders for jobs, which the next harness removes if this one is killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

from kvmharness import cache

# Held while a workshop is in use.
ALIVE = ".alive"


class Workshop:
    """Temporary folders for jobs in the cache.

    What a harness that was killed left there is swept up by the next one.
    """

    def __init__(self) -> None:
        home = cache.folder("jobs")
        with ExitStack() as stack:
            with cache.locked(home / ".lock"):
                for left in home.glob("*-*"):
                    _sweep(left)
                self._folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=home))
                stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
                stack.enter_context(cache.locked(self._folder / ALIVE))
            self._stack = stack.pop_all()

    def job(self) -> Path:
        """Return a new folder."""
        return Path(tempfile.mkdtemp(dir=self._folder))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _sweep(folder: Path) -> None:
    """Remove a workshop's folder that nobody holds: its process is gone, whatever its number."""
    with suppress(OSError), (folder / ALIVE).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)


def busy() -> int:
    """Return how many workshops are in use."""
    found = 0
    for alive in cache.folder("jobs").glob(f"*-*/{ALIVE}"):
        try:
            with alive.open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            found += 1
        except OSError:  # it was closed meanwhile
            continue
    return found
