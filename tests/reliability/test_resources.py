"""Too little of everything: one line says of what, and what was measured is kept."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmharness.model import runfile
from tests.support import cgroups
from tests.support.samples import made_up_run
from tests.support.small_disk import small_disk

FEW = ["--vms", "1", "--samples", "4", "--iterations", "5", "--precision", "100"]
RUN = ["run", "long64/empty", *FEW]


def call(
    *words: str,
    first: Callable[[], object] | None = None,
    env: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run the command line; `first` is done in its process before."""
    return subprocess.run(
        [sys.executable, "-m", "kvmharness", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **(env or {})},
        preexec_fn=first,
    )


def limited(what: int, value: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(what, (value, value))


def one_line(said: str) -> str:
    assert said.count("\n") == 1, said
    assert said.startswith("kvmharness: "), said
    return said


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.json"
    runfile.write(path, made_up_run())
    return path


@pytest.mark.parametrize("mib", [40, 100, 150, 250])
def test_too_little_address_space_is_said_and_hangs_nobody(good: Path, mib: int) -> None:
    """numpy's library ended us by exit code 1, a regression's, or tried again for ever."""
    done = call("show", str(good), first=limited(resource.RLIMIT_AS, mib << 20))
    assert done.returncode == 2
    assert f"memory: the limit is {mib} MiB, 384 are needed" in one_line(done.stderr)


def test_just_enough_address_space_is_enough(good: Path, tmp_path: Path) -> None:
    enough = limited(resource.RLIMIT_AS, 384 << 20)
    for words in (["show", str(good)], ["compare", str(good), str(good)]):
        assert call(*words, first=enough).returncode in (0, 3)
    done = call("report", str(good), "-o", str(tmp_path / "out.html"), first=enough)
    assert done.returncode == 0, done.stderr


@pytest.mark.kvm
@pytest.mark.parametrize("files", [6, 9, 12])
def test_too_few_open_files_are_said(files: int) -> None:
    done = call(*RUN, first=limited(resource.RLIMIT_NOFILE, files))
    assert "stdout" not in done.stderr
    assert done.returncode in (0, 2, 3, 4)
    if done.returncode in (2, 4):
        said = one_line(done.stderr)
        assert "files: no more may be open" in said or "EMFILE: Too many open files" in said


@pytest.mark.kvm
def test_a_file_that_may_not_grow_costs_nothing_that_was_measured(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    runfile.write(path, made_up_run())
    before = path.read_bytes()
    done = call(*RUN, "-o", str(path), first=limited(resource.RLIMIT_FSIZE, 1000))
    assert done.returncode == 2
    assert f"write {path}: File too large" in done.stderr
    assert "long64/empty" in done.stdout
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.kvm
def test_a_full_disk_costs_nothing_that_was_measured(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "16k") as small:
        path, saved = small / "a.json", tmp_path / "saved"
        saved.mkdir()
        (small / "filler").write_bytes(bytes(12 << 10))
        done = call(*RUN, "-o", str(path), env={"TMPDIR": str(saved)})
        assert done.returncode == 2
        assert "No space left on device; name another file" in done.stderr
        assert [p.name for p in small.iterdir()] == ["filler"]
    (rescued,) = saved.glob("kvmharness-*.json")
    assert len(runfile.read(rescued).cases[0].samples) == 4


@pytest.mark.kvm
def test_a_full_folder_for_temporary_files_is_a_reason(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "8k") as small:
        (small / "filler").write_bytes(bytes(4 << 10))
        path = tmp_path / "a.json"
        done = call(*RUN, "-o", str(path), env={"TMPDIR": str(small)})
        assert done.returncode in (0, 3), done.stderr
        assert runfile.read(path).finished
        assert [p.name for p in small.iterdir()] == ["filler"]


@pytest.mark.parametrize("folder", ["/nonexistent", "/proc"])
def test_a_tmpdir_that_takes_nothing_is_left_for_another(good: Path, folder: str) -> None:
    assert call("show", str(good), env={"TMPDIR": folder}).returncode == 0


def test_a_read_only_disk_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "64k") as small:
        subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
        begun = time.monotonic()
        done = call("run", "-o", str(small / "a.json"))
        assert done.returncode == 2
        assert "Read-only file system; name another file" in one_line(done.stderr)
        assert time.monotonic() - begun < 30


@pytest.mark.kvm
def test_a_folder_that_vanished_costs_nothing_that_was_measured(tmp_path: Path) -> None:
    folder, saved = tmp_path / "results", tmp_path / "saved"
    folder.mkdir()
    saved.mkdir()
    code = (
        "import shutil, sys\n"
        "import kvmharness.measure.counting as c\n"
        "real = c.Counting.count\n"
        f"def count(*a): shutil.rmtree({str(folder)!r}, ignore_errors=True); return real(*a)\n"
        "c.Counting.count = count\n"
        "import kvmharness.cli; kvmharness.cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *RUN, "-o", str(folder / "a.json")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "TMPDIR": str(saved)},
    )
    assert done.returncode == 2
    assert "No such file or directory; name another file" in done.stderr
    assert "long64/empty" in done.stdout
    (rescued,) = saved.glob("kvmharness-*.json")
    assert len(runfile.read(rescued).cases[0].samples) == 4


@pytest.mark.kvm
def test_one_cpu_is_enough(tmp_path: Path) -> None:
    cpu = min(os.sched_getaffinity(0))
    path = tmp_path / "a.json"
    done = call(*RUN, "-o", str(path), first=lambda: os.sched_setaffinity(0, {cpu}))
    assert done.returncode in (0, 3), done.stderr
    assert runfile.read(path).settings.cpu == cpu
    two = call("run", "long64/empty@vcpus=2", *FEW, first=lambda: os.sched_setaffinity(0, {cpu}))
    assert two.returncode == 77
    assert "2 vCPUs on 1 CPUs would take turns" in two.stdout


@pytest.fixture
def group() -> Path:
    """A cgroup of our own that limits memory."""
    for root in (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")):
        made = root / f"kvmharness-test-{os.getpid()}"
        try:
            made.mkdir()
        except OSError:
            continue
        if (made / "memory.max").exists() or (made / "memory.limit_in_bytes").exists():
            return made
        made.rmdir()
    pytest.skip("no memory cgroup can be had here")


@pytest.mark.kvm
def test_a_cgroup_that_kills_leaves_a_whole_file(group: Path, tmp_path: Path) -> None:
    """The kernel ends who takes more than the group has: as kill -9 does."""
    path = tmp_path / "a.json"
    runfile.write(path, made_up_run())
    limit = next(group / n for n in ("memory.max", "memory.limit_in_bytes") if (group / n).exists())
    limit.write_text(str(24 << 20))
    try:
        done = call(
            *RUN,
            "-o",
            str(path),
            first=lambda: (group / "cgroup.procs").write_text(str(os.getpid())),
        )
    finally:
        shutil.rmtree(group, ignore_errors=True)
        cgroups.remove(group)
    assert done.returncode in (0, 2, 3, 4, -9)
    assert "Traceback" not in done.stderr
    assert runfile.read(path).cases
