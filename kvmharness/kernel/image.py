"""Evidence out of a kernel that is not running: module, image, package or directory.

It answers with sections and names only; what they mean is for roles.py to say.
"""

from __future__ import annotations

import io
import mmap
import os
import re
import shutil
import struct
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, NamedTuple, TypeVar, cast

from kvmharness import inputs
from kvmharness.child import environment
from kvmharness.errors import UsageError
from kvmharness.kernel.unpacking import LIMIT, Bounded, Image, deb_files, unpacker

T = TypeVar("T")

_NAME_MAX = 512
_SECTIONS = frozenset({".BTF", ".BTF.base", ".modinfo"})
_MODULE_NAMES = ("kvm.ko", "kvm.ko.xz", "kvm.ko.zst", "kvm.ko.gz")
_MODULE_PLACE = Path("kernel/arch/x86/kvm")
_MODULE_MEMBER = re.compile(
    r"(usr/)?lib/modules/[^/]+/kernel/arch/x86/kvm/kvm\.ko(\.xz|\.zst|\.gz)?$"
)
_IMAGE_MEMBER = re.compile(r"boot/vmlinuz-[^/]+$|(usr/)?lib/modules/[^/]+/vmlinuz$")
_BANNER = re.compile(rb"Linux version (\d+\.\d[^ \n\0]* [^\n\0]{1,500})")
_WHAT_TO_NAME = "name a kvm.ko, vmlinux, vmlinuz, .deb, kernel build tree or modules directory"


class KernelFile(NamedTuple):
    """What a kernel's files hold; None for what they do not.

    `release` is as `uname -r` says it, `build` the banner that tells a distribution's own
    version, `symbols` the functions defined in KVM's object (in all of vmlinux where KVM is
    built in), `module_base_btf` the base that a module built out of tree carries.
    """

    source: str
    release: str | None = None
    build: str | None = None
    vmlinux_btf: bytes | None = None
    module_btf: bytes | None = None
    module_base_btf: bytes | None = None
    symbols: frozenset[str] | None = None


