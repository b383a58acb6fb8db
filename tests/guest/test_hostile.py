"""Every hostile guest ends within its limit, by the error that says what it did."""

from __future__ import annotations

import os
import time

import pytest

from kvmharness.guest.hostile import HOSTILE, Hostile, provoke
from kvmharness.guest.vm import GuestVm
from kvmharness.kvm.fds import System
from kvmharness.model.cases import Case
from tests.support.soak import note

pytestmark = pytest.mark.kvm

LIMIT_S = 0.2


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name.replace(" ", "-"))
def test_it_ends_in_time_by_an_error_that_says_why(system: System, hostile: Hostile) -> None:
    begun, cpu = time.monotonic(), time.thread_time()
    reason = provoke(system, hostile, LIMIT_S)
    wall, busy = time.monotonic() - begun, time.thread_time() - cpu
    assert reason.startswith(hostile.ends), reason
    # Of a machine that does other things too, only the CPU time can be held to it.
    assert busy < LIMIT_S + 1
    note(f"hostile: {hostile.name}", limit_s=LIMIT_S, ended_after_s=round(wall, 2))


def test_every_name_is_one() -> None:
    assert len({hostile.name for hostile in HOSTILE}) == len(HOSTILE)


def test_a_good_guest_is_taken_for_one(system: System) -> None:
    with GuestVm(system, Case("long64", "empty")) as guest:
        assert len(guest.measure(10, 3).preempted) == 3


def test_no_descriptor_of_a_hostile_guest_stays(system: System) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for hostile in HOSTILE:
        provoke(system, hostile, 0.02)
    assert len(os.listdir("/proc/self/fd")) == before
