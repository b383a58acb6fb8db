"""doctor --self-test: says what is right here, and fails where it is not."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from kvmharness.errors import KvmIncorrect
from kvmharness.guest.vm import GuestVm, Measurement, Proof
from kvmharness.kvm.fds import System
from kvmharness.measure import selftest
from tests.support.soak import note

pytestmark = pytest.mark.kvm

Call = Callable[..., "subprocess.CompletedProcess[str]"]


def test_this_host_is_told_what_it_can_be_trusted_for(kvmharness: Call) -> None:
    begun = time.monotonic()
    done = kvmharness("doctor", "--self-test")
    note("doctor --self-test", seconds=round(time.monotonic() - begun, 1), code=done.returncode)
    lines = done.stdout.splitlines()
    assert done.returncode in (0, 3), done.stdout
    assert [line[6:].partition(":")[0] for line in lines[:5]] == list(selftest.TESTS)
    assert lines[5].startswith(
        "this host's figures can be trusted for: ending guests that misbehave"
    )
    assert (done.returncode == 3) == (len(lines) == 7)


def results(system: System) -> Mapping[str, selftest.Tested]:
    return {tested.vouches: tested for tested in selftest.run(system)}


def test_what_is_wrong_is_told(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """No host that fails is at hand, so what the guest gives is changed on its way."""
    real, really_prove = GuestVm.measure, GuestVm.prove
    seen = [0]

    def measure(self: GuestVm, ops: int, *rest: Any, **more: Any) -> Measurement:
        found = real(self, ops, *rest, **more)
        lie = {name: count - 100 * (ops > 1) for name, count in found.counts.items()}
        seen.append(ops)
        longer = 3 if ops == selftest.LONGER * seen[-2] else 1
        return Measurement([t * longer for t in found.ticks], lie, [])

    def prove(self: GuestVm, *rounds: int) -> Proof | None:
        if self.case.op == "wx":
            raise KvmIncorrect("long64/wx", 7, 3, "a write went through")
        return really_prove(self, *rounds)

    monkeypatch.setattr(GuestVm, "measure", measure)
    monkeypatch.setattr(GuestVm, "prove", prove)
    monkeypatch.setattr(selftest, "provoke", lambda *_: "")
    found = results(system)
    assert not any(tested.ok for tested in found.values())
    assert "an endless loop: taken for a good one" in found["ending guests that misbehave"].seen
    assert found["W^X"].incorrect
    assert "ticks in short samples" in found["times"].seen
    assert "where 999 exits to user space were" in found["KVM's statistics"].seen


def test_a_host_without_perf_is_told_so(
    system: System, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = results(system)
    assert not found["tracepoints"].ok
    assert found["ending guests that misbehave"].ok
