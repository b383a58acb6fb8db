"""The measuring path in one file: what runs inside is copied to memory once, then runs there.

A booted kernel reads the host's files through 9p, one round trip a call; the 200 modules
that a run imports would take longer than the run.  So Python packs what it has loaded itself:
whatever is missing is still found through 9p.
"""

from __future__ import annotations

import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tarfile
from importlib.resources import files
from pathlib import Path

from kvmharness.errors import UsageError

# What a run imports late belongs into the pack as well.
IMPORTS = "kvmharness.lab.inside, kvmharness.counters.profile, platform"
# Loaded before anything can be packed, or by nobody but the host.
LEFT_OUT = frozenset({"encodings", "_distutils_hack"})
FILE = "pack.tar"
FOLDER = "/run/kvmharness"
# Not for Python: perf may be linked with another libpython of the same name.
PERF = f"""#!/bin/sh
LD_LIBRARY_PATH={FOLDER}/perf exec {FOLDER}/perf/perf "$@"
"""


def _loaded() -> dict[str, Path]:
    """Return name to file of every module that is loaded when the inside begins."""
    code = (
        f"import {IMPORTS}, sys\n"
        "for name, module in list(sys.modules.items()):\n"
        "    path = getattr(module, '__file__', None)\n"
        "    if path and name != '__main__': print(name, path, sep='\\t')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rows = (line.split("\t") for line in done.stdout.splitlines())
    return {name: Path(path) for name, path in rows if name.partition(".")[0] not in LEFT_OUT}


def _whole(package: Path) -> list[tuple[Path, str]]:
    """Return file and place of all of a package: half a one would hide the other half."""
    files = (
        path for kind in ("*.py", "*.so") for path in package.rglob(kind) if "test" not in path.parts
    )
    return [(path, str(path.relative_to(package.parent))) for path in files]


def _modules() -> list[tuple[Path, str]]:
    """Return file and place of the packages and modules to pack, compiled where they are."""
    found = []
    for name, path in _loaded().items():
        if path.name == "__init__.py" and "." not in name:
            found += _whole(path.parent)
        elif "." not in name:
            found.append((path, path.name))
    packed = []
    for path, place in found:
        compiled = Path(importlib.util.cache_from_source(path)) if path.suffix == ".py" else path
        is_compiled = compiled.is_file() and path.suffix == ".py"
        packed.append((compiled, f"{place}c") if is_compiled else (path, place))
    return packed


def _perf() -> list[Path]:
    """Return perf's program and libraries: it is started several times a case."""
    program = shutil.which("perf")
    if program is None:
        return []
    linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
    if linked.returncode:  # a script that looks for the perf of the running kernel
        return []
    libraries = [line.split()[2] for line in linked.stdout.splitlines() if "=> /" in line]
    return [Path(program), *map(Path, libraries)]


def _add_script(tar: tarfile.TarFile, name: str, text: str) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(text), 0o755
    tar.addfile(member, io.BytesIO(text.encode()))


def write(path: Path) -> None:
    """Write the pack, a tar file: Python's modules under lib/, perf's program and libraries."""
    with tarfile.open(path, "w") as tar:
        for file, place in _modules():
            tar.add(file, f"lib/{place}")
        for blob in Path(str(files("kvmharness") / "blobs")).iterdir():
            tar.add(blob, f"lib/kvmharness/blobs/{blob.name}")
        perf = _perf()
        for file in perf:
            tar.add(os.path.realpath(file), f"perf/{file.name}")
        if perf:
            _add_script(tar, "bin/perf", PERF)


def start(folder: Path) -> str:
    """Return the shell command that unpacks the pack of `folder` and starts the inside there."""
    python = os.path.realpath(sys.executable)
    if "'" in f"{folder}{python}":
        raise UsageError(f"lab: {folder} or {python} has a quote in its name; use another folder")
    code = (
        f"import sys; sys.path[:0] = [\"{FOLDER}/lib\"]; from pathlib import Path; "
        "from kvmharness.lab import inside; inside.main(Path(sys.argv[1]))"
    )
    return (
        f"mkdir {FOLDER} && tar xf '{folder}/{FILE}' -C {FOLDER} && cd {FOLDER} && "
        f"export TMPDIR=/run PATH={FOLDER}/bin:$PATH && '{python}' -I -S -c '{code}' '{folder}'"
    )
