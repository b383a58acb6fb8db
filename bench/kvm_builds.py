"""KVM's modules of Debian's 6.1, built out of its own source, headers and configuration.

One tree is kept in the cache and changed from build to build, so that make compiles what differs
and nothing else: the first build takes a minute of CPU time, another one a few seconds.  It needs
gcc-12, make, and Debian's packages, which are fetched.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from kvmharness import cache
from kvmharness.errors import UsageError
from kvmharness.kernel import debian

RELEASE = "6.1.0-56-amd64"
KERNEL = f"linux-image-{RELEASE}"
SOURCE = "linux-source-6.1"
PACKAGES = [
    SOURCE,
    f"linux-headers-{RELEASE}",
    "linux-headers-6.1.0-56-common",
    "linux-kbuild-6.1",
]
COMPILER = "gcc-12"
MODULES = ("kvm.ko", "kvm-amd.ko", "kvm-intel.ko")
KVM = Path("arch/x86/kvm")
# What a build's name holds of its content.
DIGITS = 12


class Edit(NamedTuple):
    """One change of a file, named from arch/x86/kvm: `old`, which it holds once, becomes `new`."""

    file: str
    old: str
    new: str


def _lay_out(into: Path) -> None:
    """Make a tree to build arch/x86/kvm in: headers, kbuild and KVM's own source together."""
    unpacked = into / "packages"
    unpacked.mkdir()
    for deb in debian.download(PACKAGES, into):
        subprocess.run(["dpkg-deb", "-x", deb, unpacked], check=True)
        deb.unlink()
    sources = unpacked / "usr/src"
    tree = into / "tree"
    headers = sources / f"linux-headers-{RELEASE}"
    shutil.copytree(sources / "linux-headers-6.1.0-56-common", tree, symlinks=True)
    for name in ("scripts", "tools"):
        link = tree / name
        link.unlink() if link.is_symlink() else shutil.rmtree(link)
        shutil.copytree(unpacked / "usr/lib/linux-kbuild-6.1" / name, link, symlinks=True)
    for name in (".config", ".kernelvariables", "Module.symvers"):
        shutil.copy2(headers / name, tree / name)
    for name in ("include", "arch"):
        shutil.copytree(headers / name, tree / name, symlinks=True, dirs_exist_ok=True)
    wanted = [f"{SOURCE}/{KVM}", f"{SOURCE}/virt"]
    archive = sources / f"{SOURCE}.tar.xz"
    command = ["tar", "xf", str(archive), "-C", str(tree), "--strip-components=1", *wanted]
    subprocess.run(command, check=True)
    shutil.copytree(tree / KVM, into / "original")
    shutil.rmtree(unpacked)


def home() -> Path:
    """Return the folder of the tree and its builds, laid out where it is not there yet.

    Raises UsageError where the compiler or a package is missing.
    """
    if shutil.which(COMPILER) is None:
        raise UsageError(
            f"build KVM: no {COMPILER}, which Debian built 6.1 with; apt-get install it"
        )
    return cache.made_once(cache.folder("kvm-builds") / RELEASE, _lay_out)


def changed(original: Path, edits: Sequence[Edit]) -> dict[str, str]:
    """Return the text of each file that the edits change.  Raises UsageError.

    `original` is the folder of arch/x86/kvm as Debian has it.
    """
    texts: dict[str, str] = {}
    for file, old, new in edits:
        text = texts.get(file) or (original / file).read_text()
        if text.count(old) != 1:
            line, times = old.strip().splitlines()[0], text.count(old)
            raise UsageError(
                f"edit {KVM / file}: {line!r} occurs {times} times in {SOURCE}; the edit must name "
                "what is there once"
            )
        texts[file] = text.replace(old, new)
    return texts


def _put(tree: Path, original: Path, texts: Mapping[str, str]) -> None:
    """Give the tree these texts and else the original's, and touch no file that has its own."""
    for source in original.rglob("*.[chS]"):
        name = str(source.relative_to(original))
        wanted = texts[name].encode() if name in texts else source.read_bytes()
        place = tree / KVM / name
        if place.read_bytes() != wanted:
            place.write_bytes(wanted)


def _make(tree: Path, log: Path, into: Path) -> None:
    """Build KVM's modules and keep them in a folder."""
    command = ["make", "-C", str(tree), f"-j{len(os.sched_getaffinity(0))}", f"M={KVM}"]
    with log.open("w") as file:
        done = subprocess.run(
            [*command, f"KERNELRELEASE={RELEASE}", "modules"],
            stdout=file,
            stderr=file,
            env={**os.environ, "LC_ALL": "C"},
            check=False,
        )
    if done.returncode:
        errors = [line for line in log.read_text().splitlines() if "error" in line]
        raise UsageError(f"build KVM: {(errors or ['make failed'])[0]}; see {log}")
    for name in MODULES:
        shutil.copy2(tree / KVM / name, into / name)


def build(name: str, edits: Sequence[Edit] = ()) -> Path:
    """Return the folder of KVM's modules with these edits, built where it is not there yet.

    The folder's name holds `name` and a digest of the edits.  Raises UsageError.
    """
    base = home()
    texts = changed(base / "original", edits)
    digest = hashlib.sha256(repr(sorted(texts.items())).encode()).hexdigest()[:DIGITS]
    built = base / f"{name}-{digest}"

    def make(into: Path) -> None:
        _put(base / "tree", base / "original", texts)
        _make(base / "tree", built.with_suffix(".log"), into)

    if built.is_dir():
        return built
    with cache.locked(base / ".tree.lock"):  # the builds share it
        return cache.made_once(built, make)
