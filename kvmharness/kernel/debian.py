"""Debian's kernel packages: what apt's mirror offers over the suites, fetched and unpacked once.

The mirror is the one that the system's own apt sources name.  apt verifies what it fetches:
the suites' lists by their signatures, the packages by the lists' checksums.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from kvmharness import cache, child
from kvmharness.errors import UsageError

# Debian's releases from the one with 5.10 on.  Code names, since mirrors serve the aliases
# (oldstable, ...) weeks late.  A suite that a mirror lacks does not hide the others.
SUITES = ("bullseye", "bookworm", "trixie", "forky", "sid")
LISTS_AGE_S = 24 * 3600

KERNEL = re.compile(r"linux-image-\d[\w.+~-]*-amd64")
# No kernels to boot: debug symbols, unsigned twins.
LEAVE_OUT = re.compile(r"-(dbg|unsigned)$")
# Fetched where somebody names one; left out of the list of kernels.
FLAVOUR = re.compile(r"-(cloud|rt)-")
# From 6.19 on linux-image is empty, and these, which it depends on, carry the files.
PART = re.compile(r"linux-(?:binary|modules|base)-\d[\w.+~-]*-amd64")


@dataclass(frozen=True)
class Offer:
    """A kernel package on offer: its name, version, and the first suite that has it."""

    name: str
    version: str
    suite: str


def is_kernel_package(name: str) -> bool:
    """Tell whether `name` is spelled as a kernel package of Debian's."""
    return KERNEL.fullmatch(name) is not None and LEAVE_OUT.search(name) is None


def is_plain(name: str) -> bool:
    """Tell whether a kernel package is none of the flavours (cloud, real-time)."""
    return FLAVOUR.search(name) is None


def _run(command: list[str], what: str) -> str:
    try:
        done = child.run(command)
    except OSError:
        raise UsageError(
            f"{what}: {command[0]} is not here: this system has no apt; name a kernel's file or "
            "folder instead"
        ) from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("E:")]
        why = (lines or done.stderr.splitlines() or ["it failed"])[0].removeprefix("E: ")
        raise UsageError(f"{what}: {why}; see apt's own sources and the network")
    return done.stdout


def mirrors(targets: str) -> tuple[str, str | None]:
    """Return the addresses of Debian's archive and of its security archive (None: not named).

    `targets` has one line per index, `LABEL<tab>URI`, as `apt-get indextargets` prints it.
    """
    lines = [line.partition("\t") for line in reversed(targets.splitlines())]
    found = {label: uri for label, _, uri in lines}
    if "Debian" not in found:
        raise UsageError(
            "apt: no Debian archive among this system's sources; name a kernel's file or folder"
        )
    return found["Debian"], found.get("Debian-Security")


def _sources(archive: str, security: str | None) -> str:
    lines = [f"deb {archive} {suite} main" for suite in SUITES]
    for suite in SUITES[:-1]:
        lines.append(f"deb {archive} {suite}-backports main")
        lines += [f"deb {security} {suite}-security main"] if security else []
    return "\n".join(lines) + "\n"


def _options(home: Path) -> list[str]:
    """Return apt's options that keep it to our own lists, sources and cache."""
    keep = {
        "Dir::Etc::sourcelist": home / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State": home / "state",
        "Dir::State::Lists": home / "lists",
        "Dir::State::status": home / "status",
        "Dir::Cache": home / "cache",
        # The sandbox's user could not write into a home.
        "APT::Sandbox::User": "root",
        "APT::Architecture": "amd64",
        "APT::Architectures": "amd64",
        "Acquire::Languages": "none",
    }
    return [f"-o{key}={value}" for key, value in keep.items()]


def _update(home: Path, options: list[str]) -> None:
    form = ["--format", "$(LABEL)\t$(REPO_URI)", "Created-By: Packages"]
    targets = _run(["apt-get", "indextargets", *form], "apt-get indextargets")
    archive, security = mirrors(targets)
    (home / "sources.list").write_text(_sources(archive, security))
    (home / "status").touch()
    # It fails where a suite is not there, and has brought the others all the same.
    done = child.run(["apt-get", *options, "update", "-q"])
    if not re.search(r"^(Get|Hit):", done.stdout, re.MULTILINE):
        why = (re.findall(r"^[EW]: (.*)", done.stderr, re.MULTILINE) or ["it brought nothing"])[0]
        raise UsageError(f"apt-get update: {why}; see apt's own sources and the network")


def _updated() -> list[str]:
    """Bring the lists of all suites, a day old at most; return apt's options to use them."""
    home = cache.folder("apt")
    for name in ("state", "lists/partial", "cache/archives/partial"):
        cache.folder("apt", name)
    stamp = home / "updated"
    options = _options(home)
    with cache.locked(home / ".lock"):
        if not stamp.is_file() or time.time() - stamp.stat().st_mtime >= LISTS_AGE_S:
            _update(home, options)
            stamp.touch()
    return options


