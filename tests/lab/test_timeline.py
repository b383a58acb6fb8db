"""A timeline that is interrupted, and one whose jobs are done by others, with real boots."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvmharness.analysis import load
from kvmharness.model import explanation
from tests.support.kernels import CURED, UNCURED, need_lab, newest
from tests.support.short_timeline import JOBS, SHORT, command, holds_the_same, measure

pytestmark = [pytest.mark.lab, pytest.mark.timeout(3000)]

KILLS = 5
# A machine with a fault: its kernel is told something else.
FAULTY = """#!/bin/sh
for word; do
	shift
	test "$before" = -append && word="$word mitigations=off"
	set -- "$@" "$word"
	before=$word
done
exec {real} "$@"
"""


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """Return the folder of a timeline that nothing came between, and the seconds that it took."""
    need_lab(CURED)
    folder = tmp_path_factory.mktemp("timeline") / "runs"
    began = time.monotonic()
    done = measure(folder)
    assert done.returncode == 0, done.stderr
    assert f"{JOBS} jobs done, 0 were there already" in done.stderr
    return folder, time.monotonic() - began


def test_killed_at_random_moments_it_ends_with_the_same_files(
    expected: tuple[Path, float], tmp_path: Path
) -> None:
    folder = tmp_path / "runs"
    moments = random.Random(20220209)
    for _ in range(KILLS):
        process = subprocess.Popen(
            command(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(moments.uniform(0, expected[1] * 0.6))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
    done = measure(folder)
    assert done.returncode == 0, done.stderr
    holds_the_same(folder, expected[0])


def test_what_is_there_is_not_measured_again_but_by_rebuild(
    expected: tuple[Path, float], tmp_path: Path
) -> None:
    folder = tmp_path / "runs"
    shutil.copytree(expected[0], folder)
    done = measure(folder)
    assert f"0 jobs done, {JOBS} were there already" in done.stderr
    done = measure(folder, "--rebuild")
    assert done.stderr.count("measured again, the same") == JOBS
    assert done.returncode == 0
    holds_the_same(folder, expected[0])


def test_a_step_is_explained_once_and_both_kernels_add_up(tmp_path: Path) -> None:
    for series in (UNCURED, CURED):
        need_lab(series)
    line = [sys.executable, "-m", "kvmharness", "timeline", newest(UNCURED), newest(CURED)]
    line += ["--variant", "tdp", *SHORT, "--explain", "-o", str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = [text for text in done.stdout.splitlines() if "by function: " in text]
    assert len(said) == 1
    assert re.search(r"by function: -1\d{2},\d{3} __handle_changed_spte < ", said[0])
    assert done.stderr.count("\nexplained: ") == 1
    (file,) = tmp_path.glob("*.explained")
    found = explanation.read(file)
    assert found.case == "long64/cr0_wp"
    by_release = {file.run.host.kernel.release: file.run for file in load.folder(tmp_path).runs}
    for kernel in found.kernels:
        cases = by_release[kernel.release].cases
        cost = next(case.per_op for case in cases if case.name == found.case)
        # Fewer samples have another median, where toggles differ among themselves.
        assert cost
        assert kernel.median == pytest.approx(cost.median, rel=0.01)
    again = subprocess.run(line, capture_output=True, text=True, check=False)
    assert again.returncode == 0
    assert "explained: " not in again.stderr
    assert said[0] in again.stdout


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start one of Dask's programs, whose output goes to a file of its name; end it at the end."""
    pytest.importorskip("distributed")
    running = []

    def begin(name: str, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        with (tmp_path / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *arguments, "--no-dashboard"],
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
            )
        running.append(process)
        return process

    yield begin
    for process in running:
        process.kill()
        process.wait()


def scheduler(start: Callable[..., subprocess.Popen[bytes]], folder: Path) -> str:
    """Start a scheduler and return its address."""
    file = folder / "scheduler"
    start("scheduler", "scheduler", "--host=127.0.0.1", "--port=0", f"--scheduler-file={file}")
    for _ in range(300):
        if file.exists() and file.stat().st_size:
            return str(file)
        time.sleep(0.2)
    pytest.fail((folder / "scheduler.log").read_text())


def worker(
    start: Callable[..., subprocess.Popen[bytes]], file: str, name: str, folder: Path, **env: str
) -> subprocess.Popen[bytes]:
    """Start a worker that has a cache of its own, as on another machine."""
    home = folder / name
    (home / "cache").mkdir(parents=True)
    arguments = ["--nthreads=1", "--no-nanny", f"--name={name}", f"--local-directory={home}"]
    return start(
        name,
        "worker",
        f"--scheduler-file={file}",
        *arguments,
        XDG_CACHE_HOME=str(home / "cache"),
        **env,
    )


def begun(folder: Path, name: str) -> None:
    """Wait until a worker has booted something."""
    for _ in range(3000):
        if any((folder / name).glob("cache/kvmharness/jobs/*/*/console.log")):
            return
        time.sleep(0.1)
    pytest.fail((folder / f"{name}.log").read_text())


def address(file: str) -> str:
    found: str = json.loads(Path(file).read_text())["address"]
    return found


def test_a_worker_that_is_killed_takes_nothing_along(
    expected: tuple[Path, float],
    start: Callable[..., subprocess.Popen[bytes]],
    tmp_path: Path,
) -> None:
    file = scheduler(start, tmp_path)
    worker(start, file, "one", tmp_path)
    other = worker(start, file, "other", tmp_path)
    folder = tmp_path / "runs"
    process = subprocess.Popen(
        command(folder, "--scheduler", address(file)), stderr=subprocess.PIPE, text=True
    )
    begun(tmp_path, "other")
    other.kill()
    _, said = process.communicate(timeout=1500)
    assert process.returncode == 0, said
    holds_the_same(folder, expected[0])


def test_a_worker_with_other_figures_raises_an_alarm_and_both_are_kept(
    start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    need_lab(CURED)
    (tmp_path / "bin").mkdir()
    faulty = tmp_path / "bin/qemu-system-x86_64"
    faulty.write_text(FAULTY.format(real=shutil.which("qemu-system-x86_64")))
    faulty.chmod(0o755)
    file = scheduler(start, tmp_path)
    worker(start, file, "one", tmp_path)
    path = f"{faulty.parent}:{os.environ['PATH']}"
    worker(start, file, "other", tmp_path, PATH=path)
    folder = tmp_path / "runs"
    done = measure(folder, "--scheduler", address(file), "--twice")
    assert done.returncode == 4, done.stderr
    assert "ALARM: " in done.stderr
    assert "both runs are kept" in done.stderr
    names = [path.name for path in folder.glob("*.json")]
    assert sum(".differing" in name for name in names) == JOBS
    assert len(names) == 2 * JOBS
