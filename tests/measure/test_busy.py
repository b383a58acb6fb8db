"""A busy machine: priority is given and taken back, runs notice each other."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvmharness.measure import presence, priority
from kvmharness.measure.presence import Presence


@pytest.mark.skipif(priority.why_not(1) is not None, reason="no real-time priority here")
def test_priority_is_given_for_a_while() -> None:
    thread = threading.get_native_id()
    before = os.sched_getscheduler(thread)
    with priority.raised(7, [thread]):
        assert os.sched_getscheduler(thread) & ~os.SCHED_RESET_ON_FORK == os.SCHED_FIFO
        assert os.sched_getparam(thread).sched_priority == 7
    assert os.sched_getscheduler(thread) & ~os.SCHED_RESET_ON_FORK == before
    with priority.raised(None, [thread]):
        assert os.sched_getscheduler(thread) & ~os.SCHED_RESET_ON_FORK == before


def test_a_priority_that_is_not_allowed_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    assert priority.why_not(50) == (
        "Operation not permitted; run as root, or raise the limit: ulimit -r 50"
    )


def test_two_runs_keep_apart(tmp_path: Path) -> None:
    with Presence(3, [0, 1, 2, 3], tmp_path) as first:
        assert first.cpu == 3
        assert first.others() == []
        with Presence(3, [0, 1, 2, 3], tmp_path) as second:
            assert second.cpu == 2
            assert (first.others(), second.others()) == ([2], [3])
        assert first.others() == []


def test_runs_that_may_not_move_say_so(tmp_path: Path) -> None:
    with Presence(1, [1], tmp_path) as first, Presence(1, (), tmp_path) as second:
        assert (first.cpu, second.cpu) == (1, 1)
        assert first.others() == [1]
    with Presence(None, (), tmp_path) as first, Presence(1, (), tmp_path) as second:
        assert second.others() == [None]


def test_the_mark_of_a_run_that_was_killed_is_swept(tmp_path: Path) -> None:
    script = (
        "import os, sys, pathlib\n"
        "from kvmharness.measure.presence import Presence\n"
        "Presence(1, (), pathlib.Path(sys.argv[1]))\n"
        "os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    marks = list(tmp_path.glob(f"{presence.PREFIX}*"))
    assert len(marks) == 1
    with Presence(1, [1], tmp_path) as here:
        assert here.others() == []
    assert not marks[0].exists()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may write to, as no folder of pytest's own is."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o1777)
        yield Path(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_runs_of_several_users_notice_each_other(open_folder: Path) -> None:
    """Another user's run starts, and sees root's, whatever root's has left in the folder."""
    with Presence(1, [0, 1], open_folder):
        child = os.fork()
        if not child:
            code = 1
            try:
                os.setresuid(65534, 65534, 65534)
                with Presence(1, [0, 1], open_folder) as theirs:
                    code = 0 if theirs.cpu == 0 and theirs.others() == [1] else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.timeout(20)
def test_what_others_put_there_neither_blocks_nor_is_written_to(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    marks = tmp_path / "marks"
    marks.mkdir()
    os.mkfifo(marks / f"{presence.PREFIX}fifo")
    for name in ("choosing", f"{presence.PREFIX}link"):
        (marks / name).symlink_to(victim)
    with Presence(1, [1], marks) as here:
        assert here.others() == []
    assert victim.read_text() == "kept"
