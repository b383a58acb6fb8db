"""The capsule: one initramfs that holds all that runs inside a booted kernel.

The base is busybox, the Python that runs here with its libraries, the modules that the inside
loads, compiled, and the guests.  It is made once and kept in the cache for as long as no file that
went in has changed.  A job adds a small archive: KVM's modules and what to do.  The same files give
the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import py_compile
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import kvmharness
from kvmharness import cache, child
from kvmharness.errors import UsageError
from kvmharness.lab import cpio

INSIDE = "kvmharness.lab.inside"
# Imported only when they are used, at the latest by the first program that is started.
LAZY = (
    "base64",
    "encodings.ascii",
    "encodings.latin_1",
    "encodings.utf_8",
    "importlib.readers",
)
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
LIBRARY = f"usr/lib/{PYTHON}"
# -I and -S keep the host's environment and site-packages out of it.
OPTIONS = ("-I", "-S", "-X", "frozen_modules=on")
APPLETS = "cat hostname insmod mount poweroff sh stty true".split()
JOB_AT, START = "job", "start"
KEPT, SPARED_S = 8, 3600.0
# Held while archives are taken away, or one is spared from that.
EVICTING = ".evict.lock"
# What a job does, as a shell command: measure.
MEASURE = f"python3 {' '.join(OPTIONS)} -c 'from {INSIDE} import main; main()'"

# It only mounts what everything expects, then does what the job says.
INIT = f"""#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing
hostname lab
stty -F /dev/ttyS1 raw -echo
[ -c /dev/ttyS1 ] && echo progress starting >/dev/ttyS1
export HOME=/ PATH=/bin:/usr/bin LD_LIBRARY_PATH=/lib TMPDIR=/tmp
. /{JOB_AT}/start
poweroff -f
"""


@dataclass(frozen=True)
class Item:
    """A file of the host's that goes into the capsule, at `place`, copied or made of it."""

    place: str
    source: str
    how: Literal["copy", "strip", "compile"] = "copy"


@dataclass(frozen=True)
class Part:
    """An archive in the cache, and the sha256 of its bytes."""

    path: Path
    sha256: str


def _run(command: Sequence[str], what: str) -> str:
    """Return what a command prints.  Raises UsageError with the last line of its complaint."""
    try:
        done = child.run(command)
    except OSError as error:
        raise UsageError(f"capsule: {command[0]}: {error.strerror}; install it") from None
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UsageError(f"capsule: {what}: {why}; install it anew")
    return done.stdout


def interpreter() -> Path:
    """Return the Python binary itself, whatever venv or link it was started by."""
    return Path(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))


def _how(binary: str) -> Literal["copy", "strip"]:
    """Tell whether a binary is to be stripped: Python's own are, since many builds are not.

    A wheel's libraries were rewritten when it was packed, and strip may break such files.
    """
    own = Path(binary).is_relative_to(sys.base_prefix) and "site-packages" not in binary
    return "strip" if own else "copy"


def modules(names: Sequence[str]) -> list[Item]:
    """Return the files of every module that is loaded once `names` are."""
    search = [str(Path(kvmharness.__file__).parents[1]), *(p for p in sys.path if p)]
    code = (
        f"import sys; sys.path[:0] = {search!r}; from importlib import import_module\n"
        f"for name in {list(names)!r}: import_module(name)\n"
        "for name, module in sorted(sys.modules.items()):\n"
        "    spec = getattr(module, '__spec__', None)\n"
        "    if spec and spec.has_location:\n"
        "        print(name, spec.origin, spec.submodule_search_locations is not None, sep='\\t')\n"
    )
    found = _run([str(interpreter()), *OPTIONS, "-c", code], "Python cannot load the inside")
    items = []
    for name, origin, package in (line.split("\t") for line in found.splitlines()):
        place = f"{LIBRARY}/{name.replace('.', '/')}"
        if not origin.endswith(".py"):
            folder = place.rpartition("/")[0]
            items.append(Item(f"{folder}/{Path(origin).name}", origin, _how(origin)))
        else:
            place += "/__init__" if package == "True" else ""
            items.append(Item(f"{place}.pyc", origin, "compile"))
    # Without it Python takes the library for a stranger's: it is frozen, so nothing loaded it.
    landmark = Item(f"{LIBRARY}/os.pyc", os.__file__, "compile")
    return items if landmark in items else [*items, landmark]


