"""The trace's file: what was put in comes out, and anything else is refused in one line."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmharness.analysis import later, tracefile
from kvmharness.analysis.attribution import Attribution
from kvmharness.analysis.tracefile import END, HEADER, Kind, event
from kvmharness.errors import UsageError
from tests.support.made_up_trace import NOP, RET, VMRUN, Made


def made() -> Made:
    m = Made("f", "g")
    back = m.call("f", "g")
    m.run("g", NOP, RET)
    m.switch(0xFFFF888000000A18, 0xFFFF888000001A18)
    m.run("f", VMRUN, offset=back - m.at["f"])
    m.ran(m.block(0x1000, NOP), guest=True)
    return m


def file_of(words: list[int]) -> bytes:
    """Return a file of these events, with one block of one instruction."""
    block = struct.pack("<2Q", 0x1000, 1 << 48 | 1 << 32) + b"\x01\x90" + bytes(6)
    before = struct.pack(f"<{1 + len(words)}Q", HEADER, *words)
    return before + block + struct.pack("<3Q", END, 1 + len(words), 1)


def test_what_was_written_is_read() -> None:
    m = made()
    trace = tracefile.parse(m.file())
    assert trace.blocks == m.blocks
    (sample,) = trace.samples
    assert sample.label == 0
    assert sample.words.tolist() == m.words
    assert sample.later is not None
    assert sample.later.tolist() == m.words


def test_no_sample_is_a_trace_too() -> None:
    empty = struct.pack("<4Q", HEADER, END, 1, 0)
    assert tracefile.parse(empty) == tracefile.Trace({}, [])


BEGIN, END_OF_SAMPLE = event(Kind.BEGIN, 0), event(Kind.END, 0)
SETTLED = event(Kind.SETTLED, 0)


def test_what_ran_later_is_a_samples_where_it_was_waited_for() -> None:
    ran = event(Kind.L1, 0, 1)
    words = [BEGIN, ran, END_OF_SAMPLE, ran, ran, BEGIN, END_OF_SAMPLE, ran, SETTLED]
    first, second = tracefile.parse(file_of(words)).samples
    assert (first.words.tolist(), first.later) == ([ran], None)
    assert second.later is not None
    assert (second.words.tolist(), second.later.tolist()) == ([], [ran])


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([BEGIN], "a sample without begin or end"),
        ([BEGIN, BEGIN, END_OF_SAMPLE, END_OF_SAMPLE], "a sample without begin or end"),
        ([event(Kind.L1, 0, 1), BEGIN, END_OF_SAMPLE], "something ran outside of samples"),
        ([BEGIN, event(Kind.L1, 7, 1), END_OF_SAMPLE], "a block that is not there"),
        ([BEGIN, event(Kind.L1, 0, 2), END_OF_SAMPLE], "or not so long"),
        ([BEGIN, event(9, 0, 1), END_OF_SAMPLE], "no known kind"),
        ([BEGIN, event(Kind.LEAVE, 0), END_OF_SAMPLE], "names none"),
        ([BEGIN, SETTLED, END_OF_SAMPLE], "settled before it ends"),
        ([BEGIN, END_OF_SAMPLE, SETTLED, SETTLED], "or twice"),
        ([BEGIN, END_OF_SAMPLE, SETTLED, event(Kind.L1, 0, 1)], "settled before it ends"),
    ],
)
def test_events_that_make_no_sense_are_refused(words: list[int], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        tracefile.parse(file_of(words))


def test_a_block_may_have_any_number() -> None:
    """The largest one as well: no table goes by it."""
    number = 0xFFFFFFFF
    ran = event(Kind.L1, number, 1)
    data = file_of([BEGIN, ran, END_OF_SAMPLE]).replace(
        struct.pack("<Q", 1 << 48 | 1 << 32), struct.pack("<Q", 1 << 48 | 1 << 32 | number)
    )
    trace = tracefile.parse(data)
    assert list(trace.blocks) == [number]
    assert trace.samples[0].words.tolist() == [ran]


def test_a_file_that_is_none_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    with pytest.raises(UsageError, match="No such file"):
        tracefile.read(path)
    path.write_bytes(made().file()[:-8])
    with pytest.raises(UsageError, match=r"not a trace: no header or no end; trace again"):
        tracefile.read(path)


@given(st.data())
def test_a_damaged_file_is_refused_or_folds(data: st.DataObject) -> None:
    m = made()
    whole = bytearray(m.file())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    for damaged in (bytes(whole), bytes(whole[:cut])):
        try:
            trace = tracefile.parse(damaged)
        except ValueError:
            continue
        attribution = Attribution(trace.blocks, m.symbols)
        for sample in trace.samples:
            attribution.add(sample.words)
        attribution.settle()
        assert sum(node.own for node in attribution.top.walk()) == attribution.total
        windows = [sample.later for sample in trace.samples if sample.later is not None]
        trees = [later.work(trace.blocks, m.symbols, windows) for _ in range(2)]
        assert later.net(*trees) == []


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        tracefile.parse(data)
