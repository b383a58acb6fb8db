"""Files that a user names, written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from kvmharness.errors import UsageError


def check_writable(path: Path) -> None:
    """Raise UsageError now rather than after an hour of measuring."""
    if path.is_dir():
        raise UsageError(f"write {path}: it is a folder; name a file")
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise UsageError(f"write {path}: {error.strerror}; name another file") from None
    os.close(descriptor)
    os.unlink(name)


def write_whole(path: Path, data: bytes) -> None:
    """Write the file whole or not at all: a temporary file, fsync, rename."""
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            try:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                os.fchmod(file.fileno(), 0o644)
                os.replace(file.name, path)
            except BaseException:
                with suppress(FileNotFoundError):  # interrupted after the rename
                    os.unlink(file.name)
                raise
    except OSError as error:
        raise UsageError(f"write {path}: {error.strerror}; name another file") from None