def parse_offers(madison: str) -> list[Offer]:
    """Read `apt-cache madison`: `name | version | URI suite/component arch Packages`."""
    found: dict[tuple[str, str], Offer] = {}
    for line in madison.splitlines():
        fields = [field.strip() for field in line.split("|")]
        if len(fields) == 3 and fields[2].endswith(" Packages"):
            suite = fields[2].split()[1].partition("/")[0]
            offer = Offer(fields[0], fields[1], suite)
            found.setdefault((offer.name, offer.version), offer)
    return list(found.values())


def _by_version(offer: Offer) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", offer.version)[:6]]


def whole(names: Iterable[str]) -> list[str]:
    """Return the kernels of `names` whose files are all among them.

    A mirror may have dropped the modules of an older split one, and kept its image.
    """
    there = set(names)

    def is_whole(name: str) -> bool:
        version = name.removeprefix("linux-image-")
        split = f"linux-binary-{version}" in there
        return not split or f"linux-modules-{version}" in there

    return [name for name in sorted(there) if is_kernel_package(name) and is_whole(name)]


def offers() -> list[Offer]:
    """Return the plain kernels that apt's mirror offers, oldest first.  Raises UsageError."""
    options = _updated()
    names = _run(
        ["apt-cache", *options, "search", "--names-only", "^linux-(image|binary|modules)-[0-9]"],
        "apt-cache search",
    )
    wanted = [
        name for name in whole(line.split(" ")[0] for line in names.splitlines()) if is_plain(name)
    ]
    if not wanted:
        return []
    found = parse_offers(_run(["apt-cache", *options, "madison", *wanted], "apt-cache madison"))
    # A bare version (linux-image-6.1-amd64) is a meta package: it follows, it holds nothing.
    held = [o for o in found if re.match(r"linux-image-\d+\.\d+[.-]\d", o.name)]
    return sorted(held, key=_by_version)


def _parts(options: list[str], name: str) -> list[str]:
    """Return the package and those that carry its files, if it is one of the split ones."""
    shown = _run(
        ["apt-cache", *options, "depends", "--no-recommends", "--no-suggests", name],
        f"kernel {name}",
    )
    depends = re.findall(r"^\s*\|?Depends: (\S+)", shown, re.MULTILINE)
    # In angle brackets apt names what it has not got.
    missing = [part.strip("<>") for part in depends if part.startswith("<linux-modules-")]
    if missing:
        raise UsageError(
            f"kernel {name}: apt's mirror has its image and no {missing[0]}; `kvmharness kernels "
            "list` shows those that are whole"
        )
    found = [name]
    for part in depends:
        if PART.fullmatch(part):
            found += [p for p in _parts(options, part) if p not in found]
    return found


def place(name: str) -> Path:
    """Return where a fetched package lies, or would lie."""
    return cache.folder("packages") / name


def fetched() -> list[str]:
    """Return the names of the packages in the cache."""
    return sorted(p.name for p in cache.folder("packages").iterdir() if p.name[0] != ".")


def download(names: list[str], into: Path) -> list[Path]:
    """Download packages of any kind into a folder; return their files.  Raises UsageError.

    apt verifies them by the checksums of the signed lists.
    """
    try:
        done = child.run(["apt-get", *_updated(), "download", "-qq", *names], cwd=into)
    except OSError as error:
        raise UsageError(f"fetch {names[0]}: apt-get: {error.strerror}") from None
    debs = sorted(into.glob("*.deb"))
    if done.returncode or len(debs) != len(names):
        why = (done.stderr.strip().splitlines() or ["nothing came"])[-1]
        raise UsageError(
            f"fetch {names[0]}: {why.removeprefix('E: ')}; `kvmharness kernels list` shows what "
            "there is"
        )
    return debs


def fetch(name: str, unpack: Callable[[list[Path], Path], None]) -> Path:
    """Return the folder of an unpacked package, fetched where it is not in the cache.

    `unpack` gets the package's files and the folder to fill.  Raises UsageError.
    """

    def make(into: Path) -> None:
        parts = _parts(_updated(), name)
        with tempfile.TemporaryDirectory(dir=into, prefix=".fetch-") as scratch:
            unpack(download(parts, Path(scratch)), into)

    if place(name).is_dir():
        return place(name)
    if shutil.which("apt-get") is None:
        raise UsageError(
            f"kernel {name}: this system has no apt to fetch it; name a kernel's file or folder"
        )
    return cache.made_once(place(name), make)
