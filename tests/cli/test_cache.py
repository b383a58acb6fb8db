"""kvmharness cache: what it lists, what it removes, what it leaves alone."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmharness import cache
from kvmharness.lab.workshop import Workshop

Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for place in ("packages/linux-image-6.1", "snapshots/abc", "tests/history"):
        (cache.folder(*place.split("/")) / "file").write_bytes(b"x" * 200_000)
    (cache.folder("packages") / ".linux-image-6.1.lock").touch()
    return cache.folder()


def test_what_is_there_is_listed_with_what_it_is(kvmharness: Call) -> None:
    done = kvmharness("cache", "list")
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines()}
    assert set(rows) == {"packages", "snapshots", "tests", "total"}
    assert rows["packages"][1] == "1"
    assert float(rows["packages"][2]) > 0
    assert "made by experiments or tests" in done.stdout


def test_a_kind_is_removed_and_the_others_are_not(kvmharness: Call, home: Path) -> None:
    done = kvmharness("cache", "clear", "snapshots", "capsules")
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["snapshots", "capsules"]
    assert not (home / "snapshots/abc").exists()
    assert (home / "packages/linux-image-6.1/file").exists()


def test_all_is_removed(kvmharness: Call, home: Path) -> None:
    done = kvmharness("cache", "purge")
    assert done.returncode == 0, done.stderr
    left = [path for path in home.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert left == []


def test_what_is_no_kind_is_a_slip(kvmharness: Call) -> None:
    done = kvmharness("cache", "clear", "../packages")
    assert done.returncode == 2
    assert "unknown; there are: packages, snapshots, tests" in done.stderr


@pytest.mark.parametrize("command", [["clear", "packages"], ["purge"]])
def test_nothing_is_removed_under_a_running_lab(
    kvmharness: Call, home: Path, command: list[str]
) -> None:
    with Workshop():
        done = kvmharness("cache", *command)
    assert done.returncode == 2
    assert "in use by 1 running lab; wait for the end" in done.stderr
    assert (home / "packages/linux-image-6.1/file").exists()
