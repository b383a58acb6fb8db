"""Thousands of VMs in one process: nothing of them stays, and the kernel warns of nothing."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from kvmharness.errors import GuestError, KvmError
from kvmharness.guest.state import Blob
from kvmharness.guest.vm import GuestVm
from kvmharness.kvm.fds import System
from kvmharness.kvm.raw import lib
from kvmharness.model.cases import Case
from tests.support.soak import SOAK, note, times

pytestmark = pytest.mark.kvm

CASES = [
    Case("real16", "empty"),
    Case("long64", "cr0_wp"),
    Case("long64", "empty", {"pages": 16}),
    Case("long64", "empty", {"vcpus": 2}),
    Case("long64", "empty", {"irqchip": 0, "slots": 8}),
]
UD2 = b"\x0f\x0b"  # without an IDT: a triple fault
SPIN = b"\xeb\xfe"
RING_END = bytes([0xB0, lib.DOORBELL_END, 0xE6, lib.PORT_DOORBELL])
FAULTS = (UD2, RING_END, SPIN)
# What Python's own memory may grow by: an arena of its allocator is 1 MiB.
SLACK_KB = 4096


@dataclass(frozen=True)
class Held:
    """What this process has."""

    files: int
    mappings: int
    threads: int
    memory_kb: int


def held() -> Held:
    gc.collect()
    status = Path("/proc/self/status").read_text()
    return Held(
        len(os.listdir("/proc/self/fd")),
        len(Path("/proc/self/maps").read_text().splitlines()),
        threading.active_count(),
        int(status.partition("VmRSS:")[2].split()[0]),
    )


def live(system: System, number: int, stub: Callable[..., Blob]) -> None:
    """Let a VM live and die; every tenth one by a fault of its guest, every hundredth by ours."""
    case = CASES[number % len(CASES)]
    if number % 100 == 99:
        with GuestVm(system, case) as guest, pytest.raises(KvmError, match="EEXIST"):
            guest.vm.set_user_memory_region(99, 0, 4096)  # where there is one
        return
    if number % 10 == 9:
        blob = stub(FAULTS[number // 10 % len(FAULTS)])
        with (
            GuestVm(system, Case("long64", "cr0_wp"), timeout_s=0.02, blob=blob) as guest,
            pytest.raises(GuestError),
        ):
            guest.measure(1, 1)
        return
    with GuestVm(system, case) as guest:
        guest.measure(1, 1)


def warnings() -> list[str]:
    """Return the kernel's warnings that its log holds; none where it may not be read."""
    try:
        log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return []
    found = []
    try:
        while True:
            line = os.read(log, 8192).decode(errors="replace")
            if "WARNING: " in line or "BUG: " in line or "Oops: " in line:
                found.append(line)
    except OSError:  # the end
        return found
    finally:
        os.close(log)


@pytest.mark.timeout(7200 if SOAK else 120)
def test_nothing_of_many_vms_stays(system: System, stub: Callable[..., Blob]) -> None:
    number = times(200, 10_000)
    known = warnings()
    for at in range(100):
        live(system, at, stub)
    before = held()
    for at in range(number):
        live(system, at, stub)
    after = held()
    # The log forgets its oldest lines; each line has its own number.
    new = [line for line in warnings() if line not in known]
    note(
        "lives of VMs",
        lives=number,
        files=f"{before.files} to {after.files}",
        mappings=f"{before.mappings} to {after.mappings}",
        threads=f"{before.threads} to {after.threads}",
        memory=f"{before.memory_kb} to {after.memory_kb} kB",
        warnings_of_the_kernel=len(new),
    )
    assert (after.files, after.threads) == (before.files, before.threads)
    # Python's own allocator takes and gives back mappings.
    assert abs(after.mappings - before.mappings) <= 8
    assert after.memory_kb - before.memory_kb < SLACK_KB
    assert new == []
