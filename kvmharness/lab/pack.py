"""The measuring path in one file: what runs inside is copied to memory once, then runs there.

A booted kernel reads the host's files through 9p, one round trip a call; to find and read the
200 modules that a run imports would take longer than the run.  So Python packs what it has
loaded itself: whatever is missing is still found through 9p.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import struct
import subprocess
import sys
import sysconfig
import tarfile
from importlib.resources import files
from pathlib import Path

from kvmharness.errors import UsageError
from kvmharness.lab import boot

# Loaded before anything can be packed, or by nobody but the host.
LEFT_OUT = frozenset({"encodings", "_distutils_hack"})
# Python's own shared libraries are mapped, not read, and lie where Python looks anyway.
LIBRARIES = Path(sysconfig.get_path("stdlib"), "lib-dynload")
FILE = "pack.tar"
FOLDER = "/run/kvmharness"


def _loaded() -> dict[str, Path]:
    """Return name to file of every module that is loaded when the inside begins."""
    code = (
        "import kvmharness.lab.inside, sys\n"
        "for name, module in list(sys.modules.items()):\n"
        "    path = getattr(module, '__file__', None)\n"
        "    if path and name != '__main__': print(name, path, sep='\\t')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UsageError(f"lab: Python cannot load what is to run inside: {why}; install it anew")
    rows = (line.split("\t") for line in done.stdout.splitlines())
    return {name: Path(path) for name, path in rows if name.partition(".")[0] not in LEFT_OUT}


def _whole(package: Path) -> list[tuple[Path, str]]:
    """Return file and place of all of a package: half a one would hide the other half."""
    files = [path for kind in ("*.py", "*.so") for path in package.rglob(kind)]
    return [(f, str(f.relative_to(package.parent))) for f in files if "test" not in f.parts]


def _compiled(path: Path) -> Path | None:
    """Return where a source's bytecode lies, None where there is none of this very source.

    Source: PEP 552, bytecode that is validated by its source's time and size.
    """
    compiled = Path(importlib.util.cache_from_source(path))
    try:
        magic, flags, mtime, size = struct.unpack("<4sIII", compiled.read_bytes()[:16])
    except (OSError, struct.error):
        return None
    source = path.stat()
    of_this = (int(source.st_mtime) & 0xFFFFFFFF, source.st_size & 0xFFFFFFFF)
    same = magic == importlib.util.MAGIC_NUMBER and flags == 0 and (mtime, size) == of_this
    return compiled if same else None


def _modules() -> list[tuple[Path, str]]:
    """Return file and place of the packages and modules to pack, compiled where they are."""
    found = []
    for name, path in _loaded().items():
        if path.name == "__init__.py" and "." not in name:
            found += _whole(path.parent)
        elif "." not in name and path.parent != LIBRARIES:
            found.append((path, path.name))
    packed = []
    for path, place in found:
        compiled = _compiled(path) if path.suffix == ".py" else None
        packed.append((compiled, f"{place}c") if compiled else (path, place))
    return packed


def write(path: Path) -> None:
    """Write the pack, a tar file of Python's modules.  Raises UsageError."""
    try:
        _write(path)
    except OSError as error:
        raise UsageError(f"write {path}: {error.strerror}; is there room in the cache?") from None


def _write(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for file, place in _modules():
            tar.add(file, f"lib/{place}")
        for blob in Path(str(files("kvmharness") / "blobs")).iterdir():
            tar.add(blob, f"lib/kvmharness/blobs/{blob.name}")


def start() -> str:
    """Return the shell command that unpacks the job's pack and starts the inside."""
    python = shlex.quote(f"/{boot.HOST}{os.path.realpath(sys.executable)}")
    code = shlex.quote(
        f"import sys; sys.path[:0] = ['{FOLDER}/lib']; from pathlib import Path; "
        f"from kvmharness.lab import inside; inside.main(Path('/{boot.JOB_AT}'))"
    )
    return (
        f"mkdir {FOLDER} && cd {FOLDER} && tar xf /{boot.JOB_AT}/{FILE} && "
        f"export TMPDIR=/run && {python} -I -S -c {code}"
    )
