"""From what a user names to what can be booted: an image and its modules."""

from __future__ import annotations

import functools
import hashlib
import io
import mmap
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import NoteSection

from kvmharness import cache, child, inputs
from kvmharness.child import environment
from kvmharness.errors import UsageError
from kvmharness.kernel import build, debian, trees
from kvmharness.kernel.build import AS_USUAL, Progress, Recipe
from kvmharness.kernel.image import boot_version, packed_vmlinux
from kvmharness.kernel.image import read as read_image
from kvmharness.kernel.trees import Source
from kvmharness.kernel.unpacking import unpack_deb

WHAT_TO_NAME = (
    "name a .deb, a vmlinuz, a source or build tree, TREE@REVISION, an unpacked package's folder, "
    "an installed version or a Debian package"
)
MODULES = ("lib/modules", "usr/lib/modules")
BZIMAGE = build.BZIMAGE
# XEN_ELFNOTE_PHYS32_ENTRY (include/xen/interface/elfnote.h): where QEMU may enter a vmlinux.
PVH_NOTE = 18


@dataclass(frozen=True)
class Kernel:
    """A kernel to boot: its image, the folder of its modules (None: none found), its release.

    `named` is what the user called it, `label` a name fit for a file.
    """

    named: str
    label: str
    image: Path
    modules: Path | None
    release: str


def search_path() -> str:
    """Return PATH and where Debian keeps what a user's PATH does not find."""
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def depmod(root: Path, release: str) -> None:
    """Have depmod index lib/modules/RELEASE below `root`.  Raises UsageError."""
    command = ["depmod", "-b", str(root), release]
    try:
        done = child.run(command, env=environment(PATH=search_path()))
    except OSError as error:
        raise UsageError(f"depmod: {error.strerror}; apt-get install kmod") from None
    if done.returncode:
        why = done.stderr.strip().partition("\n")[0]
        raise UsageError(f"depmod {release}: {why}; are these a kernel's modules?")


def unpack(debs: list[Path], into: Path) -> None:
    """Unpack packages into one folder as lib/modules finds them, and index the modules."""
    for deb in debs:
        unpack_deb(deb, into)
    # From 6.19 on Debian's lie under usr/lib.
    if not (into / "lib").exists() and (into / "usr/lib/modules").is_dir():
        (into / "lib").symlink_to("usr/lib")
    for modules in (into / "lib/modules").glob("*/kernel"):
        depmod(into, modules.parent.name)


def _of_deb(named: str, deb: Path) -> Kernel:
    if shutil.which("dpkg-deb") is None:
        raise UsageError(f"kernel {named}: there is no dpkg-deb here; unpack it, name the folder")
    place = cache.folder("debs") / cache.digest(deb)[:16]
    made = cache.made_once(place, lambda into: unpack([deb], into))
    return _of_folder(named, made)


@contextmanager
def _mapped(image: Path) -> Iterator[mmap.mmap]:
    with inputs.open_file(image, inputs.MOST_OF_A_KERNEL) as file:
        if not os.fstat(file.fileno()).st_size:
            raise UsageError(f"kernel {image}: it is empty; {WHAT_TO_NAME}")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


def _release(image: Path) -> str:
    """Return the release of a bzImage or vmlinux.  Raises UsageError if it is neither."""
    with _mapped(image) as data:
        version = boot_version(data, str(image))
    release = version.split(" ")[0] if version is not None else read_image(image).release
    if not release:
        raise UsageError(f"kernel {image}: it does not say its release; {WHAT_TO_NAME}")
    return release


def _make_kernel(named: str, image: Path, modules: Path | None, release: str) -> Kernel:
    return Kernel(named, re.sub(r"[^\w.+-]", "_", release), image, modules, release)


def _of_folder(named: str, folder: Path) -> Kernel:
    """Return the one kernel of an unpacked package."""
    images = [*folder.glob("boot/vmlinuz-*"), *folder.glob("lib/modules/*/vmlinuz")]
    images += [] if (folder / "lib").is_symlink() else folder.glob("usr/lib/modules/*/vmlinuz")
    if len(images) != 1:
        found = "no vmlinuz" if not images else f"{len(images)} kernels"
        raise UsageError(
            f"kernel {named}: {found} in it; {WHAT_TO_NAME}. Debian's packages from 6.19 on are "
            "split: name the linux-image package itself and let kvmharness fetch the rest"
        )
    return _of_image(named, images[0])


def _of_image(named: str, image: Path) -> Kernel:
    """Return the kernel of an image; its modules are looked for beside it, then in the system."""
    release = _release(image)
    roots = [*image.absolute().parents, Path("/")]
    places = [root / where / release for root in roots for where in MODULES]
    modules = next((place for place in places if (place / "kernel").is_dir()), None)
    if modules and not (modules / "modules.dep").is_file():
        # An unpacked package's, which its installation would have indexed.
        modules = _indexed(image, modules, modules / "kernel", release)
    return _make_kernel(named, image, modules, release)