def libraries(binaries: Iterable[str]) -> list[Item]:
    """Return the shared libraries that ELF files need, the loader among them."""
    listed = _run(["ldd", *binaries], "ldd")
    found = {}
    for name, path in re.findall(r"^\t(\S+) => (/.*) \(0x", listed, re.MULTILINE):
        found[f"lib/{name}"] = path
    for path in re.findall(r"^\t(/\S+) \(0x", listed, re.MULTILINE):
        found[path.lstrip("/")] = path
    real = {place: os.path.realpath(source) for place, source in found.items()}
    return [Item(place, source, _how(source)) for place, source in real.items()]


def binaries(items: Iterable[Item]) -> list[str]:
    """Return the sources of the items that are no modules in Python."""
    return [item.source for item in items if item.how != "compile"]


def _tool(*names: str) -> str:
    found = next((path for path in map(shutil.which, names) if path), None)
    if found is None:
        raise UsageError(f"capsule: no {names[-1]}; apt-get install busybox-static")
    return os.path.realpath(found)


def _base(names: Sequence[str]) -> list[Item]:
    """Return what goes into the base for an inside that loads these modules."""
    loaded = modules(names)
    blobs = Path(kvmharness.__file__).parent / "blobs"
    return [
        Item("bin/busybox", _tool("busybox-static", "busybox")),
        Item("usr/bin/python3", str(interpreter()), "strip"),
        *loaded,
        *libraries([str(interpreter()), *binaries(loaded)]),
        *(
            Item(f"{LIBRARY}/kvmharness/blobs/{blob.name}", str(blob))
            for blob in sorted(blobs.iterdir())
        ),
    ]


def _stripped(source: str) -> bytes:
    """Return an ELF file without what nothing needs that runs it.  Raises UsageError."""
    with tempfile.NamedTemporaryFile(prefix="kvmharness-") as out:
        _run(["strip", "--strip-unneeded", "-p", "-o", out.name, source], f"strip {source}")
        return Path(out.name).read_bytes()


