"""What leaves a machine by a serial port: whole, or known to be damaged."""

from __future__ import annotations

import io
import random

from hypothesis import given
from hypothesis import strategies as st

from kvmharness.lab.wire import Receiver, Sender


class OneByOne(io.RawIOBase):
    """A port that takes less than it is given, as a terminal may."""

    def __init__(self) -> None:
        self.taken = b""

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.taken += data[:7]
        return len(data[:7])


def sent(*files: tuple[str, bytes]) -> bytes:
    port = OneByOne()
    sender = Sender(port)  # type: ignore[arg-type]
    sender.say("starting")
    for name, data in files:
        sender.send(name, data)
    return port.taken


def received(data: bytes, step: int = 4096) -> tuple[Receiver, list[str]]:
    heard: list[str] = []
    receiver = Receiver(heard.append)
    for at in range(0, len(data), step):
        receiver.feed(data[at : at + step])
    return receiver, heard


@given(st.binary(max_size=5000), st.integers(1, 100))
def test_a_file_arrives_as_it_was_however_it_is_cut(data: bytes, step: int) -> None:
    receiver, heard = received(sent(("run.json", data)), step)
    assert (receiver.files, heard) == ({"run.json": data}, ["starting"])
    assert not receiver.torn


def test_the_last_whole_file_of_a_name_wins() -> None:
    receiver, _ = received(sent(("a", b"1"), ("b", b"2"), ("a", b"3")))
    assert receiver.files == {"a": b"3", "b": b"2"}


def test_a_terminal_may_end_lines_in_its_own_way() -> None:
    receiver, heard = received(sent(("a", b"1" * 3000)).replace(b"\n", b"\r\n"))
    assert (receiver.files, heard) == ({"a": b"1" * 3000}, ["starting"])


@given(st.data())
def test_a_byte_that_changed_is_never_taken_for_a_file(data: st.DataObject) -> None:
    content = bytes(range(256)) * 4
    stream = bytearray(sent(("a", content)))
    at = data.draw(st.integers(0, len(stream) - 1))
    stream[at] ^= data.draw(st.integers(1, 255))
    receiver, _ = received(bytes(stream))
    assert receiver.files.get("a", content) == content


def test_a_file_that_was_cut_short_is_none_and_the_one_before_stays() -> None:
    whole = sent(("a", b"1" * 3000))
    receiver, _ = received(whole + whole[: len(whole) // 2])
    assert receiver.files == {"a": b"1" * 3000}


def test_a_damaged_file_is_named() -> None:
    lines = sent(("a", random.Random(1).randbytes(9000))).splitlines(keepends=True)
    receiver, _ = received(b"".join(lines[:3] + lines[4:]))
    assert receiver.files == {}
    assert receiver.torn == {"a"}
