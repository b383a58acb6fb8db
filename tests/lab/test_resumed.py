"""Machines that go on from a snapshot measure what booted ones do, to the last bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from kvmharness import cache
from kvmharness.analysis import repeated
from kvmharness.kernel import resolve, variants
from kvmharness.lab import hold, matrix, snapshot
from kvmharness.lab.machines import TCG_SVM
from kvmharness.lab.planning import LabPlan, Result, Target
from kvmharness.model import runfile
from kvmharness.model.cases import select
from kvmharness.model.run import Settings
from tests.lab.test_lab import machines_running
from tests.support.kernels import CURED, need_lab, newest

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1800)]
SETTINGS = Settings(2, 2, 1.0, 100, 0, 1.0, 10.0, samples_per_doorbell=1)
CASES = ["long64/empty", "long64/cr0_wp"]


@pytest.fixture(scope="module", autouse=True)
def home() -> Iterator[None]:
    need_lab(CURED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshot, "HOME", f"tests/snapshots-{os.getpid()}")
        yield
        shutil.rmtree(cache.folder(snapshot.HOME))


class Measured:
    """A kernel measured: what was told on the way, and what came of it."""

    def __init__(self, snapshots: bool = True, killed_at: str = "") -> None:
        self.told: list[str] = []
        self._killed_at = killed_at
        target = Target(resolve.resolve(newest(CURED)), variants.parse("tdp"), TCG_SVM)
        plan = LabPlan(select(CASES), {"insn": SETTINGS}, None, None, None, snapshots=snapshots)
        self.result: Result
        (self.result,) = matrix.measure([target], plan, 1, self._heard)

    def _heard(self, _: Target, line: str) -> None:
        self.told.append(line)
        if line == self._killed_at:
            for machine in machines_running():
                os.kill(machine, signal.SIGKILL)

    @property
    def run(self) -> dict[str, Any]:
        """The run's file, but for what holds a machine's own work: samples and deferred work."""
        assert self.result.run is not None, self.result.lost
        told: dict[str, Any] = json.loads(runfile.encode(self.result.run))
        for case in told["cases"]:
            assert case["deferred"]
            for name in ("deferred", "deferred_samples", "samples", "per_op", "total", "tsc"):
                del case[name]
        return told


def test_a_snapshot_measures_as_a_boot_does() -> None:
    booted = Measured()
    assert booted.told[0] == "booting"
    counters = booted.result.run and booted.result.run.cases[1].counters
    assert counters
    assert counters["kvm:kvm_exit"] == pytest.approx(1, abs=0.1)
    assert counters["probe:kvm_init_mmu"] is not None
    resumed, afresh = Measured(), Measured(snapshots=False)
    assert resumed.told[0] == "resuming"
    assert "booting" not in resumed.told
    assert afresh.told[0] == "booting"
    for other in (resumed, afresh):
        _same(other, booted)
    _damaged_is_made_anew(booted)


def _same(one: Measured, other: Measured) -> None:
    """Both measured the same, to the instruction but for where ticks fell."""
    assert one.run == other.run
    assert one.result.run
    assert other.result.run
    assert repeated.differences(one.result.run, other.result.run) == []


def _damaged_is_made_anew(expected: Measured) -> None:
    (kept,) = snapshot.kept()
    with (kept.place / snapshot.MEMORY).open("r+b") as memory:
        memory.seek(-1, os.SEEK_END)
        memory.write(b"\x55")
    anew = Measured()
    assert "is damaged, and made anew" in anew.told[0]
    assert anew.told[1] == "booting"
    _same(anew, expected)


def test_a_machine_that_is_killed_as_it_is_saved_is_lost_and_not_kept() -> None:
    before = snapshot.kept()
    for one in before:
        cache.remove(one.place)
    killed = Measured(killed_at=hold.READY)
    assert killed.result.run is None
    assert killed.result.lost is not None
    assert snapshot.kept() == []
