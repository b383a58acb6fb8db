"""Stopped machines in the cache: what is kept, what is refused, what makes room."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvmharness import cache
from kvmharness.lab import snapshot
from kvmharness.lab.snapshot import MEMORY, PAGE, STATE, STEP, Damaged, Piece, Stopped
from tests.support.small_disk import small_disk

SIZE = 16 << 20
NAME = "0123456789abcdef"
# Bytes by where they lie in the memory: the first page, pages that join, the last one.
FILLED = {0: b"first", 3 * PAGE - 2: b"over a border", 5 << 20: b"\xff" * STEP, SIZE - 1: b"!"}
CONSOLE = b"Linux version\n"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache.folder(snapshot.HOME)


@pytest.fixture
def empty() -> Iterator[Callable[[], Stopped]]:
    opened: list[int] = []

    def make() -> Stopped:
        opened.extend((os.memfd_create("memory"), os.memfd_create("state")))
        os.ftruncate(opened[-2], SIZE)
        return Stopped(opened[-2], opened[-1], b"")

    yield make
    for descriptor in opened:
        os.close(descriptor)


@pytest.fixture
def stopped(empty: Callable[[], Stopped]) -> Stopped:
    made = empty()
    for at, data in FILLED.items():
        os.pwrite(made.memory, data, at)
    os.pwrite(made.memory, bytes(STEP), 8 << 20)  # written, and zero
    os.pwrite(made.state, b"devices", 0)
    return Stopped(made.memory, made.state, CONSOLE)


def content(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def test_what_is_kept_comes_back_to_the_byte(
    stopped: Stopped, empty: Callable[[], Stopped]
) -> None:
    snapshot.keep(NAME, stopped)
    found = snapshot.load(NAME, empty())
    assert content(found.memory) == content(stopped.memory)
    assert content(found.state) == b"devices"
    assert found.console == CONSOLE


def test_what_is_zero_takes_no_room(stopped: Stopped, home: Path) -> None:
    snapshot.keep(NAME, stopped)
    pages = 1 + 2 + STEP // PAGE + 1
    assert (home / NAME / MEMORY).stat().st_size == pages * PAGE


def test_there_is_none_that_nobody_kept(empty: Callable[[], Stopped]) -> None:
    with pytest.raises(FileNotFoundError):
        snapshot.load(NAME, empty())


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0")


@pytest.mark.parametrize("harm", [flip, cut, grow, Path.unlink])
@pytest.mark.parametrize("name", ["index.json", "memory", "state", "console.log"])
def test_a_damaged_one_is_never_served(
    stopped: Stopped,
    empty: Callable[[], Stopped],
    home: Path,
    name: str,
    harm: Callable[[Path], None],
) -> None:
    snapshot.keep(NAME, stopped)
    harm(home / NAME / name)
    into = empty()
    with pytest.raises(Damaged):
        snapshot.load(NAME, into)
    assert snapshot.kept() == []
    # A machine is booted in it next, and finds memory as it is when it was switched on.
    assert content(into.memory) == bytes(SIZE)


def test_no_byte_of_an_index_may_change(
    stopped: Stopped, empty: Callable[[], Stopped], home: Path
) -> None:
    snapshot.keep(NAME, stopped)
    whole = (home / NAME / "index.json").read_bytes()
    into = empty()
    for at in range(0, len(whole), 7):
        if at:
            snapshot.keep(NAME, stopped)
        changed = bytearray(whole)
        changed[at] ^= 1
        (home / NAME / "index.json").write_bytes(changed)
        with pytest.raises(Damaged):
            snapshot.load(NAME, into)


def test_a_full_disk_leaves_nothing_behind(
    stopped: Stopped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "small", "64k") as folder:
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
        with pytest.raises(OSError, match="No space left"):
            snapshot.keep(NAME, stopped)
        assert [path.name for path in cache.folder(snapshot.HOME).iterdir()] == [".evict.lock"]


def test_the_least_recently_used_makes_room(
    stopped: Stopped, empty: Callable[[], Stopped], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate("abc"):
        snapshot.keep(name, stopped)
        os.utime(home / name, (number, number))
    snapshot.load("a", empty())
    size = snapshot.kept()[0].size
    # What a new one needs is told by all that was written of its memory.
    needed = os.fstat(stopped.memory).st_blocks * 512 + size - (home / "b" / MEMORY).stat().st_size
    monkeypatch.setattr(snapshot, "LIMIT", 2 * size + needed)
    snapshot.keep("d", stopped)
    assert {one.place.name for one in snapshot.kept()} == {"a", "c", "d"}


KILLED = f"""
import os, signal, sys
from kvmharness.lab import snapshot
memory, state = os.memfd_create("m"), os.memfd_create("s")
os.ftruncate(memory, {SIZE})
os.pwrite(memory, b"x", 0)
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
with snapshot.claimed({NAME!r}):
    snapshot.keep({NAME!r}, snapshot.Stopped(memory, state, b""))
"""


def test_one_whose_maker_was_killed_is_none_and_is_swept_up(
    empty: Callable[[], Stopped], home: Path
) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED], check=False)
    assert done.returncode == -9
    assert [path for path in home.iterdir() if path.is_dir()]
    with pytest.raises(FileNotFoundError):
        snapshot.load(NAME, empty())
    with snapshot.claimed(NAME):  # it may be about to be made
        snapshot.evict(snapshot.LIMIT)
        assert [path for path in home.iterdir() if path.is_dir()]
    snapshot.evict(snapshot.LIMIT)
    assert not [path for path in home.iterdir() if path.is_dir()]


def test_one_that_is_being_made_is_waited_for(home: Path) -> None:
    waiter = f"""
from kvmharness.lab import snapshot
with snapshot.claimed({NAME!r}):
    print((snapshot.cache.folder(snapshot.HOME) / "made").exists())
"""
    with snapshot.claimed(NAME):
        child = subprocess.Popen([sys.executable, "-c", waiter], stdout=subprocess.PIPE, text=True)
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(1.0)
        (home / "made").touch()
    assert child.communicate()[0] == "True\n"


def test_one_that_makes_room_while_it_is_read_is_none(
    stopped: Stopped,
    empty: Callable[[], Stopped],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    snapshot.keep(NAME, stopped)
    fill = snapshot._fill

    def fill_late(memory: int, path: Path, pieces: list[Piece]) -> None:
        fill(memory, path, pieces)
        cache.remove(home / NAME)

    monkeypatch.setattr(snapshot, "_fill", fill_late)
    into = empty()
    with pytest.raises(FileNotFoundError):
        snapshot.load(NAME, into)
    assert content(into.memory) == bytes(SIZE)


def test_devices_that_were_longer_before_are_not_mixed_in(
    stopped: Stopped, empty: Callable[[], Stopped], home: Path
) -> None:
    snapshot.keep(NAME, stopped)
    assert (home / NAME / STATE).read_bytes() == b"devices"
    into = empty()
    found = snapshot.load(NAME, into)
    assert os.fstat(found.state).st_size == len(b"devices")