def _compiled(item: Item) -> bytes:
    """Return a module's bytecode that names its place inside and is never checked (PEP 552)."""
    with tempfile.NamedTemporaryFile(prefix="kvmharness-") as out:
        py_compile.compile(
            item.source,
            cfile=out.name,
            dfile="/" + item.place.removesuffix("c"),
            doraise=True,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
        return Path(out.name).read_bytes()


def _entry(item: Item) -> cpio.Entry:
    if item.how == "compile":
        return cpio.file(item.place, _compiled(item))
    data = _stripped(item.source) if item.how == "strip" else Path(item.source).read_bytes()
    return cpio.file(item.place, data, executable=os.access(item.source, os.X_OK))


def _fixed() -> list[cpio.Entry]:
    """Return what the base has besides the host's files."""
    return [
        cpio.file("init", INIT.encode(), executable=True),
        # What init speaks on before it has mounted any devices.
        cpio.character_device("dev/console", 5, 1),
        *(cpio.link(f"bin/{applet}", "busybox") for applet in APPLETS),
        *(cpio.folder(name) for name in ("proc", "sys", "tmp", JOB_AT)),
        cpio.folder(f"{LIBRARY}/lib-dynload"),
    ]


def _write(path: Path, items: Sequence[Item], fixed: Sequence[cpio.Entry]) -> None:
    entries = (_entry(item) for item in items)
    cpio.write(path, [*fixed, *entries])
    path.with_name("sha256").write_text(cache.digest(path))


def _key(items: Sequence[Item]) -> str | None:
    """Return what changes when a file that goes in does, None where one is gone."""
    rows: list[object] = []
    for item in (*items, Item("", __file__), Item("", cpio.__file__)):
        try:
            seen = os.stat(item.source)
        except OSError:
            return None
        same = (seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
        rows.append((item.place, item.source, item.how, same))
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


def _use(place: Path) -> bool:
    """Spare an archive from eviction for a while; return False where it is gone already."""
    with cache.locked(place.with_name(EVICTING)):
        try:
            os.utime(place)
        except FileNotFoundError:
            return False
    return True


def _evict(home: Path) -> None:
    """Keep the archives that were used last: one is made anew with every change of a file.

    One that was used a moment ago may be about to be read by another job.
    """
    with cache.locked(home / EVICTING):
        made = [path for path in home.iterdir() if path.is_dir() and path.name[0] != "."]
        used = {path: path.stat().st_mtime for path in made}
        for path in sorted(made, key=lambda path: used[path])[:-KEPT]:
            if time.time() - used[path] > SPARED_S:
                cache.remove(path)


def part(
    name: str, recipe: object, plan: Callable[[], list[Item]], fixed: Sequence[cpio.Entry] = ()
) -> Part:
    """Return the archive of what `plan` lists, made anew where a file of it has changed.

    To make the list takes a second, so it is kept too, under its `recipe`.
    """
    home = cache.folder("capsules")
    number = hashlib.sha256(json.dumps([recipe, fixed], default=repr).encode()).hexdigest()[:16]
    record = home / f"{name}-{number}.json"
    with cache.locked(home / f".{record.name}.lock"):
        items = [Item(*row) for row in json.loads(record.read_text())] if record.is_file() else []
        key = _key(items) if items else None
        if key is None or not (home / key).is_dir():
            items = plan()
            record.write_text(json.dumps([[x.place, x.source, x.how] for x in items]))
            key = _key(items)
            assert key is not None, "a file that was listed a moment ago is gone"
    place = home / key
    used = False
    while not used:  # another process may take it away between the two
        cache.made_once(place, lambda into: _write(into / "part.cpio", items, fixed))
        used = _use(place)
    _evict(home)
    return Part(place / "part.cpio", (place / "sha256").read_text())


def base(names: Sequence[str] = (INSIDE, *LAZY)) -> Part:
    """Return the part that every job needs, for an inside that loads these modules."""
    recipe = [str(interpreter()), sys.path, kvmharness.__file__, list(names)]
    return part("base", recipe, lambda: _base(names), _fixed())


def perf() -> Part | None:
    """Return perf and its libraries, None where this machine has no perf."""
    found = shutil.which("perf")
    if found is None:
        return None
    binary = os.path.realpath(found)
    items = [Item("bin/perf", binary)]
    return part("perf", [binary], lambda: [*items, *libraries([binary])])


def own() -> list[Part]:
    """Return the parts that are made here and that measure."""
    return [base()]


def spare(parts: Sequence[Part]) -> None:
    """Keep parts from being taken away, for an hour from now.  Raises UsageError if one is gone."""
    for part in parts:
        if not _use(part.path.parent):
            raise UsageError("capsule: it was taken out of the cache; start again")


def digest(parts: Sequence[Part]) -> str:
    """Return the sha256 that names what measures: of the parts' own, in their order."""
    return hashlib.sha256("".join(part.sha256 for part in parts).encode()).hexdigest()


def job(path: Path, files: Mapping[str, bytes], command: str = MEASURE) -> None:
    """Write the archive of one job: files for JOB_AT and the shell command to run there.

    Raises OSError.
    """
    all_files = {**files, START: f"{command}\n".encode()}
    cpio.write(path, [cpio.file(f"{JOB_AT}/{name}", data) for name, data in all_files.items()])
