"""history.py: the ends of each series, and the tags of a tree."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kvmharness.errors import UsageError
from kvmharness.kernel import history
from kvmharness.kernel.debian import Offer

OFFERS = [
    Offer("linux-image-6.1.0-56-amd64", "6.1.192-2", "bookworm-security"),
    Offer("linux-image-5.10.0-46-amd64", "5.10.262-1", "bullseye-security"),
    Offer("linux-image-5.10.0-30-amd64", "5.10.218-1", "bullseye"),
    Offer("linux-image-6.1.0-0.deb11.48-amd64", "6.1.172-1~deb11u1", "bullseye-security"),
    Offer("linux-image-6.1.0-47-amd64", "6.1.170-3", "bookworm"),
    Offer("linux-image-7.3.4+deb13-amd64", "7.3.4-1~bpo13+1", "trixie-backports"),
]
TAGS = ["v6.1", "v5.10", "v6.1-rc1", "v6.1.29", "v5.10.7", "next-20240101", "v6.2"]


def test_each_series_gives_its_oldest_and_its_newest() -> None:
    assert [name.removeprefix("linux-image-") for name in history.ends(OFFERS)] == [
        "5.10.0-30-amd64",
        "5.10.0-46-amd64",
        "6.1.0-47-amd64",
        "6.1.0-56-amd64",
        "7.3.4+deb13-amd64",
    ]


def test_older_kernels_are_left_out_where_one_says_since_when() -> None:
    found = history.ends(OFFERS, history.since("6.1.171"))
    assert found[0] == "linux-image-6.1.0-0.deb11.48-amd64"
    assert len(found) == 3


def test_tags_are_in_the_order_of_their_versions() -> None:
    assert history.matching(TAGS, ["v*"]) == [
        *("v5.10", "v5.10.7", "v6.1-rc1", "v6.1", "v6.1.29", "v6.2")
    ]
    assert history.matching(TAGS, ["v5.*", "v6.2"]) == ["v5.10", "v5.10.7", "v6.2"]
    assert history.matching(TAGS, ["v*"], history.since("v6.1")) == [
        *("v6.1-rc1", "v6.1", "v6.1.29", "v6.2")
    ]


@pytest.mark.parametrize("version", ["", "new", "el9"])
def test_since_what_is_no_version_is_refused(version: str) -> None:
    with pytest.raises(UsageError, match="no version"):
        history.since(version)


def test_the_tags_of_a_tree(tmp_path: Path) -> None:
    (tmp_path / "arch/x86").mkdir(parents=True)
    (tmp_path / "Kconfig").touch()
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "one"], check=True)
    for tag in ("v6.2", "v6.1", "other"):
        subprocess.run([*git, "tag", tag], check=True)
    assert history.of_tree(tmp_path, ["*"]) == [f"{tmp_path}@v6.1", f"{tmp_path}@v6.2"]
    with pytest.raises(UsageError, match="no tag of a version is called v7"):
        history.of_tree(tmp_path, ["v7.*"])


def test_what_is_no_tree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no kernel's source"):
        history.of_tree(tmp_path, ["*"])
