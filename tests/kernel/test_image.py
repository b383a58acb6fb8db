"""kernel/image.py on kernels put together here: objects, images, packages, directories."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmharness.errors import UsageError
from kvmharness.kernel import image as kernel_image
from kvmharness.kernel import roles, unpacking
from tests.kernel.test_btf import role_btf

RELEASE = "6.1.0-9-amd64"
BUILD = f"{RELEASE} (x@y) #1 SMP Debian 6.1.30-1 (2023-06-01)"
FUNCTIONS = ("kvm_mmu_load", "kvm_mmu_reset_context")

pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("as", "ld")), reason="binutils are not installed"
)


def assemble(folder: Path, text: str) -> Path:
    obj = folder / "x.o"
    subprocess.run(["as", "--64", "-o", obj, "-"], input=text.encode(), check=True, cwd=folder)
    return obj


def kernel_object(folder: Path, btf: bytes, extra: str) -> Path:
    """Assemble an object with BTF and KVM's functions; one more is only referred to."""
    (folder / "btf").write_bytes(btf)
    text = '.section .BTF,"",@progbits\n.incbin "btf"\n.text\ncall only_referred_to\n'
    for name in FUNCTIONS:
        text += f".globl {name}\n.type {name},@function\n{name}: ret\n"
    return assemble(folder, text + ".data\n.type some_data,@object\nsome_data: .byte 0\n" + extra)


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A kvm.ko."""
    info = f'.section .modinfo,"a"\n.asciz "name=kvm"\n.asciz "vermagic={RELEASE} SMP "\n'
    folder = tmp_path_factory.mktemp("module")
    return kernel_object(folder, role_btf("cpu_role", "root_role"), info).read_bytes()


@pytest.fixture(scope="module")
def vmlinux(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("vmlinux")
    banner = f'.section .rodata\n.ascii "Linux version {BUILD}\\n"\n'
    obj = kernel_object(
        folder,
        role_btf("mmu_role"),
        banner + ".globl only_referred_to\n.set only_referred_to, 0x1000\n",
    )
    subprocess.run(["ld", "-e0", "-o", folder / "vmlinux", obj], check=True)
    return (folder / "vmlinux").read_bytes()


def boot_image(payload: bytes, protocol: int = 0x20F) -> bytes:
    """Return a bzImage: two setup sectors, `payload` 16 bytes into what follows them."""
    image = bytearray(1024 + 512 + 16)
    image[0x1F1] = 2
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x206, protocol)
    struct.pack_into("<H", image, 0x20E, 0x100)
    struct.pack_into("<II", image, 0x248, 16, len(payload))
    text = BUILD.encode() + b"\0"
    image[0x300 : 0x300 + len(text)] = text
    return bytes(image) + payload


def sized(data: bytes) -> bytes:
    return data + b"\x10\0\0\0"


def run_tool(*command: str) -> Callable[[bytes], bytes]:
    def pack(data: bytes) -> bytes:
        if shutil.which(command[0]) is None:
            pytest.skip(f"{command[0]} is not installed")
        run = subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True)
        return run.stdout

    return pack


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "xz": lambda data: lzma.compress(data, check=lzma.CHECK_CRC32),
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
    "bz2": bz2.compress,
    "zst": run_tool("zstd", "-cq"),
    "lz4": run_tool("lz4", "-lcq"),
}


def test_module(module: bytes) -> None:
    found = kernel_image.read_image(module, "kvm.ko")
    assert found.release == RELEASE
    assert found.build is None
    assert found.module_btf == role_btf("cpu_role", "root_role")
    assert found.vmlinux_btf is None
    assert found.symbols == frozenset(FUNCTIONS)


def test_vmlinux(vmlinux: bytes) -> None:
    found = kernel_image.read_image(vmlinux, "vmlinux")
    assert found.release == RELEASE
    assert found.build == BUILD
    assert found.vmlinux_btf == role_btf("mmu_role")
    assert found.module_btf is None
    assert found.symbols is not None
    assert found.symbols >= set(FUNCTIONS)
    assert "some_data" not in found.symbols


@pytest.mark.parametrize("packer", PACKERS)
def test_packed(module: bytes, vmlinux: bytes, packer: str, tmp_path: Path) -> None:
    path = tmp_path / f"kvm.ko.{packer}"
    path.write_bytes(PACKERS[packer](module))
    assert kernel_image.read(path).symbols == frozenset(FUNCTIONS)
    packed = PACKERS[packer](vmlinux)
    image = boot_image(packed if packer == "gz" else sized(packed))
    found = kernel_image.read_image(image, "vmlinuz")
    assert (found.release, found.build) == (RELEASE, BUILD)
    assert found.vmlinux_btf == role_btf("mmu_role")


@pytest.mark.parametrize("packer", ["gz", "xz", "zst"])
def test_packed_and_cut_short(module: bytes, packer: str) -> None:
    with pytest.raises(UsageError, match=r"unpack kvm\.ko"):
        kernel_image.read_image(PACKERS[packer](module)[:-40], "kvm.ko")


def test_more_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "LIMIT", 1 << 20)
    for packer in ("gz", "zst"):
        with pytest.raises(UsageError, match="unpack bomb"):
            kernel_image.read_image(PACKERS[packer](bytes(2 << 20)), "bomb")


def test_missing_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match="packed with zstd; install zstd"):
        kernel_image.read_image(b"\x28\xb5\x2f\xfd rest", "vmlinuz")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "it is empty"),
        (b"plain text", "neither an ELF file nor a bzImage"),
        (b"\x7fELF", "no kernel ELF file"),
        (boot_image(b"payload", protocol=0x207), "too old"),
        (boot_image(b"payload"), "packed in a way not known"),
        (boot_image(gzip.compress(b"x"))[:-5], "cut short"),
        (boot_image(gzip.compress(b"x")), "no kernel ELF file"),
    ],
)
def test_no_kernel(data: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=why) as caught:
        kernel_image.read(path)
    assert "\n" not in str(caught.value)


def test_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        kernel_image.read(tmp_path / "absent.deb")


def test_other_objects(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no kernel module"):
        kernel_image.read(assemble(tmp_path, "nop\n"))
    obj = assemble(tmp_path, '.section .modinfo,"a"\n.asciz "name=kvm_intel"\n')
    with pytest.raises(UsageError, match=r"module kvm_intel; name kvm\.ko"):
        kernel_image.read(obj)


@given(
    changes=st.lists(st.tuples(st.integers(min_value=0), st.integers(0, 255)), max_size=12),
    end=st.just(0) | st.integers(min_value=1),
    image=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_damaged(
    module: bytes, vmlinux: bytes, changes: list[tuple[int, int]], end: int, image: bool
) -> None:
    """Damage to ELF headers, sections or a boot image's header: UsageError or an answer."""
    data = bytearray(boot_image(gzip.compress(vmlinux)) if image else module)
    for at, value in changes:
        data[at % len(data)] = value
    cut = bytes(data[: end % len(data)]) if end else bytes(data)
    with contextlib.suppress(UsageError):
        roles.roles_of(kernel_image.read_image(cut, "kvm.ko"))


