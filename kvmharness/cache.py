"""The user's cache folder: kernels unpacked once, and what was made of them."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kvmharness import inputs
from kvmharness.errors import UsageError

# Folder of the cache to what is in it.
KINDS = {
    "apt": "lists of Debian's packages",
    "packages": "Debian's kernels, unpacked",
    "debs": "kernels from .deb files, unpacked",
    "images": "kernel images, uncompressed",
    "modules": "links to the modules of built kernels",
    "roles": "which MMU-role code kernels have",
    "kvm": "KVM's modules, ready to be loaded",
    "trees": "kernel sources and what they are built in",
    "built": "kernels that were built",
    "capsules": "what runs inside a lab",
    "snapshots": "machines that were saved when KVM was loaded",
    "jobs": "folders of labs that run, or were killed",
    "runs": "marks of the runs under way",
}


def folder(*parts: str) -> Path:
    """Return a folder of the cache, made if need be.  Raises UsageError."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The base directory specification has relative paths ignored.
    root = Path(base) if os.path.isabs(base) else Path("~/.cache").expanduser()
    path = root.joinpath("kvmharness", *parts)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cache {path}: {error.strerror}; set XDG_CACHE_HOME to a folder of yours"
        ) from None
    return path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the file `path`, made if need be, against other processes and threads."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def made_once(path: Path, make: Callable[[Path], None]) -> Path:
    """Return the folder `path`, filled by `make` where it is not there yet: whole or not at all."""
    with locked(path.with_name(f".{path.name}.lock")):
        if path.is_dir():
            return path
        for left in path.parent.glob(f".{path.name}.*"):  # of a process that was killed
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            make(scratch)
            scratch.chmod(0o755)
            scratch.rename(path)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
    return path


def remove(place: Path) -> None:
    """Take a folder away at once: half of one would be taken for a whole one."""
    gone = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    try:
        place.rename(gone)
    except FileNotFoundError:  # somebody else did
        pass
    finally:
        shutil.rmtree(gone, ignore_errors=True)


def size(place: Path) -> int:
    """Return the bytes that a file or a folder takes on the disk."""
    total = 0
    for folder, folders, names in os.walk(place):
        for name in [*folders, *names]:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    with suppress(FileNotFoundError):
        total += os.lstat(place).st_blocks * 512
    return total


def digest(path: Path) -> str:
    """Return the sha256 of a file.  Raises UsageError."""
    try:
        with inputs.open_file(path, inputs.MOST_OF_A_KERNEL) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"read {path}: {error.strerror}; name a file that can be read") from None
