"""From what a user names to a kernel: trees made up here, real ones in test_lab."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from kvmharness import cache
from kvmharness.errors import UsageError
from kvmharness.kernel import modules, resolve
from kvmharness.kernel.modules import load_order

RELEASE = "6.1.0-1-test"
DEP = """\
kernel/virt/lib/irqbypass.ko:
kernel/arch/x86/kvm/kvm.ko: kernel/virt/lib/irqbypass.ko
kernel/drivers/crypto/ccp/ccp.ko:
kernel/arch/x86/kvm/kvm-amd.ko: kernel/drivers/crypto/ccp/ccp.ko kernel/arch/x86/kvm/kvm.ko \
kernel/virt/lib/irqbypass.ko
"""


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def boot_image(path: Path) -> Path:
    """Write a bzImage's header, which is what a release is read off."""
    data = bytearray(0x1000)
    data[0x202:0x206] = b"HdrS"
    struct.pack_into("<H6xH", data, 0x206, 0x20F, 0x400)
    text = f"{RELEASE} (me) #1\0".encode()
    data[0x600 : 0x600 + len(text)] = text
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def installed(root: Path, lib: str = "lib") -> Path:
    folder = root / lib / "modules" / RELEASE
    (folder / "kernel").mkdir(parents=True)
    (folder / "modules.dep").touch()
    return folder


@pytest.mark.parametrize("lib", ["lib", "usr/lib"])
def test_an_unpacked_packages_folder(tmp_path: Path, lib: str) -> None:
    root = tmp_path / "package"
    image = boot_image(root / "boot" / f"vmlinuz-{RELEASE}")
    folder = installed(root, lib)
    found = resolve.resolve(str(root))
    assert (found.image, found.modules, found.release) == (image, folder, RELEASE)
    assert (found.named, found.label) == (str(root), RELEASE)


def test_modules_that_nobody_indexed_are_indexed_in_the_cache(tmp_path: Path) -> None:
    image = boot_image(tmp_path / "x/boot/vmlinuz")
    folder = installed(tmp_path / "x")
    (folder / "modules.dep").unlink()
    (folder / "kernel/kvm.ko").touch()
    found = resolve.resolve(str(image)).modules
    assert found is not None
    assert found != folder
    assert (found / "modules.dep").is_file()
    assert (found / "kernel/kvm.ko").resolve() == folder / "kernel/kvm.ko"
    assert not (folder / "modules.dep").exists()


def test_an_image_finds_its_modules_beside_it(tmp_path: Path) -> None:
    image = boot_image(tmp_path / "x/boot/vmlinuz")
    assert resolve.resolve(str(image)).modules is None
    folder = installed(tmp_path / "x")
    assert resolve.resolve(str(image)).modules == folder


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nothing", "no such file, version or package"),
        ("/nonexistent/vmlinuz", "no such file, version or package"),
        ("linux-image-6.1.0-1-amd64-dbg", "no such file, version or package"),
        ("", "no vmlinuz in it|no such file, version or package|kernels in it"),
    ],
)
def test_what_is_no_kernel_is_one_line(name: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        resolve.resolve(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"#!/bin/sh\n", bytes(4096)])
def test_a_file_that_is_no_kernel(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        resolve.resolve(str(path))
    assert "\n" not in str(caught.value)


def test_two_kernels_in_one_folder(tmp_path: Path) -> None:
    for name in ("one", "two"):
        boot_image(tmp_path / "boot" / f"vmlinuz-{name}")
    with pytest.raises(UsageError, match="2 kernels in it"):
        resolve.resolve(str(tmp_path))


def test_a_tree_that_was_not_built(tmp_path: Path) -> None:
    (tmp_path / "arch/x86").mkdir(parents=True)
    with pytest.raises(UsageError, match="run make in it first"):
        resolve.resolve(str(tmp_path))


def test_a_build_trees_modules_are_linked_not_written_to(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    boot_image(tree / resolve.BZIMAGE)
    module = tree / "arch/x86/kvm/kvm.ko"
    module.parent.mkdir(parents=True)
    module.write_bytes(b"")
    before = sorted(tree.rglob("*"))
    found = resolve.resolve(str(tree))
    assert sorted(tree.rglob("*")) == before
    assert found.modules is not None
    assert (found.modules / "kernel/arch/x86/kvm/kvm.ko").resolve() == module
    assert (found.modules / "modules.dep").is_file()


def test_modules_are_loaded_after_what_they_need() -> None:
    assert [Path(p).stem for p in load_order(DEP, "kvm_amd")] == [
        "irqbypass",
        "kvm",
        "ccp",
        "kvm-amd",
    ]
    assert load_order(DEP, "kvm_intel") == []


def test_an_overlay_without_the_vendors_module(tmp_path: Path) -> None:
    (tmp_path / "kvm.ko").touch()
    kernel = resolve.Kernel("k", "k", tmp_path, None, RELEASE)
    with pytest.raises(UsageError, match=r"no module kvm_amd; name the folder of kvm\.ko and"):
        modules.prepare(kernel, {"kvm": {}, "kvm_amd": {}}, tmp_path)


def test_a_folder_is_made_once_and_whole(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(into: Path) -> None:
        made.append(into)
        (into / "file").touch()
        if len(made) == 1:
            raise KeyboardInterrupt

    place = tmp_path / "thing"
    with pytest.raises(KeyboardInterrupt):
        cache.made_once(place, make)
    assert not place.exists()
    assert not made[0].exists()
    for _ in range(2):
        assert (cache.made_once(place, make) / "file").exists()
    assert len(made) == 2


def test_an_image_is_booted_as_it_is_where_qemu_cannot_enter_it(tmp_path: Path) -> None:
    elf = tmp_path / "vmlinux"
    elf.write_bytes(b"\x7fELF" + bytes(64))
    kernel = resolve.Kernel("k", "k", elf, None, RELEASE)
    assert resolve.bootable(kernel) == elf
