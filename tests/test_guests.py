"""The blobs as they were built: what lies in their timed loops."""

from __future__ import annotations

import json
import re
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest

from kvmharness import guest
from kvmharness.cases import GUESTS, OPS
from kvmharness.raw import lib

BLOBS = Path(str(files("kvmharness"))) / "blobs"
MACHINE = {"real16": "i8086", "long64": "i386:x86-64"}
CONTROL_WRITE = re.compile(r"mov\s+%\w+,%cr(\d)")
CONTROL_READ = re.compile(r"mov\s+%cr\d,|smsw|str\b|sldt")

PAIRS = [(g, op.name) for op in OPS for g in op.guests]


def timed_loop(name: str, op: str) -> list[str]:
    """Disassemble what lies between loop_OP and end_OP."""
    symbols = subprocess.run(
        ["nm", BLOBS / f"{name}.elf"], capture_output=True, text=True, check=True
    ).stdout
    at = {line.split()[2]: f"0x{line.split()[0]}" for line in symbols.splitlines()}
    listing = subprocess.run(
        [
            "objdump", "-d", "--no-show-raw-insn", "-m", MACHINE[name],
            f"--start-address={at[f'loop_{op}']}", f"--stop-address={at[f'end_{op}']}",
            BLOBS / f"{name}.elf",
        ],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return re.findall(r"^\s+[0-9a-f]+:\t(.*?)\s*$", listing, re.MULTILINE)


@pytest.mark.parametrize(("name", "op"), PAIRS)
def test_no_control_register_is_read_in_the_loop(name: str, op: str) -> None:
    loop = timed_loop(name, op)
    assert loop, "an empty disassembly proves nothing"
    assert not [line for line in loop if CONTROL_READ.search(line)]


@pytest.mark.parametrize("name", GUESTS)
def test_toggle_is_one_write_of_cr0(name: str) -> None:
    writes = [CONTROL_WRITE.search(line) for line in timed_loop(name, "cr0_wp")]
    assert [m.group(1) for m in writes if m] == ["0"]


@pytest.mark.parametrize(("name", "op"), PAIRS)
def test_every_loop_ends_in_the_same_two_instructions(name: str, op: str) -> None:
    dec, jump = timed_loop(name, op)[-2:]
    assert re.match(r"decl?\s+%esi", dec)
    assert jump.startswith("jne")


@pytest.mark.parametrize("name", GUESTS)
def test_empty_is_the_loop_alone(name: str) -> None:
    assert len(timed_loop(name, "empty")) == 2


@pytest.mark.parametrize(("name", "op"), PAIRS)
def test_loops_begin_on_a_cache_line(name: str, op: str) -> None:
    symbols = subprocess.run(
        ["nm", BLOBS / f"{name}.elf"], capture_output=True, text=True, check=True
    ).stdout
    match = re.search(rf"^([0-9a-f]+) . loop_{op}$", symbols, re.MULTILINE)
    assert match
    assert int(match.group(1), 16) % 64 == 0


@pytest.mark.parametrize("name", GUESTS)
def test_blob_is_what_the_index_says_and_fits(name: str) -> None:
    blob = guest.blob(name)
    row = json.loads((BLOBS / "index.json").read_text())[name]
    assert blob.sha256 == row["sha256"]
    assert set(blob.entries) == {op.name for op in OPS if name in op.guests}
    assert lib.GUEST_CODE + len(blob.code) <= lib.GUEST_SHARED
