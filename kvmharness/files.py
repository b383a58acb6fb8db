"""Files that a user names: written whole or not at all, and nothing there is destroyed."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import re
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from kvmharness.errors import UsageError

# Where stdout and stderr go: what is named again as -o /dev/stdout is not replaced either.
STANDARD = (1, 2)
# Bytes that tell a temporary file beside the target from any other.
RANDOM = 4


class Output:
    """A file that a user named for a result; making one raises UsageError if none can be there.

    A regular file is replaced whole.  What it held before the first write stays beside it, at
    `kept`: FILE~, or the first free one of FILE~2, FILE~3 and so on.  Whatever else takes data
    (a device, a FIFO, where stdout goes) is written to, once.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kept: Path | None = None
        self._written = False
        check_writable(path)

    def save(self, data: bytes) -> None:
        """Write what may still grow; nothing where a later write could not take it back."""
        if not _is_written_into(self.path):
            self.write(data)

    def write(self, data: bytes) -> None:
        """Write the file.  Raises UsageError."""
        kept = _write(self.path, data, keep=not self._written)
        self.kept = self.kept or kept
        self._written = True


def check_writable(path: Path) -> None:
    """Raise UsageError now rather than after an hour of measuring."""
    try:
        if _is_written_into(path):
            _check_access(path)
            return
        target = _target(path)
        descriptor, name = _scratch(target)
        os.unlink(name)
        os.close(descriptor)
    except OSError as error:
        raise _refused(path, error.strerror) from None


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, and keep nothing of what it held.  Raises UsageError."""
    _write(path, data, keep=False)


def _refused(path: Path, why: str | None, next_step: str = "name another file") -> UsageError:
    return UsageError(f"write {path}: {why}; {next_step}")


def _is_written_into(path: Path) -> bool:
    """Tell whether there is something that takes data and must not be replaced.

    Raises UsageError for what takes none, or would be destroyed by it.
    """
    try:
        found = path.stat()
    except FileNotFoundError:  # a link to nothing, too
        return False
    except OSError as error:
        raise _refused(path, error.strerror) from None
    for is_so, what in (
        (stat.S_ISDIR, "folder"),
        (stat.S_ISSOCK, "socket"),
        (stat.S_ISBLK, "block device"),
    ):
        if is_so(found.st_mode):
            raise _refused(path, f"it is a {what}", "name a file")
    return not stat.S_ISREG(found.st_mode) or _standard(found) is not None


def _standard(found: os.stat_result) -> int | None:
    """Return which of our standard streams goes to this file, if any."""
    for descriptor in STANDARD:
        with suppress(OSError):  # it is closed
            if os.path.samestat(os.fstat(descriptor), found):
                return descriptor
    return None


def _target(path: Path) -> Path:
    """Return the file to replace: what a link points to, never the link.  Raises OSError."""
    target = Path(os.path.realpath(path))
    if target.exists():  # a rename would ask for the folder's permission only
        _check_access(target)
    return target


def _check_access(path: Path) -> None:
    if not os.access(path, os.W_OK, effective_ids=True):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _scratch(target: Path) -> tuple[int, str]:
    """Make a new file beside the target, as the umask has it; return descriptor and name.

    It is locked while it is written, and what a process that was killed left there is removed.
    """
    _sweep(target)
    while True:
        name = str(target.with_name(f".{target.name}.{secrets.token_hex(RANDOM)}"))
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # another one sweeps it away just now
            os.close(descriptor)
            continue
        except OSError:  # a file system without locks
            return descriptor, name
        if os.fstat(descriptor).st_nlink:
            return descriptor, name
        os.close(descriptor)


def _sweep(target: Path) -> None:
    """Remove the files that were to take the target's place and that nobody writes any more."""
    left = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{{2 * RANDOM}}}")
    with suppress(OSError):
        names = [name for name in os.listdir(target.parent) if left.fullmatch(name)]
        for path in (target.with_name(name) for name in names):
            if stat.S_ISREG(path.lstat().st_mode):
                _remove_unlocked(path)


def _remove_unlocked(path: Path) -> None:
    with suppress(OSError):
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        finally:
            os.close(descriptor)


def _write(path: Path, data: bytes, *, keep: bool) -> Path | None:
    """Write as the kind of file asks for; return where the old content stays, if anywhere."""
    try:
        if _is_written_into(path):
            _write_into(path, data)
            return None
        return _replace(_target(path), data, keep=keep)
    except OSError as error:
        raise _refused(path, error.strerror) from None


def _write_into(path: Path, data: bytes) -> None:
    standard = _standard(path.stat())
    # Without O_CREAT, which Linux refuses for FIFOs of others in /tmp.
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC) if standard is None else os.dup(standard)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def _replace(target: Path, data: bytes, *, keep: bool) -> Path | None:
    """Put a new file in the target's place: a temporary one, fsync, rename."""
    old = target.stat() if target.exists() else None
    descriptor, name = _scratch(target)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if old is not None:
                _make_like(descriptor, old)
            os.fsync(descriptor)
            # Still open, and so locked: nobody takes it for one that was left.
            kept = _keep(target, data) if keep and old is not None else None
            os.replace(name, target)
    except BaseException:
        with suppress(FileNotFoundError):  # interrupted after the rename
            os.unlink(name)
        raise
    return kept


def _make_like(descriptor: int, old: os.stat_result) -> None:
    """Give a new file the owner and the permissions of the one that it replaces."""
    with suppress(PermissionError):  # only root may give a file away
        os.fchown(descriptor, old.st_uid, old.st_gid)
    os.fchmod(descriptor, old.st_mode & 0o777)


def _keep(target: Path, data: bytes) -> Path | None:
    """Give a file that holds anything else than `data` a second name; return it."""
    held = target.stat().st_size
    if not held or (held == len(data) and target.read_bytes() == data):
        return None
    numbers = itertools.count(2)
    kept = target.with_name(f"{target.name}~")
    while True:
        try:
            os.link(target, kept)
            return kept
        except OSError:
            if not os.path.lexists(kept):  # a file system without hard links
                os.rename(target, kept)
                return kept
        kept = target.with_name(f"{target.name}~{next(numbers)}")