@given(at=st.integers(0, 63) | st.integers(min_value=64), word=st.integers(0, 2**32 - 1))
@settings(max_examples=200, deadline=None)
def test_damaged_words(module: bytes, at: int, word: int) -> None:
    """Whole words near the section headers, where sizes and offsets are."""
    (table,) = struct.unpack_from("<Q", module, 0x28)
    data = bytearray(module)
    where = at if at < 64 else table + at % (len(module) - table - 4)
    struct.pack_into("<I", data, min(where, len(data) - 4), word)
    with contextlib.suppress(UsageError):
        kernel_image.read_image(bytes(data), "kvm.ko")


@pytest.mark.timeout(20)
def test_section_headers_without_end(module: bytes) -> None:
    """No size of a header, and the count moved to a word of 64 bits: a loop without end."""
    (table,) = struct.unpack_from("<Q", module, 0x28)
    data = bytearray(module)
    struct.pack_into("<HH", data, 0x3A, 0, 0)
    struct.pack_into("<Q", data, table + 32, 2**60)
    with pytest.raises(UsageError, match="no kernel ELF file"):
        kernel_image.read_image(bytes(data), "kvm.ko")


def installed(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def package_files(module: bytes, vmlinux: bytes, usr: str = "") -> dict[str, bytes]:
    return {
        f"{usr}lib/modules/{RELEASE}/kernel/arch/x86/kvm/kvm.ko.xz": lzma.compress(module),
        f"boot/vmlinuz-{RELEASE}": boot_image(gzip.compress(vmlinux)),
    }


@pytest.mark.parametrize("usr", ["", "usr/"])
def test_directories(module: bytes, vmlinux: bytes, usr: str, tmp_path: Path) -> None:
    root = installed(tmp_path / "root", package_files(module, vmlinux, usr))
    modules = root / f"{usr}lib/modules"
    if usr:
        (root / "lib").symlink_to("usr/lib")
    for path in (root, modules, modules / RELEASE):
        found = kernel_image.read(path)
        assert (found.release, found.build) == (RELEASE, BUILD), path
        assert found.source == f"kvm.ko and vmlinuz-{RELEASE}".replace("kvm.ko", "kvm.ko.xz")
        assert found.module_btf is not None
        assert found.vmlinux_btf is not None
    (modules / "6.2.0/kernel").mkdir(parents=True)
    with pytest.raises(UsageError, match=rf"kernels {RELEASE}, 6\.2\.0; name the directory"):
        kernel_image.read(root)


def test_image_among_the_modules(vmlinux: bytes, tmp_path: Path) -> None:
    image = {f"usr/lib/modules/{RELEASE}/vmlinuz": boot_image(gzip.compress(vmlinux))}
    found = kernel_image.read(installed(tmp_path, image))
    assert found.source == "vmlinuz"


def test_build_tree(module: bytes, vmlinux: bytes, tmp_path: Path) -> None:
    (tmp_path / "arch/x86/kvm").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"neither kvm\.ko nor vmlinux"):
        kernel_image.read(tmp_path)
    tree = installed(tmp_path, {"arch/x86/kvm/kvm.ko": module, "vmlinux": vmlinux})
    found = kernel_image.read(tree)
    assert found.source == "kvm.ko and vmlinux"
    assert found.symbols == frozenset(FUNCTIONS)
    answers = roles.of_path(tree)
    # The module's own struct kvm_mmu comes before vmlinux's.
    assert (answers.role_layout.value, answers.role_layout.evidence) == ("split", "btf")
    other = vmlinux.replace(RELEASE.encode(), b"6.9.0-9-amd64")
    installed(tmp_path, {"vmlinux": other})
    with pytest.raises(UsageError, match=r"kvm\.ko is of 6\.1\S+, vmlinux is of 6\.9\.0-9"):
        kernel_image.read(tree)


