"""What names a stopped machine, and how QEMU is asked to save one and to go on with it."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmharness.errors import LabLost
from kvmharness.kernel import resolve
from kvmharness.kernel.resolve import Kernel
from kvmharness.lab import hold, qemu, snapshot, stopped
from kvmharness.lab.boot import Boot, LabMachine
from kvmharness.lab.engine import Left, Runner
from kvmharness.lab.machines import TCG_SVM
from kvmharness.lab.qmp import Ended, Monitor, MonitorError

ARCHIVES = ("capsule", "job")
Change = Callable[[Boot], Boot]
PROGRAM = qemu._program.__wrapped__


@pytest.fixture
def boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Boot:
    image = tmp_path / "vmlinux"
    image.write_bytes(b"a kernel")
    monkeypatch.setattr(resolve, "bootable", lambda kernel: kernel.image)
    monkeypatch.setattr(qemu, "_program", lambda: [("/usr/bin/qemu", 1)])
    kernel = Kernel("a", "6.1", image, None, "6.1")
    return Boot(kernel, TCG_SVM, (), ("kvm.tdp_mmu=1",), tmp_path, 1.0)


def another_kernel(boot: Boot) -> Boot:
    boot.kernel.image.write_bytes(b"a Kernel")
    return boot


def machine(**changes: object) -> Change:
    changed: LabMachine = dataclasses.replace(TCG_SVM, **changes)  # type: ignore[arg-type]
    return lambda boot: dataclasses.replace(boot, machine=changed)


def emulator(**changes: object) -> Change:
    return machine(emulator=dataclasses.replace(qemu.TCG, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        another_kernel,
        lambda boot: dataclasses.replace(boot, options=("kvm.tdp_mmu=0",)),
        lambda boot: dataclasses.replace(boot, number=2),
        machine(cpu="EPYC"),
        emulator(memory_mib=2048),
        emulator(accelerator=("-accel", "tcg", "-icount", "shift=1,sleep=off")),
        emulator(options=("quiet",)),
    ],
)
def test_a_name_changes_with_the_machine(boot: Boot, change: Change) -> None:
    before = stopped.key(boot, ARCHIVES)
    assert stopped.key(change(boot), ARCHIVES) != before


@pytest.mark.parametrize("archives", [("another", "job"), ("capsule", "another"), ("capsule",)])
def test_a_name_changes_with_what_goes_in(boot: Boot, archives: tuple[str, ...]) -> None:
    assert stopped.key(boot, archives) != stopped.key(boot, ARCHIVES)


def test_a_name_changes_with_qemu(boot: Boot, monkeypatch: pytest.MonkeyPatch) -> None:
    before = stopped.key(boot, ARCHIVES)
    monkeypatch.setattr(qemu, "_program", lambda: [("/usr/bin/qemu", 2)])
    assert stopped.key(boot, ARCHIVES) != before


def test_what_a_script_starts_has_no_name(
    boot: Boot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "qemu"
    script.write_text('#!/bin/sh\nexec another-qemu "$@"\n')
    script.chmod(0o755)
    monkeypatch.setattr(qemu, "BINARY", str(script))
    # The function itself: what it found of the real one is remembered.
    monkeypatch.setattr(qemu, "_program", PROGRAM)
    assert stopped.key(boot, ARCHIVES) is None


def test_a_name_changes_with_how_machines_are_saved(
    boot: Boot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = stopped.key(boot, ARCHIVES)
    (tmp_path / "snapshot.py").write_text("")
    monkeypatch.setattr(snapshot, "__file__", str(tmp_path / "snapshot.py"))
    assert stopped.key(boot, ARCHIVES) != before


def test_a_name_does_not_change_with_where_and_for_what(boot: Boot, tmp_path: Path) -> None:
    elsewhere = dataclasses.replace(boot, folder=tmp_path / "b", silent_s=2.0, samples=9)
    assert stopped.key(elsewhere, ARCHIVES) == stopped.key(boot, ARCHIVES)


def test_qemu_is_known_by_its_binary_its_libraries_and_its_firmware() -> None:
    if qemu.TCG.missing():
        pytest.skip("not installed: qemu-system-x86_64")
    names = [Path(str(row[0])).name for row in qemu._program() or ()]
    assert qemu.BINARY in names
    assert any(name.startswith("libc.so") or name.startswith("libc-") for name in names)
    assert "bios-256k.bin" in names


class Peer(threading.Thread):
    """A QEMU's end of a monitor that answers as told."""

    def __init__(self, descriptor: int, answers: list[dict[str, object]]) -> None:
        super().__init__(daemon=True)
        self._socket = socket.socket(fileno=os.dup(descriptor))
        self._answers = answers
        self.asked: list[str] = []
        self._say({"QMP": {}})
        self.start()

    def _say(self, *lines: dict[str, object]) -> None:
        self._socket.sendall(b"".join(json.dumps(line).encode() + b"\r\n" for line in lines))

    def run(self) -> None:
        self._answer()
        for answer in self._answers:
            self._answer(answer)
        self._socket.close()

    def _answer(self, answer: dict[str, object] | None = None) -> None:
        self.asked.append(json.loads(self._socket.recv(4096))["execute"])
        self._say({"event": "MIGRATION"}, answer or {"return": {}})


