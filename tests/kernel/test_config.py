"""How kernels were configured: where it is found, and what the lab misses."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from kvmharness.kernel import config, resolve
from kvmharness.kernel.resolve import Kernel

ENOUGH = "".join(f"{name}=y\n" for name in config.NEEDED) + "CONFIG_KVM=m\nCONFIG_KVM_AMD=m\n"


def kernel(image: Path, modules: Path | None = None) -> Kernel:
    image.parent.mkdir(parents=True, exist_ok=True)
    image.write_bytes(b"\x7fELF")
    return Kernel("k", "k", image, modules, "6.1")


def test_what_is_not_set_is_left_out() -> None:
    text = '# a comment\nCONFIG_KVM=m\n# CONFIG_TTY is not set\nCONFIG_CMDLINE="a=b"\n'
    assert config.parse(text) == {"CONFIG_KVM": "m", "CONFIG_CMDLINE": '"a=b"'}


@pytest.mark.parametrize("place", ["boot/config-6.1", "lib/modules/6.1/config"])
def test_it_lies_beside_the_image_or_the_modules(place: str, tmp_path: Path) -> None:
    found = kernel(tmp_path / "boot/vmlinuz-6.1", tmp_path / "lib/modules/6.1")
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("CONFIG_KVM=m\n")
    assert config.of(found) == {"CONFIG_KVM": "m"}


def test_a_build_trees_is_its_own(tmp_path: Path) -> None:
    found = kernel(tmp_path / resolve.BZIMAGE)
    (tmp_path / ".config").write_text("CONFIG_KVM=y\n")
    assert config.of(found) == {"CONFIG_KVM": "y"}


def test_a_kernel_may_carry_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "bootable", lambda kernel: kernel.image)
    found = kernel(tmp_path / "vmlinux")
    assert config.of(found) is None
    packed = b"IKCFG_ST" + gzip.compress(b"CONFIG_TTY=y\n") + b"IKCFG_ED"
    found.image.write_bytes(b"code" + packed + b"more code")
    assert config.of(found) == {"CONFIG_TTY": "y"}
    found.image.write_bytes(b"code IKCFG_ST and no more")
    assert config.of(found) is None


@pytest.mark.parametrize("name", [*config.NEEDED, "CONFIG_KVM", "CONFIG_KVM_AMD"])
def test_each_option_that_is_off_is_named(name: str) -> None:
    enough = config.parse(ENOUGH)
    assert config.lacking(enough, "kvm_amd") == []
    assert config.lacking({k: v for k, v in enough.items() if k != name}, "kvm_amd") == [name]


def test_each_vendor_has_its_own_module() -> None:
    assert config.lacking(config.parse(ENOUGH), "kvm_intel") == ["CONFIG_KVM_INTEL"]


def test_the_console_must_be_built_in() -> None:
    found = config.parse(ENOUGH.replace("8250_CONSOLE=y", "8250_CONSOLE=m"))
    assert config.lacking(found, "kvm_amd") == ["CONFIG_SERIAL_8250_CONSOLE"]