def make_deb(folder: Path, files: dict[str, bytes]) -> Path:
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb is not installed")
    control = b"Package: x\nVersion: 1\nArchitecture: amd64\nMaintainer: x\nDescription: x\n"
    root = installed(folder / "deb", {"DEBIAN/control": control, **files})
    package = folder / "x.deb"
    command = ["dpkg-deb", "--root-owner-group", "-Zgzip", "--build", str(root), str(package)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return package


@pytest.mark.parametrize("usr", ["", "usr/"])
def test_package(module: bytes, vmlinux: bytes, usr: str, tmp_path: Path) -> None:
    package = make_deb(tmp_path, package_files(module, vmlinux, usr))
    found = kernel_image.read(package)
    assert found.source == f"kvm.ko.xz and vmlinuz-{RELEASE} in x.deb"
    assert (found.release, found.build) == (RELEASE, BUILD)


def test_empty_and_broken_packages(tmp_path: Path) -> None:
    package = make_deb(tmp_path, {"usr/share/doc/x": b"", "boot/System.map-6.19": b""})
    with pytest.raises(UsageError, match=r"from 6\.19 on .* name linux-modules-VERSION"):
        kernel_image.read(package)
    package.write_bytes(package.read_bytes()[:100])
    with pytest.raises(UsageError, match="dpkg-deb"):
        kernel_image.read(package)
