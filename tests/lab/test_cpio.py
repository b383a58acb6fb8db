"""The archives that a kernel unpacks: their form, their sameness, and what they can hold."""

from __future__ import annotations

import stat
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from kvmharness.lab import cpio
from kvmharness.lab.cpio import Entry

HEADER = 110


def read(archive: bytes) -> list[Entry]:
    """Read archives, one after the other, as the kernel does: zeros may lie between them."""
    found, at = [], 0
    while at < len(archive):
        if archive[at] == 0:
            at += 4
            continue
        assert archive[at : at + 6] == b"070701", at
        header = archive[at + 6 : at + HEADER].decode()
        fields = [int(header[n : n + 8], 16) for n in range(0, 104, 8)]
        start = at + HEADER
        name = archive[start : start + fields[11] - 1].decode()
        data = -(-(start + fields[11]) // 4) * 4
        at = -(-(data + fields[6]) // 4) * 4
        entry = Entry(name, fields[1], archive[data : data + fields[6]], (fields[9], fields[10]))
        found += [] if name == cpio.TRAILER else [entry]
    return found


def test_what_is_written_is_read_with_every_folder_before_what_lies_in_it(tmp_path: Path) -> None:
    entries = [
        cpio.file("a/b/c", b"12345", executable=True),
        cpio.link("a/link", "b/c"),
        cpio.character_device("dev/console", 5, 1),
    ]
    cpio.write(tmp_path / "x", entries)
    found = read((tmp_path / "x").read_bytes())
    assert [e.path for e in found] == ["a", "a/b", "a/b/c", "a/link", "dev", "dev/console"]
    assert [e for e in found if not stat.S_ISDIR(e.mode)] == entries
    assert found[2].mode == stat.S_IFREG | 0o755


@given(st.dictionaries(st.text("abc", min_size=1, max_size=9), st.binary(max_size=50)))
def test_the_same_files_give_the_same_bytes_in_any_order(files: dict[str, bytes]) -> None:
    entries = [cpio.file(name, data) for name, data in files.items()]
    first, second = (archive_of(order) for order in (entries, entries[::-1]))
    assert first == second
    assert {e.path: e.data for e in read(first)} == files


def archive_of(entries: list[Entry]) -> bytes:
    with tempfile.NamedTemporaryFile() as file:
        cpio.write(Path(file.name), entries)
        return Path(file.name).read_bytes()


def test_archives_follow_each_other(tmp_path: Path) -> None:
    parts = [tmp_path / "1", tmp_path / "2"]
    for number, path in enumerate(parts):
        cpio.write(path, [cpio.file(f"file{number}", b"x" * (number + 1))])
    cpio.concatenate(parts, tmp_path / "both")
    found = read((tmp_path / "both").read_bytes())
    assert [(e.path, e.data) for e in found] == [("file0", b"x"), ("file1", b"xx")]
