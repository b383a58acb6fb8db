"""Thousands of broken inputs: refused in one line, in bounded time, or read."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvmharness.analysis import expectations, tracefile
from kvmharness.errors import LabLost, UsageError
from kvmharness.kernel import image
from kvmharness.kernel.btf import Btf, BtfError
from kvmharness.lab import matrix
from kvmharness.lab.job import JobOutcome
from kvmharness.lab.wire import LONGEST_LINE, MOST_FILES, Receiver
from kvmharness.model import explanation, runfile, suites
from tests.kernel.test_image import make_deb
from tests.lab.test_wire import sent
from tests.support import made_up_explanation
from tests.support.made_up_trace import NOP, RET, Made
from tests.support.samples import made_up_run
from tests.support.soak import SOAK, note, times

pytestmark = pytest.mark.timeout(7200 if SOAK else 120)

EXAMPLES = times(50, 10_000)
# CPU seconds that no input may take.
MOST_S = 5.0
GOOD_RUN = runfile.encode(made_up_run())
GOOD_SUITE = Path(suites.built_in()["scaling"]).read_bytes()
PIECES = [
    b"",
    b"\0",
    b"\xff\xfe",
    b"\n",
    b'"',
    b"{",
    b"[" * 3000,
    b"}" * 10,
    b"1e999",
    b"-0",
    b"9" * 400,
    b"null",
    b"true",
    b"\\ud800",
    b"\x1b[2J",
    b"\xe2\x80\xa8",
]


def mutated(good: bytes) -> st.SearchStrategy[bytes]:
    """Give a good input with some places replaced, cut out or doubled."""

    def change(seed: int) -> bytes:
        chance = random.Random(seed)
        data = good
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(data) + 1)
            to = min(len(data), at + chance.choice([0, 1, 1, 2, 8, 100]))
            piece = chance.choice([*PIECES, data[at:to] * 2, chance.randbytes(2)])
            data = data[:at] + piece + data[to:]
        return data if chance.random() < 0.9 else data[: chance.randrange(len(data) + 1)]

    return st.integers(0, 2**32).map(change)


SLOWEST: dict[str, float] = {}


def refused_or_read(what: str, read: Callable[[], Any], *errors: type[Exception]) -> None:
    """Call it; only errors of these kinds may come, of one line, and soon."""
    begun = time.thread_time()
    said = ""
    try:
        read()
    except errors as error:
        said = str(error)
    assert "\n" not in said
    took = time.thread_time() - begun
    SLOWEST[what] = max(SLOWEST.get(what, 0), took)
    assert took < MOST_S


def fuzz(strategy: st.SearchStrategy[Any], examples: int = EXAMPLES) -> Callable[..., Any]:
    def wrap(test: Callable[..., None]) -> Callable[..., None]:
        health = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
        limited = settings(
            max_examples=examples, deadline=None, suppress_health_check=health, database=None
        )
        return limited(given(data=strategy)(test))

    return wrap


@pytest.fixture(scope="module", autouse=True)
def figures() -> Any:
    yield
    for what, slowest in SLOWEST.items():
        note(f"fuzz: {what}", examples=EXAMPLES, slowest_cpu_s=round(slowest, 2), tracebacks=0)


@fuzz(mutated(GOOD_SUITE))
def test_suites(data: bytes) -> None:
    refused_or_read("suites", lambda: suites.parse("x", "x.toml", data), UsageError)


@fuzz(mutated(GOOD_RUN))
def test_run_files(data: bytes) -> None:
    refused_or_read("run files", lambda: runfile.decode(data, "x.json"), UsageError)


@fuzz(mutated(msgspec.json.encode(made_up_explanation.file())))
def test_explanations(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(data)
    refused_or_read("explanations", lambda: explanation.read(path), UsageError)
    explanation.is_one(path)


def traced() -> bytes:
    """Return a trace of a few blocks."""
    made = Made("f", "g")
    made.call("f", "g")
    made.run("g", NOP, RET)
    return made.file()


def scrambled(seed: int) -> bytes:
    """Return the good trace with some of its words changed, its length as it was."""
    chance = random.Random(seed)
    data = bytearray(GOOD_TRACE)
    for _ in range(chance.randint(1, 3)):
        at = 8 * chance.randrange(len(data) // 8)
        data[at : at + 8] = chance.choice([0, 1, 2**63, 2**64 - 1, at]).to_bytes(8, "little")
    return bytes(data)


GOOD_TRACE = traced()


@fuzz(mutated(GOOD_TRACE) | st.integers(0, 2**32).map(scrambled))
def test_traces(data: bytes) -> None:
    refused_or_read("traces", lambda: tracefile.parse(data), ValueError)


def header(types: bytes, strings: bytes) -> bytes:
    sizes = [24, 0, len(types), len(types), len(strings)]
    return b"\x9f\xeb\x01\x00" + b"".join(n.to_bytes(4, "little") for n in sizes)


@fuzz(st.tuples(st.binary(max_size=600), st.binary(max_size=200)))
def test_btf(data: tuple[bytes, bytes]) -> None:
    types, strings = data[0], b"\0kvm_mmu\0" + data[1] + b"\0"

    def read() -> None:
        found = Btf.parse(header(types, strings) + types + strings)
        found.struct("kvm_mmu")
        found.function("kvm_mmu")
        found.sizes()

    refused_or_read("BTF", read, BtfError)


MAGICS = [b"\x7fELF\x02\x01\x01", b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"BZh9", b"\x5d\0\0", b"MZ"]


@fuzz(st.tuples(st.sampled_from(MAGICS), st.binary(max_size=3000)))
def test_kernel_images(data: tuple[bytes, bytes]) -> None:
    magic, tail = data
    boot = bytearray(magic + tail).ljust(0x300, b"\0")
    if magic == b"MZ":
        boot[0x202:0x208] = b"HdrS\x0f\x02"
    refused_or_read("kernel images", lambda: image.read_image(bytes(boot), "x"), UsageError)


PACKAGES = times(10, 1000)


def test_packages(tmp_path: Path) -> None:
    """A process or two each, so they are fewer."""
    good = make_deb(tmp_path, {"boot/vmlinuz-1": random.Random(1).randbytes(3000)}).read_bytes()
    path = tmp_path / "fuzz.deb"
    chance = random.Random(16)
    for _ in range(PACKAGES):
        data = bytearray(good)
        for _ in range(chance.randint(1, 6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data[: chance.choice([len(data), chance.randrange(len(data))])])
        refused_or_read("packages", lambda: image.read(path), UsageError)


WORDS = ["*", "*/cr0_wp", "class", "net", "total", "<", ">=", "9", "1e308", "-1", "nan", "1,000"]
WORDS += ["ns", "insn", "kvm.exits", "*/kept", "unclear/*", "", "\x1b[m", "\n", "é", "[", "<="]


@fuzz(st.lists(st.sampled_from(WORDS) | st.text(max_size=6), max_size=6).map(" ".join))
def test_expectations(data: str) -> None:
    run = made_up_run()

    def read() -> None:
        expectations.check(expectations.parse(data), run)

    refused_or_read("expectations", read, UsageError)


GOOD_SERIAL = sent(("run.json", GOOD_RUN), ("outcome.json", b'{"state":"done"}'))


@fuzz(mutated(GOOD_SERIAL))
def test_what_a_lost_machine_sends(data: bytes) -> None:
    heard: list[str] = []

    def read() -> None:
        receiver = Receiver(heard.append)
        receiver.feed(data)
        for name, content in receiver.files.items():
            if name == "run.json":
                runfile.decode(content, name)
            else:
                matrix._told(content, JobOutcome)

    refused_or_read("serial output", read, UsageError, LabLost)
    assert all(line.isprintable() and len(line) <= 200 for line in heard)


def test_a_machine_that_went_mad_is_not_kept_for_ever() -> None:
    receiver = Receiver(lambda _: None)
    for number in range(10 * MOST_FILES):
        receiver.feed(b"end %d 1 2\n" % number)
    receiver.feed(b"file x\n" + bytes(LONGEST_LINE * 3))
    assert len(receiver.torn) == MOST_FILES
    assert len(receiver._rest) <= LONGEST_LINE


def test_a_file_that_unpacks_to_more_than_any_trace_is_torn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from kvmharness.lab import wire  # noqa: PLC0415

    data = sent(("zeros", bytes(1 << 20)))
    monkeypatch.setattr(wire, "MOST", 1 << 19)  # the real limit takes seconds to reach
    receiver = Receiver(lambda _: None)
    receiver.feed(data)
    assert receiver.torn == {"zeros"}
