"""version.py: what a release and its banner tell, and the order of kernels."""

from __future__ import annotations

import pytest

from kvmharness.model.version import place_of, version_of


@pytest.mark.parametrize(
    ("release", "build", "major", "minor", "patch"),
    [
        ("6.1.0-56-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-16)", 6, 1, 192),
        ("6.1.0-56-amd64", None, 6, 1, None),
        ("5.15.0-91-generic", "#101-Ubuntu Ubuntu 5.15.0-91.101-generic 5.15.131", 5, 15, 131),
        ("6.12.43+deb12-amd64", "Debian 6.12.43-1~bpo12+1", 6, 12, 43),
        ("6.2.16-3-pve", None, 6, 2, 16),
        ("6.4.0-rc1", "", 6, 4, 0),
        ("7.3-rc2", "", 7, 3, 0),
        ("6.8.1", "Debian 6.1.20-1", 6, 8, 1),
    ],
)
def test_version(release: str, build: str | None, major: int, minor: int, patch: int) -> None:
    version = version_of(release, build)
    assert version is not None
    assert version[:3] == (major, minor, patch)


@pytest.mark.parametrize("release", [None, "", "linux", "5.14.0-427.13.1.el9_4.x86_64"])
def test_version_that_says_nothing(release: str | None) -> None:
    assert version_of(release, "Debian 6.1.20-1") is None


def test_kernels_are_in_the_order_in_which_they_were_made() -> None:
    releases = [
        "5.10.0-rc7",
        "5.10.0",
        "5.10.9",
        "5.10.218",
        "6.1.5",
        "6.12.90+deb12-amd64",
        "6.12.90+deb12.1-amd64",
        "6.12.100+deb12-amd64",
        "7.0-rc2",
        "7.0-rc10",
        "7.0",
    ]
    places = [place_of(release) for release in releases]
    assert None not in places
    assert places == sorted(place for place in places if place)


def test_the_banner_tells_the_patch_level_that_a_package_hides() -> None:
    old = place_of("6.1.0-47-amd64", "#1 SMP Debian 6.1.170-3 (2026-05-01)")
    new = place_of("6.1.0-9-amd64", "#1 SMP Debian 6.1.187-1 (2026-09-01)")
    assert old
    assert new
    assert old.series == new.series == (6, 1)
    assert (old.patch, new.patch) == (170, 187)
    assert old < new


def test_a_version_of_a_package_is_one_too() -> None:
    assert place_of("6.12.43-1~bpo12+1") == place_of("6.12.43-1~bpo12+1", None)
    assert place_of("Red Hat") is None