def _indexed(image: Path, lists: Path, modules: Path, release: str) -> Path:
    """Lay out modules as depmod wants them, as links in the cache; return lib/modules/RELEASE.

    `lists` has modules.order and modules.builtin, `modules` the modules below it.
    """

    def link(into: Path) -> None:
        target = into / "lib/modules" / release
        (target / "kernel").mkdir(parents=True)
        for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
            if (lists / name).is_file():
                shutil.copyfile(lists / name, target / name)
        for path in modules.rglob("*.ko*"):
            place = target / "kernel" / path.relative_to(modules)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(path.absolute())
        depmod(into, release)

    # What is built again is another kernel.
    key = hashlib.sha256(f"{cache.digest(image)} {modules.absolute()}".encode()).hexdigest()[:16]
    return cache.made_once(cache.folder("modules") / key, link) / "lib/modules" / release


def _of_tree(named: str, tree: Path) -> Kernel:
    image = tree / BZIMAGE
    if not image.is_file():
        raise UsageError(f"kernel {named}: no {BZIMAGE} in it; run make in it first")
    release = _release(image)
    return _make_kernel(named, image, _indexed(image, tree, tree, release), release)


def is_local(named: str) -> bool:
    """Tell whether a path, a tree's revision or an installed version is called so.

    Not a package, and no mistake.
    """
    trees_ = (named[:at] for at, letter in enumerate(named) if letter == "@")
    found = Path(named or "no name").exists() or any(Path(t or "no name").is_dir() for t in trees_)
    return found or _installed(named) is not None


def _installed(named: str) -> Path | None:
    image = Path("/boot", f"vmlinuz-{named}")
    return image if "/" not in named and image.is_file() else None


def _of_source(source: Source, recipe: Recipe, progress: Progress) -> Kernel:
    """Return the kernel of a source tree: built here, or, where that is wished, there."""
    if source.commit is None and recipe.reuse:
        return _of_tree(source.named, source.folder)
    if source.commit is None and trees.built_inside(source.folder):
        raise UsageError(
            f"kernel {source.named}: it holds a build of its own, beside which none can be made; "
            f"--reuse takes that build, {source.named}@HEAD builds its commit"
        )
    return _of_folder(source.named, build.build(source, recipe, progress))


def _hear_nothing(_: str) -> None:
    pass


def resolve(named: str, recipe: Recipe = AS_USUAL, progress: Progress = _hear_nothing) -> Kernel:
    """Return the kernel that a path, a source, an installed version or a Debian package names.

    A package that is not in the cache is fetched, a source is built by `recipe`; `progress`
    hears how far that is.  Raises UsageError.
    """
    path = Path(named or "no name")
    try:
        source = trees.find(named)
        if source:
            return _of_source(source, recipe, progress)
        if path.is_dir():
            return (
                _of_tree(named, path) if (path / "arch/x86").is_dir() else (_of_folder(named, path))
            )
        if path.is_file():
            return _of_deb(named, path) if path.suffix == ".deb" else _of_image(named, path)
        installed = _installed(named)
        if installed is not None:
            return _of_image(named, installed)
    except OSError as error:
        raise UsageError(f"kernel {named}: {error.strerror}; {WHAT_TO_NAME}") from None
    if "/" in named or not debian.is_kernel_package(named):
        raise UsageError(f"kernel {named}: no such file, version or package; {WHAT_TO_NAME}")
    return _of_folder(named, debian.fetch(named, unpack))


def pvh_entry(vmlinux: ELFFile) -> int | None:
    """Return the physical address at which PVH enters a kernel, None where it cannot."""
    section = vmlinux.get_section_by_name(".notes")
    notes = section.iter_notes() if isinstance(section, NoteSection) else ()
    # A type that pyelftools has no name for stays a number.
    rows: list[tuple[object, object, bytes]] = [
        (note["n_name"], note["n_type"], note["n_descdata"]) for note in notes
    ]
    found = [data for name, kind, data in rows if (name, kind) == ("Xen", PVH_NOTE)]
    return int.from_bytes(found[0], "little") if found else None


@functools.cache
def bootable(kernel: Kernel) -> Path:
    """Return the image to boot: the vmlinux that a bzImage packs, where QEMU can enter it.

    Unpacking on an emulated CPU takes seconds; here it is done once and kept.
    """
    key = cache.digest(kernel.image)[:16]
    name = f"vmlinux-{kernel.release}"
    place = cache.folder("images") / key

    def make(into: Path) -> None:
        with _mapped(kernel.image) as data:
            if boot_version(data, kernel.image.name) is None:
                return
            vmlinux = packed_vmlinux(data, kernel.image.name)
        if pvh_entry(ELFFile(io.BytesIO(vmlinux))) is not None:
            (into / name).write_bytes(vmlinux)

    made = cache.made_once(place, make) / name
    return made if made.is_file() else kernel.image
