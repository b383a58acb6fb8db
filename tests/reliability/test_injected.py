"""Each of KVM's ioctls fails in turn, at each place of a run: it ends as it should, and says why.

A library that is loaded before libc's has one of them return an error (support/failing_ioctl.c).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import failing_ioctl
from tests.support.soak import SHARE, SOAK, note

pytestmark = [
    pytest.mark.kvm,
    pytest.mark.skipif(shutil.which("cc") is None, reason="no compiler for the library"),
]

ROOT = Path(__file__).parents[2]


def rows(folder: Path) -> list[dict[str, Any]]:
    """Run with every ioctl failing in turn; return what came of each."""
    library = folder / "failing_ioctl.so"
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Werror"]
    subprocess.run(["cc", *flags, "-o", library, failing_ioctl.SOURCE, "-ldl"], check=True)
    (folder / "empty").mkdir()
    share = str(SHARE if SOAK else 0)
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.failing_ioctl", share, "long64/cr0_wp"],
        # Without perf, whose starts would take most of the time.
        env={**os.environ, "LD_PRELOAD": str(library), "PATH": str(folder / "empty")},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def ended(row: dict[str, Any]) -> str:
    """Say how a run ended: "well", with the case "failed", or "refused" in one line."""
    if not row["out"]:
        assert row["said"].startswith("kvmharness: "), row
        assert row["said"].count("\n") == 1, row
        return "refused"
    (case,) = json.loads(row["out"])["cases"]
    assert case["incorrect"] is None, row
    return "failed" if case["failed"] else "well"


def blamed(row: dict[str, Any]) -> str:
    """Return all that was said of what failed."""
    if not row["out"]:
        return str(row["said"])
    (case,) = json.loads(row["out"])["cases"]
    return " ".join([case["failed"] or "", case["skipped"] or "", *case["absent"].values()])


def expected(row: dict[str, Any]) -> set[str]:
    """Return how a run may end where this ioctl fails so."""
    name, error = row["ioctl"], row["error"]
    called_again = error == "EINTR" or (name == "KVM_RUN" and error == "EAGAIN")
    if called_again or name == "KVM_GET_STATS_FD":  # without its counts
        return {"well"}
    # A TSC without a frequency is the only error that KVM documents: figures are ticks then, or
    # the case has failed where there was one before.
    known = name == "KVM_GET_TSC_KHZ" and error == "EIO"
    return {"well", "failed"} if known else {"failed", "refused"}


CODES = {"well": {0, 3}, "failed": {4}, "refused": {4, 77}}


@pytest.mark.timeout(3600 if SOAK else 300)
def test_each_failure_ends_as_it_should(tmp_path: Path) -> None:
    found = rows(tmp_path)
    assert {row["ioctl"] for row in found} >= {"KVM_CREATE_VM", "KVM_RUN", "KVM_CHECK_EXTENSION"}
    for row in found:
        # What is thrown away after a run, to see what perf counts, is not the case's.
        spare = row["at"] >= row["measured"]
        how = ended(row)
        assert how in ({"well"} if spare else expected(row)), row
        assert row["code"] in CODES[how], row
        assert "Traceback" not in row["said"], row
        assert "guest: " not in blamed(row), row  # KVM's failure is no fault of the guest
        if how != "well":
            assert f"{row['ioctl']}: {row['error']}: " in blamed(row), row
    places = len({row["at"] for row in found})
    note("ioctls that fail", places=places, runs=len(found), wrong=0)