def _functions(symtab: bytes, strings: bytes) -> frozenset[str]:
    """Return the names of the functions that are defined, not only referred to."""
    names = set()
    for name, info, _, section, _, _ in struct.iter_unpack(
        "<IBBHQQ", symtab[: len(symtab) // 24 * 24]
    ):
        # STT_NOTYPE, which assembly leaves, and STT_FUNC.
        if section and info & 0xF in {0, 2}:
            end = strings.find(b"\0", name, name + _NAME_MAX)
            names.add(strings[name:end].decode(errors="backslashreplace") if end > 0 else "")
    return frozenset(names - {""})


def _elf_parts(data: Image) -> tuple[bool, dict[str, bytes], frozenset[str] | None]:
    """Return whether it is relocatable (a module), its sections of use, its functions."""
    from elftools.elf.elffile import ELFFile  # noqa: PLC0415 - a run never needs it

    elf = ELFFile(io.BytesIO(data) if isinstance(data, bytes) else cast(IO[bytes], data))
    if elf.elfclass != 64 or elf["e_machine"] != "EM_X86_64":
        raise ValueError("it is not of x86-64")
    if elf["e_shentsize"] != 64:  # with 0 the headers would have no end
        raise ValueError("its section headers are corrupt")
    found, functions = {}, None

    def content(section: object) -> bytes:
        # The bytes of the file itself: pyelftools would inflate a compressed section.
        start, size = section["sh_offset"], section["sh_size"]  # type: ignore[index]
        return data[start : start + size]

    for section in elf.iter_sections():
        if section.name in found:
            continue
        if section["sh_type"] == "SHT_SYMTAB" and functions is None:
            functions = _functions(content(section), content(elf.get_section(section["sh_link"])))
        # A detached debug file keeps the headers of sections that it lacks (SHT_NOBITS).
        elif section.name in _SECTIONS and section["sh_type"] != "SHT_NOBITS":
            found[section.name] = content(section)
    return elf["e_type"] == "ET_REL", found, functions


def _read_elf(data: Image, name: str) -> KernelFile:
    try:
        module, sections, functions = _elf_parts(data)
    except Exception as error:  # pyelftools lets KeyError, struct.error and more through
        raise UsageError(f"read {name}: no kernel ELF file: {error}; {_WHAT_TO_NAME}") from None
    if not module:
        banner = _BANNER.search(data)
        build = banner[1].decode(errors="replace") if banner else None
        release = build.split(" ")[0] if build else None
        return KernelFile(name, release, build, sections.get(".BTF"), symbols=functions)
    pairs = (row.partition(b"=") for row in sections.get(".modinfo", b"").split(b"\0"))
    info = {key.decode(errors="replace"): value.decode(errors="replace") for key, _, value in pairs}
    if info.get("name", "kvm") != "kvm":
        raise UsageError(f"read {name}: it is module {info['name']}; name kvm.ko")
    if "vermagic" not in info:
        raise UsageError(f"read {name}: an object file but no kernel module; {_WHAT_TO_NAME}")
    return KernelFile(
        name,
        release=info["vermagic"].split(" ")[0] or None,
        module_btf=sections.get(".BTF"),
        module_base_btf=sections.get(".BTF.base"),
        symbols=functions,
    )


def boot_version(data: Image, name: str) -> str | None:
    """Return what a bzImage's header says of its version, None where `data` is no bzImage.

    Raises UsageError.  Source: the kernel's Documentation/arch/x86/boot.rst, kernel_version.
    """
    if len(data) <= 0x260 or data[0x202:0x206] != b"HdrS":
        return None
    protocol, at = struct.unpack_from("<H6xH", data, 0x206)
    if protocol < 0x208:
        raise UsageError(f"read {name}: boot protocol {protocol:#x} is too old; name its kvm.ko")
    return data[0x200 + at : 0x200 + at + 512].split(b"\0")[0].decode(errors="replace")


def packed_vmlinux(data: Image, name: str) -> bytes:
    """Return the vmlinux that a bzImage packs.  Raises UsageError.

    Source: boot.rst as above, setup_sects, payload_offset and payload_length.
    """
    offset, length = struct.unpack_from("<II", data, 0x248)
    start = ((data[0x1F1] or 4) + 1) * 512 + offset
    payload = data[start : start + length]
    unpack = unpacker(payload)
    if len(payload) != length or unpack is None:
        why = "its payload is cut short or packed in a way not known"
        raise UsageError(f"read {name}: {why}; name its vmlinux or kvm.ko")
    # All but gzip's are followed by four bytes, the unpacked size, that are no part of it
    # (scripts/Makefile.lib, size_append).
    gzip = payload[:2] == b"\x1f\x8b"
    return unpack(payload if gzip else payload[:-4], name)


def read_image(data: Image, name: str) -> KernelFile:
    """Read one file's bytes, packed or not: kvm.ko, vmlinux, or bzImage.  Raises UsageError."""
    unpack = unpacker(data)
    if unpack is not None:
        data = unpack(data, name)
    if data[:4] == b"\x7fELF":
        return _read_elf(data, name)
    version = boot_version(data, name)
    if version is not None:
        found = _read_elf(packed_vmlinux(data, name), name)
        release = version.split(" ")[0] or found.release
        return found._replace(release=release, build=version or found.build)
    raise UsageError(f"read {name}: neither an ELF file nor a bzImage; {_WHAT_TO_NAME}")


def _read_file(path: Path) -> KernelFile:
    try:
        with inputs.open_file(path, inputs.MOST_OF_A_KERNEL) as file:
            if not os.fstat(file.fileno()).st_size:  # it cannot be mapped
                raise UsageError(f"read {path}: it is empty; {_WHAT_TO_NAME}")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return read_image(data, path.name)
    except OSError as error:
        raise UsageError(f"read {path}: {error.strerror}; {_WHAT_TO_NAME}") from None


def module_bytes(path: Path) -> bytes:
    """Return a module's file, unpacked where it is packed.  Raises UsageError."""
    try:
        data = inputs.read(path)
    except OSError as error:
        raise UsageError(f"read {path}: {error.strerror}; name a kernel module") from None
    unpack = unpacker(data)
    return unpack(data, path.name) if unpack else data


def _first_known(values: Iterable[T | None]) -> T | None:
    return next((value for value in values if value is not None), None)


def _joined(parts: list[KernelFile], name: str) -> KernelFile:
    """Put a module and its vmlinux together; what the module says of itself comes first."""
    releases = {part.release: part.source for part in parts if part.release}
    if len(releases) > 1:
        found = ", ".join(f"{source} is of {release}" for release, source in releases.items())
        raise UsageError(f"read {name}: {found}; name files of one kernel")
    return KernelFile(
        source=" and ".join(part.source for part in parts),
        release=_first_known(part.release for part in parts),
        build=_first_known(part.build for part in parts),
        vmlinux_btf=_first_known(part.vmlinux_btf for part in parts),
        module_btf=_first_known(part.module_btf for part in parts),
        module_base_btf=_first_known(part.module_base_btf for part in parts),
        symbols=_first_known(part.symbols for part in parts),
    )


def _deb_members(path: Path) -> list[tuple[str, bytes]]:
    """Return name and bytes of kvm.ko and vmlinuz, kvm.ko first, as far as the package has them."""
    if shutil.which("dpkg-deb") is None:
        raise UsageError(f"read {path}: there is no dpkg-deb here; unpack it and name the folder")
    found: dict[str, tuple[str, bytes]] = {}
    with subprocess.Popen(
        deb_files(path), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment()
    ) as process:
        assert process.stdout
        stream = cast(IO[bytes], Bounded(process.stdout, path.name))
        try:
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                for member in tar:
                    name = member.name.removeprefix("./")
                    kind = "a" if _MODULE_MEMBER.match(name) else "b"
                    wanted = kind == "a" or _IMAGE_MEMBER.match(name)
                    content = tar.extractfile(member) if wanted and member.isreg() else None
                    if content is not None and member.size <= LIMIT:
                        found[kind] = Path(name).name, content.read()
                    if len(found) == 2:
                        break
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            raise UsageError(f"read {path}: dpkg-deb: {error}; is it a whole package?") from None
        finally:
            process.kill()
    return [found[kind] for kind in sorted(found)]


def _read_deb(path: Path) -> KernelFile:
    parts = [read_image(data, name) for name, data in _deb_members(path)]
    if not parts:
        raise UsageError(
            f"read {path}: it holds neither kvm.ko nor vmlinuz; from 6.19 on linux-image packages "
            "are empty: name linux-modules-VERSION or linux-binary-VERSION, or unpack both"
        )
    joined = _joined(parts, path.name)
    return joined._replace(source=f"{joined.source} in {path.name}")


def _first(folder: Path, names: tuple[str, ...]) -> list[Path]:
    return [folder / name for name in names if (folder / name).is_file()][:1]


def _version_folders(path: Path) -> list[Path]:
    """Return the modules directories at or below `path`, those that a link names twice once."""
    if (path / "kernel").is_dir() or (path / "vmlinuz").is_file():
        return [path]
    patterns = ("lib/modules/*", "usr/lib/modules/*", "*/kernel")
    found = {hit.parent if hit.name == "kernel" else hit for p in patterns for hit in path.glob(p)}
    return sorted({folder.resolve() for folder in found if folder.is_dir()})


def _tree_files(path: Path) -> list[Path]:
    """Return kvm.ko and vmlinux (or vmlinuz) of a directory, as far as they are there."""
    if (path / "arch/x86").is_dir():  # where the kernel was built
        image = _first(path, ("vmlinux", "arch/x86/boot/bzImage"))
        return _first(path / "arch/x86/kvm", _MODULE_NAMES) + image
    folders = _version_folders(path)
    if len(folders) > 1:
        names = ", ".join(folder.name for folder in folders)
        raise UsageError(f"read {path}: kernels {names}; name the directory of one")
    if not folders:
        images = sorted((path / "boot").glob("vmlinuz-*"))
        return images if len(images) == 1 else []
    folder = folders[0].resolve()
    module = _first(folder / _MODULE_PLACE, _MODULE_NAMES)
    image = _first(folder, ("vmlinux", "vmlinuz"))
    for root in folder.parents[2:4]:  # above lib/modules/VERSION or usr/lib/modules/VERSION
        image = image or _first(root / "boot", (f"vmlinuz-{folder.name}",))
    return module + image


def read_files(paths: list[Path], name: str) -> KernelFile:
    """Read the files of one kernel, `name` in errors, its kvm.ko first.  Raises UsageError."""
    return _joined([_read_file(path) for path in paths], name)


def read(path: Path) -> KernelFile:
    """Read what a kernel's file, package or directory holds for roles.py.

    Raises UsageError, of one line, where it cannot be found, read, unpacked or understood.
    """
    if path.is_dir():
        files = _tree_files(path)
        if not files:
            raise UsageError(f"read {path}: neither kvm.ko nor vmlinux below; {_WHAT_TO_NAME}")
        return read_files(files, str(path))
    if path.suffix == ".deb" and path.is_file():
        return _read_deb(path)
    return _read_file(path)
