"""perf as a subprocess: the real one where it is, and every way it can let us down."""

from __future__ import annotations

import mmap
import os
import pwd
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from kvmharness.counters import perf, profile
from kvmharness.counters.events import TRACEPOINTS, present
from kvmharness.counters.perf import Attached, PerfError
from kvmharness.counters.perfstat import Event, PerfStat
from kvmharness.guest.vm import GuestVm
from kvmharness.kvm.fds import System
from kvmharness.model.cases import Case

TASK_CLOCK = [Event("task-clock", "task-clock")]


def why_no_perf() -> str | None:
    try:
        perf.probe()
    except PerfError as error:
        return str(error)
    return None


NO_PERF = why_no_perf()
needs_perf = pytest.mark.skipif(NO_PERF is not None, reason=str(NO_PERF))


def fake(folder: Path, body: str) -> str:
    """Write a program that stands in for a perf that fails: the real one cannot be made to."""
    path = folder / "perf-fake"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


@needs_perf
def test_counts_between_the_switches_only() -> None:
    with closing(PerfStat([Event("faults", "minor-faults")])) as stat:
        stat.attach_to(())
        touch(4096)
        stat.begin()
        touch(256)
        counts = stat.end()
        touch(4096)
    assert stat.failure is None
    assert 256 <= counts["faults"] < 1024  # Python takes a few of its own


def touch(pages: int) -> None:
    """Cause one page fault a page."""
    with mmap.mmap(-1, pages * mmap.PAGESIZE) as memory:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        for page in range(pages):
            memory[page * mmap.PAGESIZE] = 1


@pytest.mark.kvm
@needs_perf
def test_pages_are_split_by_the_filter(system: System) -> None:
    with GuestVm(system, Case("long64", "cr0_wp")) as guest:
        guest.measure(10, 1)
        pages = [e for e in TRACEPOINTS if e.spec == "kvmmmu:kvm_mmu_get_page"]
        events = [*pages, Event("all", pages[0].spec)]
        with closing(PerfStat(events)) as stat:
            stat.attach(guest)
            counts = guest.measure(500, 1, [stat]).counts
    assert stat.failure is None
    assert len(pages) == 2
    assert sum(counts[event.name] for event in pages) == counts["all"]


@pytest.mark.kvm
@needs_perf
def test_attaching_is_outside_the_counted_region(system: System) -> None:
    events, _ = present()
    with GuestVm(system, Case("long64", "empty")) as guest:
        guest.measure(10, 1)
        with closing(PerfStat(events)) as stat:
            stat.attach(guest)
            counts = guest.measure(10_000, 1, [stat]).counts
    emulated = ("kvm:kvm_emulate_insn",)  # on kvm_pvm the loop itself is emulated
    tracepoints = [e.name for e in events if e.name.startswith("kvm") and e.name not in emulated]
    assert {name: counts[name] for name in tracepoints if counts[name] > 100} == {}


def test_hidden_perf_is_a_reason() -> None:
    stat = PerfStat(TASK_CLOCK, command="perf-is-not-here")
    stat.attach_to(())
    stat.begin()
    assert stat.end() == {}
    assert stat.failure == "perf-is-not-here: No such file or directory"
    stat.close()
    with pytest.raises(PerfError, match="is not installed: apt-get install linux-perf"):
        perf.probe("perf-is-not-here")


def test_failing_perf_is_a_reason(tmp_path: Path) -> None:
    command = fake(tmp_path, "echo 'event syntax error: something' >&2; exit 129")
    with closing(PerfStat(TASK_CLOCK, command)) as stat:
        stat.attach_to(())
        stat.begin()
        assert stat.end() == {}
    assert stat.failure is not None
    assert "perf ended before it counted" in stat.failure


def test_mute_perf_does_not_hang_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perf, "ACK_TIMEOUT_S", 0.3)
    command = fake(tmp_path, "trap '' INT; while :; do sleep 0.1; done")
    begin = time.monotonic()
    with closing(PerfStat(TASK_CLOCK, command)) as stat:
        stat.attach_to(())
        stat.begin()
        assert stat.end() == {}
    assert time.monotonic() - begin < 5
    assert stat.failure == "perf did not acknowledge 'enable' within 0.3 s"


@needs_perf
def test_perf_killed_midway_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perf, "ACK_TIMEOUT_S", 5.0)
    with closing(PerfStat(TASK_CLOCK)) as stat:
        stat.attach_to(())
        stat.begin()
        assert stat._perf is not None
        assert stat._perf.process is not None
        stat._perf.process.kill()
        assert stat.end() == {}
    assert stat.failure is not None
    assert "perf ended before it counted" in stat.failure


@needs_perf
def test_nothing_is_left_behind() -> None:
    with Attached(["stat", "-j", "-e", "task-clock"]) as attached:
        folder, process = attached.output.parent, attached.process
        assert folder.is_dir()
    assert not folder.exists()
    assert process is not None
    assert process.poll() is not None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user without rights")
@needs_perf
def test_paranoid_kernel_is_a_reason_with_what_to_type() -> None:
    nobody = pwd.getpwnam("nobody")
    code = (
        "import os, kvmharness.counters.perf as p\n"
        f"os.setgroups([]); os.setgid({nobody.pw_gid}); os.setuid({nobody.pw_uid})\n"
        "try: p.probe()\n"
        "except p.PerfError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert "perf_event_paranoid is" in done.stdout
    assert "kernel.perf_event_paranoid=-1" in done.stdout
    assert done.stdout.count("\n") == 1


def test_perf_speaks_c_whatever_the_user_speaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Few machines have a locale with a decimal comma, so a program tells what perf would see.
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert perf.perf_text([], fake(tmp_path, 'echo "$LC_ALL"')) == "C\n"
    attached = Attached([], fake(tmp_path, 'echo "$LC_ALL" >&2'))
    assert attached.process is not None
    attached.process.wait(20)
    assert attached.stderr() == "C\n"
    attached.close()


def test_no_clock_without_perf_is_blamed_on_perf(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PerfError, match="perf is not installed: apt-get install linux-perf"):
        profile.clock()


@pytest.mark.parametrize(
    ("complaint", "says"),
    [
        ("No permission to enable cycles event.", "not permitted to this user"),
        ("Access to performance monitoring is limited.", "not permitted to this user"),
        ("Failed to open: Too many open files", "Failed to open: Too many open files"),
    ],
)
def test_a_user_is_told_of_permissions_only_where_they_are_the_cause(
    monkeypatch: pytest.MonkeyPatch, complaint: str, says: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert says in perf._why(complaint)


def test_what_a_killed_run_left_while_counting_is_swept(tmp_path: Path) -> None:
    code = (
        "import os, signal; from kvmharness.counters.perf import Attached; "
        "Attached(['stat'], 'true'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=env, check=False)
    assert len(list(tmp_path.glob("kvmharness-perf-*"))) == 1
    again = "from kvmharness.counters.perf import Attached; Attached(['stat'], 'true').close()"
    subprocess.run([sys.executable, "-c", again], env=env, check=True)
    assert list(tmp_path.iterdir()) == []
