"""Debian's kernel packages: names, the mirror, what apt prints; real fetches are lab tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvmharness.errors import UsageError
from kvmharness.kernel import debian
from kvmharness.kernel.debian import Offer

TARGETS = (
    "Debian\tmirror://one/debian/\nDebian\tmirror://two/debian/\n"
    "Debian-Security\tmirror://one/security/\nDocker CE\tmirror://elsewhere/\n"
)
MADISON = """\
linux-image-6.1.0-56-amd64 | 6.1.192-2 | mirror://one/security bookworm-security/main amd64 Packages
linux-image-6.1.0-56-amd64 | 6.1.192-2 | mirror://one/debian bookworm/main amd64 Packages
linux-image-5.10.0-30-amd64 | 5.10.218-1 | mirror://one/debian bullseye/main amd64 Packages
     linux | 6.1.192-2 | mirror://one/debian bookworm/main Sources
"""


@pytest.mark.parametrize(
    ("name", "is_kernel"),
    [
        ("linux-image-5.10.0-30-amd64", True),
        ("linux-image-6.12.43+deb12-amd64", True),
        ("linux-image-6.1.0-0.deb11.48-amd64", True),
        ("linux-image-6.1.0-56-cloud-amd64", True),
        ("linux-image-6.1.0-56-rt-amd64", True),
        ("linux-image-6.1.0-56-amd64-dbg", False),
        ("linux-image-6.1.0-56-amd64-unsigned", False),
        ("linux-image-6.1.0-56-arm64", False),
        ("linux-image-amd64", False),
        ("bash", False),
        ("../linux-image-6.1.0-56-amd64", False),
    ],
)
def test_names(name: str, is_kernel: bool) -> None:
    assert debian.is_kernel_package(name) == is_kernel


def test_the_mirror_is_the_first_that_apts_own_sources_name() -> None:
    assert debian.mirrors(TARGETS) == ("mirror://one/debian/", "mirror://one/security/")


def test_a_system_without_debians_archive() -> None:
    with pytest.raises(UsageError, match="no Debian archive among this system's sources; name"):
        debian.mirrors("Ubuntu\tmirror://one/ubuntu/\n")


def test_offers_come_once() -> None:
    assert debian.parse_offers(MADISON) == [
        Offer("linux-image-6.1.0-56-amd64", "6.1.192-2", "bookworm-security"),
        Offer("linux-image-5.10.0-30-amd64", "5.10.218-1", "bullseye"),
    ]


def test_a_split_kernel_without_its_modules_is_not_offered() -> None:
    names = [
        "linux-image-6.1.0-56-amd64",
        *("linux-image-7.0.4+deb13-amd64", "linux-binary-7.0.4+deb13-amd64"),
        *("linux-image-7.3.4+deb13-amd64", "linux-binary-7.3.4+deb13-amd64"),
        "linux-modules-7.3.4+deb13-amd64",
    ]
    assert debian.whole(names) == ["linux-image-6.1.0-56-amd64", "linux-image-7.3.4+deb13-amd64"]


def test_a_split_kernel_without_its_modules_is_not_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(debian, "_updated", lambda: [])
    depends = "  Depends: linux-binary-7.0.4-amd64\n  Depends: <linux-modules-7.0.4-amd64>\n"
    monkeypatch.setattr(debian, "_run", lambda command, what: depends)
    with pytest.raises(UsageError, match=r"its image and no linux-modules-7\.0\.4-amd64; "):
        debian.fetch("linux-image-7.0.4-amd64", lambda debs, into: None)
    assert not debian.place("linux-image-7.0.4-amd64").exists()


def test_a_host_without_apt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match="this system has no apt"):
        debian.offers()
    with pytest.raises(UsageError, match="this system has no apt"):
        debian.fetch("linux-image-6.1.0-56-amd64", lambda debs, into: None)


def test_what_was_fetched_needs_no_apt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    name = "linux-image-6.1.0-56-amd64"
    debian.place(name).mkdir()
    assert debian.fetch(name, lambda debs, into: None) == debian.place(name)
    assert debian.fetched() == [name]
