"""What is kept of a kernel's MMU-role code, and when it is found out anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvmharness import cache
from kvmharness.kernel import image, roles
from kvmharness.kernel.resolve import Kernel
from kvmharness.lab import packing
from kvmharness.model.host import Finding, Roles

FOUND = Roles(Finding("split", "btf", ""), Finding("present", "btf", ""))


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was found out by reading a kernel's files."""
    read: list[str] = []

    def found(name: str) -> Roles:
        read.append(name)
        return FOUND

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(image, "read_files", lambda paths, name: name)
    monkeypatch.setattr(roles, "roles_of", found)
    return read


def roles_of(kernel: Kernel) -> Roles:
    """Ask as another process does."""
    packing.roles_of.cache_clear()
    return packing.roles_of(kernel, None)


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    (tmp_path / "vmlinuz").write_bytes(b"a kernel")
    return Kernel("a", "6.1", tmp_path / "vmlinuz", None, "6.1")


def test_what_was_found_once_is_kept(asked: list[str], kernel: Kernel) -> None:
    assert roles_of(kernel) == roles_of(kernel) == FOUND
    assert asked == ["a"]


def test_another_content_is_read_anew(asked: list[str], kernel: Kernel) -> None:
    roles_of(kernel)
    kernel.image.write_bytes(b"a Kernel")
    roles_of(kernel)
    assert asked == ["a", "a"]


def test_other_code_reads_anew(
    asked: list[str], kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roles_of(kernel)
    (tmp_path / "roles.py").write_text("")
    monkeypatch.setattr(roles, "__file__", str(tmp_path / "roles.py"))
    roles_of(kernel)
    assert asked == ["a", "a"]


def test_what_was_cut_short_is_found_out_anew(asked: list[str], kernel: Kernel) -> None:
    roles_of(kernel)
    (kept,) = cache.folder("roles").glob("*.json")
    kept.write_bytes(kept.read_bytes()[:-1])
    assert roles_of(kernel) == FOUND
    assert asked == ["a", "a"]
