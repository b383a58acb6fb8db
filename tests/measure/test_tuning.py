"""Tuning sets what doctor advises, and sets back exactly what was there.

The files are made up, below a root of the tests': this machine's own settings are other people's,
and most of them a virtual machine has not.  The functions take the root for that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmharness.errors import HarnessError, UsageError
from kvmharness.measure import tuning

Call = Callable[..., "subprocess.CompletedProcess[str]"]

HELD = {
    f"{tuning.CPUS}/cpu0/cpufreq/scaling_governor": "powersave\n",
    f"{tuning.CPUS}/cpu1/cpufreq/scaling_governor": "performance\n",
    f"{tuning.CPUS}/cpu10/cpufreq/scaling_governor": "schedutil\n",
    f"{tuning.CPUS}/intel_pstate/no_turbo": "0\n",
    "proc/sys/kernel/perf_event_paranoid": "2\n",
    "etc/other": "mine\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in HELD.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def held(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_text() for path in files}


def test_all_is_set_and_set_back_to_the_byte(root: Path) -> None:
    made = [change.path for change in tuning.apply(root)]
    assert len(made) == 4
    now = held(root)
    assert {now[path] for path in made} == {"performance\n", "1\n", "-1\n"}
    assert now["etc/other"] == "mine\n"
    assert not tuning.planned(root)
    assert [why for _, why in tuning.revert(root)] == [None] * 4
    assert held(root) == HELD
    assert not list(tuning.revert(root))


def test_what_was_there_before_the_first_time_is_what_comes_back(root: Path) -> None:
    list(tuning.apply(root))
    assert not list(tuning.apply(root))
    (root / tuning.CPUS / "cpu0/cpufreq/scaling_governor").write_text("ondemand\n")
    assert len(list(tuning.apply(root))) == 1
    list(tuning.revert(root))
    assert held(root) == HELD


def test_what_others_set_meanwhile_is_left_alone(root: Path) -> None:
    list(tuning.apply(root))
    (root / tuning.CPUS / "cpu0/cpufreq/scaling_governor").write_text("ondemand\n")
    (root / tuning.CPUS / "intel_pstate/no_turbo").write_text("0\n")
    left = {change.path: why for change, why in tuning.revert(root) if why}
    assert left == {
        f"{tuning.CPUS}/cpu0/cpufreq/scaling_governor": "somebody has set it to ondemand since",
        f"{tuning.CPUS}/intel_pstate/no_turbo": "it is set back already",
    }
    assert held(root) == HELD | {f"{tuning.CPUS}/cpu0/cpufreq/scaling_governor": "ondemand\n"}


def test_what_is_to_come_back_is_written_down_before_anything_is_set(root: Path) -> None:
    for _ in tuning.apply(root):
        break  # as by kill -9
    list(tuning.revert(root))
    assert held(root) == HELD


def test_a_state_cannot_have_other_files_written(root: Path) -> None:
    list(tuning.apply(root))
    state = json.loads((root / tuning.STATE).read_text())
    state["changes"] = [
        {"path": "etc/other", "before": "planted\n", "after": "mine\n"},
        {"path": f"{tuning.CPUS}/../../../../etc/other", "before": "planted", "after": "mine"},
    ]
    (root / tuning.STATE).write_text(json.dumps(state))
    assert all(why for _, why in tuning.revert(root))
    assert held(root)["etc/other"] == "mine\n"


@pytest.mark.parametrize("text", ["", "{", '{"changes": [{"path": 3}]}', "[]"])
def test_a_state_that_is_none_is_refused(root: Path, text: str) -> None:
    (root / tuning.STATE).parent.mkdir(parents=True)
    (root / tuning.STATE).write_text(text)
    before = held(root)
    with pytest.raises(UsageError, match="take it away"):
        list(tuning.revert(root))
    assert held(root) == before


def test_what_the_kernel_refuses_is_said_and_the_rest_is_set(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_text

    def refusing(path: Path, text: str) -> int:
        # A kernel without this governor: no file that is made up refuses.
        if path.name == "scaling_governor":
            raise OSError(22, os.strerror(22))
        return write(path, text)

    monkeypatch.setattr(Path, "write_text", refusing)
    made: list[tuning.Change] = []
    with pytest.raises(HarnessError, match="scaling_governor: Invalid argument"):
        made.extend(tuning.apply(root))
    monkeypatch.undo()
    assert "-1\n" in held(root).values()
    list(tuning.revert(root))
    assert held(root) == HELD


def test_a_machine_without_such_settings_has_nothing_to_set(tmp_path: Path) -> None:
    assert not list(tuning.apply(tmp_path))
    assert not list(tmp_path.iterdir())


def test_whoever_may_not_is_told_to_be_root(root: Path) -> None:
    # Another user may not even start this Python, so it becomes one when all is loaded.
    code = (
        "import os, pathlib, sys; from kvmharness.measure import tuning\n"
        "root = pathlib.Path(sys.argv[1]); os.chdir(root); os.geteuid() or os.setuid(65534)\n"
        "try: list(tuning.apply(pathlib.Path('.')))\n"
        "except tuning.Unavailable as error: print(error)"
    )
    root.chmod(0o555)
    done = subprocess.run(
        [sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "make run/kvmharness: Permission denied; run as root\n", done
    assert held(root) == HELD


def test_the_command_says_what_it_would_set(kvmharness: Call) -> None:
    before = Path("/proc/sys/kernel/perf_event_paranoid").read_text()
    done = kvmharness("tune", "--dry-run")
    assert done.returncode == 0
    assert "would set /" in done.stdout or "nothing to set" in done.stdout
    assert Path("/proc/sys/kernel/perf_event_paranoid").read_text() == before
    assert kvmharness("tune", "--dry-run", "--revert").returncode == 2