def test_events_between_the_answers_are_kept() -> None:
    with Monitor() as monitor:
        peer = Peer(monitor.theirs, [{"return": {"status": "running"}}])
        monitor.greet()
        assert monitor.do("query-status") == {"status": "running"}
        assert monitor.heard("MIGRATION")
        peer.join()
        assert peer.asked == ["qmp_capabilities", "query-status"]


def test_what_qemu_refuses_is_told_as_it_says_it() -> None:
    with Monitor() as monitor:
        Peer(monitor.theirs, [{"error": {"class": "GenericError", "desc": "no such thing"}}])
        monitor.greet()
        with pytest.raises(MonitorError, match="migrate: no such thing"):
            monitor.do("migrate", uri="fd:state")


def test_a_qemu_that_ends_is_told_and_what_it_said_before_counts() -> None:
    with Monitor() as monitor:
        peer = Peer(monitor.theirs, [])
        monitor.greet()
        peer.join()
        with pytest.raises(Ended):
            monitor.do("cont")
        assert monitor.heard("MIGRATION")
        assert not monitor.heard("STOP")


def test_a_machine_that_stops_before_it_is_ready_has_panicked(
    boot: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Monitor, "heard", lambda self, event: event == "STOP")
    files = snapshot.Stopped(-1, -1, b"")
    with Monitor() as monitor:
        saving = stopped._Saving(boot, monitor, files)
        with pytest.raises(LabLost, match="a: it panicked while loading KVM"):
            saving.over(lambda: "loading KVM")


def test_one_that_cannot_be_saved_is_lost(boot: Boot, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Monitor, command: str, descriptor: int | None = None, **_: object) -> object:
        if command == "query-migrate":
            return {"status": "failed", "error-desc": "No space left on device"}
        return {}

    monkeypatch.setattr(Monitor, "heard", lambda self, event: event == "STOP")
    monkeypatch.setattr(Monitor, "do", full)
    state = os.memfd_create("state")
    try:
        with Monitor() as monitor:
            saving = stopped._Saving(boot, monitor, snapshot.Stopped(-1, state, b""))
            with pytest.raises(LabLost, match="did not save the machine: No space left"):
                saving.over(lambda: hold.READY)
    finally:
        os.close(state)


def test_a_snapshot_for_which_there_is_no_room_is_told_and_the_run_goes_on(
    boot: Boot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(name: str, machine: snapshot.Stopped) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    made = snapshot.Stopped(-1, -1, b"said")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(snapshot, "keep", full)
    monkeypatch.setattr(stopped, "_stop", lambda *_: made)
    told: list[str] = []
    assert stopped._kept(boot, made, "a" * 32, Runner(), told.append) is made
    assert told == ["its snapshot is not kept: No space left on device"]


def test_a_machine_that_never_stops_leaves_what_it_left(
    boot: Boot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = Left({"outcome.json": b"skipped"})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(Runner, "run", lambda *_: left)
    found = stopped.run(boot, b"{}", "a" * 32, Runner(), lambda line: None)
    assert found is left
    assert snapshot.kept() == []
