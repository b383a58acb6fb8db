"""The blobs as they were built: what lies in their timed loops."""

from __future__ import annotations

import json
import re
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest

from kvmharness.guest import state
from kvmharness.kvm.raw import lib
from kvmharness.model.cases import MODES, OPS, PAGED

BLOBS = Path(str(files("kvmharness"))) / "blobs"
MACHINE = {"real16": "i8086", "long64": "i386:x86-64"}  # else i386
CONTROL_WRITE = re.compile(r"mov\s+%\w+,%cr(\d)")
CONTROL_READ = re.compile(r"mov\s+%cr\d,|smsw|str\b|sldt")

PAIRS = [(g, op.name) for op in OPS for g in op.modes]
# Register written by one op, and how often an iteration; every op stands here.
WRITES: dict[str, list[str]] = {
    "cr0_wp": ["0"],
    "cr0_ts": ["0"],
    "cr4_pge": ["4"],
    "cr4_smep": ["4"],
    "cr4_smap": ["4"],
    "cr4_pke": ["4"],
    "cr3_same": ["3"],
    "cr3_switch": ["3"],
    "cr4_cet": ["4"],
    "wx": ["0", "0"],
    "wx_cet": ["4", "0", "0", "4"],
    "protected_syscall": ["0", "0"],
    "protected_fault": ["0", "0"],
    **{op: [] for op in ("empty", "cr0_read", "efer_nx", "cpuid", "hypercall", "pio")},
    **{op: [] for op in ("syscall", "fault")},
}
# What an op that writes no control register is, an iteration.
INSTRUCTION = {
    "cr0_read": r"mov\s+%cr0,",
    "efer_nx": r"wrmsr",
    "cpuid": r"cpuid",
    "hypercall": r"vmcall",
    "pio": r"out\s+%al,\$0x[0-9a-f]+",
    "syscall": r"(rex.W )?sysretq?",
    "fault": r"invlpg",
}


def timed_loop(name: str, op: str) -> list[str]:
    """Disassemble what lies between loop_OP and end_OP."""
    symbols = subprocess.run(
        ["nm", BLOBS / f"{name}.elf"], capture_output=True, text=True, check=True
    ).stdout
    at = {line.split()[2]: f"0x{line.split()[0]}" for line in symbols.splitlines()}
    listing = subprocess.run(
        [
            "objdump",
            "-d",
            "--no-show-raw-insn",
            "-m",
            MACHINE.get(name, "i386"),
            f"--start-address={at[f'loop_{op}']}",
            f"--stop-address={at[f'end_{op}']}",
            BLOBS / f"{name}.elf",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return re.findall(r"^\s+[0-9a-f]+:\t(.*?)\s*$", listing, re.MULTILINE)


@pytest.mark.parametrize(("name", "op"), PAIRS)
def test_no_control_register_is_read_in_the_loop(name: str, op: str) -> None:
    loop = timed_loop(name, op)
    assert loop, "an empty disassembly proves nothing"
    reads = [line for line in loop if CONTROL_READ.search(line)]
    assert len(reads) == (1 if op == "cr0_read" else 0)


@pytest.mark.parametrize(("name", "op"), PAIRS)
def test_op_writes_its_control_register_and_no_other(name: str, op: str) -> None:
    writes = [CONTROL_WRITE.search(line) for line in timed_loop(name, op)]
    assert [m.group(1) for m in writes if m] == WRITES[op]


@pytest.mark.parametrize(("name", "op"), [p for p in PAIRS if p[1] in INSTRUCTION])
def test_an_op_that_writes_none_is_its_instruction(name: str, op: str) -> None:
    loop = timed_loop(name, op)
    assert sum(bool(re.match(INSTRUCTION[op], line)) for line in loop) == 1


@pytest.mark.parametrize("name", [g for g in MODES if g != "real16"])
def test_touching_loop_holds_the_op_too(name: str) -> None:
    plain, touching = (timed_loop(name, op) for op in ("cr0_wp", "cr0_wp_pages"))
    assert touching[: len(plain) - 2] == plain[:-2]
    assert any(line.startswith("test ") for line in touching)


@pytest.mark.parametrize(("name", "op"), PAIRS)
def test_every_loop_ends_in_the_same_two_instructions(name: str, op: str) -> None:
    dec, jump = timed_loop(name, op)[-2:]
    assert re.match(r"decl?\s+%esi", dec)
    assert jump.startswith("jne")


def test_every_op_says_what_it_is() -> None:
    assert set(WRITES) == {op.name for op in OPS}
    assert set(INSTRUCTION) == {op for op, writes in WRITES.items() if not writes} - {"empty"}


@pytest.mark.parametrize("name", MODES)
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


@pytest.mark.parametrize("name", MODES)
def test_blob_is_what_the_index_says_and_fits(name: str) -> None:
    blob = state.blob(name)
    row = json.loads((BLOBS / "index.json").read_text())[name]
    assert blob.sha256 == row["sha256"]
    ops = {f"op_{op.name}" for op in OPS if name in op.modes}
    assert {s for s in blob.symbols if s.startswith("op_") and not s.endswith("_pages")} == ops
    proofs = {s for s in blob.symbols if s.startswith("prove_") and s != "prove_sets_wp"}
    assert proofs == ({s.replace("op_", "prove_") for s in ops} if name in PAGED else set())
    assert lib.GUEST_CODE + len(blob.code) <= lib.GUEST_SHARED
