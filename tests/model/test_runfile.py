"""The result file: round trip, and hostile input."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvmharness.analysis.summary import summarise
from kvmharness.errors import UsageError
from kvmharness.model import runfile
from tests.support.samples import made_up_run

GOOD = runfile.encode(made_up_run())


def read_error(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        runfile.read(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_round_trip(tmp_path: Path) -> None:
    run = made_up_run()
    summarise(run)
    path = tmp_path / "run.json"
    runfile.write(path, run)
    assert runfile.read(path) == run


def test_documented_keys_are_there() -> None:
    run = made_up_run()
    summarise(run)
    data = json.loads(runfile.encode(run))
    assert data["schema"] == "kvmharness.run/2"
    assert {"started", "tool", "host", "cases"} <= set(data)
    case = data["cases"][1]
    assert {
        "name",
        "mode",
        "op",
        "params",
        "iterations",
        "unit",
        "samples",
        "per_op",
        "tsc",
        "counters",
        "skipped",
    } <= set(case)
    assert {"median", "ci95", "net"} <= set(case["per_op"])
    assert case["per_op"]["net"]["median"] == pytest.approx(999, rel=0.01)
    assert case["tsc"]["median"] == pytest.approx(2 * case["per_op"]["median"])


def test_a_unit_that_is_not_the_clocks_is_refused(tmp_path: Path) -> None:
    run = made_up_run()
    run.cases[1].unit = "insn"
    path = tmp_path / "run.json"
    runfile.write(path, run)
    assert "unit 'insn' by the clock tsc" in read_error(path)


@pytest.mark.parametrize("sample", [-1.0, 1e14, 5e-324])
def test_a_sample_that_nothing_takes_is_refused(tmp_path: Path, sample: float) -> None:
    run = made_up_run()
    run.cases[1].samples[3] = sample
    path = tmp_path / "run.json"
    runfile.write(path, run)
    assert "long64/cr0_wp: a sample is out of range" in read_error(path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    runfile.write(path, made_up_run())
    with pytest.raises(UsageError, match="write "):
        runfile.write(tmp_path / "none" / "run.json", made_up_run())
    assert runfile.read(path) == made_up_run()
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "not JSON or cut short"),
        (GOOD[: len(GOOD) // 2], "not JSON or cut short"),
        (b"[1, 2]", "not a run"),
        (b"{}", "not a run"),
        (b'{"schema": "kvmharness.run/99"}', "schema 'kvmharness.run/99' where"),
        (b"\xff\xfe\x00", "not JSON or cut short"),
        (b'{"schema": ' * 100_000, "not a run"),
        (b'{"x": ' * 100_000, "not JSON or cut short"),
        (GOOD.replace(b'"vms": [', b'"vms": [7,', 1), "30 samples of 31 VMs"),
        (GOOD.replace(b'"paces": [', b'"paces": [0', 1), "a pace is out of range"),
        (GOOD.replace(b'"paces": [', b'"paces": [1e-300', 1), "a pace is out of range"),
        (GOOD.replace(b'"samples": [', b'"samples": [1e308,', 1), "samples of"),
        (GOOD.replace(b"long64/cr0_wp", b"long64/empty"), "a case comes twice"),
        (GOOD.replace(b'"samples": [', b'"samples": ["x",', 1), "not a run"),
    ],
    ids=lambda value: value[:12].decode("ascii", "replace") if isinstance(value, bytes) else "",
)
def test_what_is_no_run_is_one_line(tmp_path: Path, text: bytes, says: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(text)
    assert says in read_error(path)


def test_missing_file_is_one_line(tmp_path: Path) -> None:
    assert "No such file" in read_error(tmp_path / "none.json")
    assert "Is a directory" in read_error(tmp_path)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(at=st.integers(0, len(GOOD) - 1), byte=st.integers(0, 255), cut=st.booleans())
def test_mutated_files_read_or_are_refused(tmp_path: Path, at: int, byte: int, cut: bool) -> None:
    data = GOOD[:at] if cut else GOOD[:at] + bytes([byte]) + GOOD[at + 1 :]
    path = tmp_path / "mutated.json"
    path.write_bytes(data)
    with contextlib.suppress(UsageError):  # anything else fails the test
        runfile.read(path)
