"""Which signs of life keep a kernel from being given up: no KVM is needed for it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from kvmharness.counters import mailbox
from kvmharness.errors import GuestTimeout
from kvmharness.guest.linux import LinuxVm
from kvmharness.kvm import exits


class Ringing:
    """A vCPU that writes to a port every tenth of a second, so many times, then runs on."""

    def __init__(self, port: int, times: int) -> None:
        self._port, self._left = port, times

    def run(self, timeout_ns: int) -> exits.Exit:
        if not self._left:
            time.sleep(timeout_ns / 1e9)
            return exits.Mmio("MMIO", False, 0xFEE00000, b"")
        self._left -= 1
        time.sleep(0.1)
        return exits.Io("IO", True, self._port, 1, 1, b"\4")

    def get_regs(self) -> Any:
        return type("Regs", (), {"rip": 0})


class Bell:
    """What is rung."""

    rung = 0

    def write(self, data: bytes) -> None:
        self.rung += 1

    def read(self, size: int) -> bytes:
        return bytes(size)


def machine(port: int, times: int, bell: Bell) -> LinuxVm:
    vm = LinuxVm.__new__(LinuxVm)
    vars(vm).update(
        console=bytearray(), vcpus=[Ringing(port, times)], _uarts={}, _devices={mailbox.PORT: bell}
    )
    return vm


def test_a_device_that_is_written_is_a_sign_of_life() -> None:
    bell = Bell()
    begin = time.monotonic()
    with pytest.raises(GuestTimeout, match=r"wrote nothing for 0\.3 s"):
        machine(mailbox.PORT, 6, bell).run(0.3)
    assert bell.rung == 6
    assert time.monotonic() - begin > 0.8


def test_a_port_that_is_nobodys_is_none() -> None:
    bell = Bell()
    with pytest.raises(GuestTimeout):
        machine(0x80, 600, bell).run(0.3)
    assert bell.rung == 0
