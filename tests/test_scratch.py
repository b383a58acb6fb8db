"""Temporary folders: one of a process that is gone is swept, one in use never."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kvmharness.scratch import Scratch

HOLD = (
    "import sys, pathlib; from kvmharness.scratch import Scratch; "
    "s = Scratch('it-', pathlib.Path(sys.argv[1])); print(s.path, flush=True); sys.stdin.read()"
)


def test_what_a_killed_process_left_is_swept_and_what_is_in_use_is_not(tmp_path: Path) -> None:
    held = Scratch("it-", tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout
        theirs = Path(other.stdout.readline().strip())
        Scratch("it-", tmp_path).close()
        assert theirs.is_dir()
        other.send_signal(signal.SIGKILL)
    (theirs / "file").touch()
    Scratch("it-", tmp_path).close()
    assert [p.name for p in tmp_path.iterdir()] == [held.path.name]
    held.close()
    held.close()
    assert list(tmp_path.iterdir()) == []


def test_many_at_once_take_nothing_from_each_other(tmp_path: Path) -> None:
    seen: list[bool] = []

    def work() -> None:
        for _ in range(30):
            scratch = Scratch("it-", tmp_path)
            (scratch.path / "file").touch()
            seen.append((scratch.path / "file").exists())
            scratch.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] * 120
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's folder")
def test_anothers_folder_and_a_link_are_left_alone(tmp_path: Path) -> None:
    theirs = tmp_path / "it-theirs"
    theirs.mkdir()
    os.chown(theirs, 65534, 65534)
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / "it-link").symlink_to(target)
    Scratch("it-", tmp_path).close()
    assert {p.name for p in tmp_path.iterdir()} == {"it-theirs", "target", "it-link"}
