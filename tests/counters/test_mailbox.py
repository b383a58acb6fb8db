"""Memory between two levels: the guest's side on files, the monitor's on bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvmharness.counters import mailbox
from kvmharness.counters.mailbox import ADDRESS, MOST, SIZE, Mailbox


class Bytes:
    """A guest's memory that refuses what lies outside of it."""

    def __init__(self) -> None:
        self.held = bytearray(ADDRESS + SIZE)

    def read_memory(self, address: int, size: int) -> bytes:
        assert size >= 0
        assert address + size <= len(self.held)
        return bytes(self.held[address : address + size])

    def write_memory(self, address: int, data: bytes) -> None:
        assert address + len(data) <= len(self.held)
        self.held[address : address + len(data)] = data


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    memory, ports = tmp_path / "mem", tmp_path / "port"
    memory.write_bytes(bytes(ADDRESS + SIZE))
    ports.write_bytes(bytes(mailbox.PORT + 1))
    return memory, ports


@pytest.mark.parametrize("data", [b"lines\n", bytes(MOST)])
def test_what_one_side_puts_there_the_other_takes(files: tuple[Path, Path], data: bytes) -> None:
    box = Mailbox(*files)
    box.tell(b"\7", data)
    there = Bytes()
    there.held[:] = files[0].read_bytes()
    assert mailbox.taken(there) == data
    assert files[1].read_bytes()[mailbox.PORT :] == b"\7"
    mailbox.put(there, b"an answer")
    files[0].write_bytes(there.held)
    assert box.answer() == b"an answer"
    box.close()


@pytest.mark.parametrize("length", [MOST + 1, 1 << 31, (1 << 32) - 1])
def test_a_length_that_lies_reads_nothing_beyond(length: int) -> None:
    there = Bytes()
    there.write_memory(ADDRESS, length.to_bytes(4, "little"))
    assert len(mailbox.taken(there)) == MOST


def test_an_answer_that_is_too_long_is_cut() -> None:
    there = Bytes()
    mailbox.put(there, bytes(SIZE * 2))
    assert len(mailbox.taken(there)) == MOST


def test_what_may_not_be_opened_is_named(files: tuple[Path, Path], tmp_path: Path) -> None:
    for wrong in ((tmp_path / "no", files[1]), (files[0], tmp_path / "no")):
        with pytest.raises(FileNotFoundError) as error:
            Mailbox(*wrong)
        assert str(error.value.filename) == str(tmp_path / "no")
