"""Files of older schemas, written by the kvmharness of their time, read as before."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmharness.model import runfile
from kvmharness.model.run import SCHEMA
from kvmharness.model.upgrade import upgrade

# run/1: files of 5.10 and 6.1 in a lab and of a host, and what the tool said of them then.
RUN1 = Path(__file__).parents[1] / "recordings" / "run1"
FILES = sorted(RUN1.glob("*.json"))
Call = Callable[..., "subprocess.CompletedProcess[str]"]
# What run/2 calls otherwise.
RENAMED = (
    ("function.", "probe:"),
    ("(7.2.22 (Debian", "(QEMU 7.2.22 (Debian"),
    (", -cpu ", ", CPU "),
)


def as_now(text: str) -> str:
    for old, new in RENAMED:
        text = text.replace(old, new)
    return text


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_run_1_file_round_trips_as_run_2(path: Path, tmp_path: Path) -> None:
    run = runfile.read(path)
    assert run.schema == SCHEMA
    again = tmp_path / "run.json"
    runfile.write(again, run)
    assert runfile.read(again) == run
    assert json.loads(path.read_text())["schema"] == "kvmharness.run/1"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_nothing_of_a_run_1_file_is_lost(path: Path) -> None:
    old, run = json.loads(path.read_text()), runfile.read(path)
    for before, now in zip(old["cases"], run.cases, strict=True):
        assert (now.mode, now.op, now.samples) == (before["guest"], before["op"], before["samples"])
        assert (str(now.class_) if now.class_ else None) == before["class"]
        assert list(now.counters.values()) == list(before["counters"].values())
        assert len(now.absent) == len(before["absent"])
    lab = old["host"]["lab"]
    if lab:
        assert run.host.lab is not None
        assert run.host.lab.emulator.name == "QEMU"
        assert run.host.lab.emulator.cpu == lab["qemu_cpu"]
        assert run.host.lab.virtme_ng == lab["virtme_ng"]


@pytest.mark.parametrize("name", ["host", "5.10-tdp"])
def test_a_run_1_file_shows_as_it_did(kvmharness: Call, name: str) -> None:
    shown = kvmharness("show", str(RUN1 / f"{name}.json")).stdout
    assert shown == as_now((RUN1 / f"show-{name}.txt").read_text())


def test_run_1_files_compare_as_they_did(kvmharness: Call) -> None:
    done = kvmharness("compare", str(RUN1 / "5.10-tdp.json"), str(RUN1 / "6.1-tdp.json"))
    assert done.stdout == (RUN1 / "compare.txt").read_text()
    assert done.returncode == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["cases", "host", "lab", "class", "counters", "absent", "guest", "qemu"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON, JSON)
def test_what_is_no_run_is_left_for_the_types_to_refuse(cases: object, host: object) -> None:
    upgrade({"schema": "kvmharness.run/1", "cases": cases, "host": host})
