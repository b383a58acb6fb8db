"""The capsule: what is in it, that it is the same for the same files, and new for others."""

from __future__ import annotations

import importlib.util
import marshal
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmharness import cache
from kvmharness.errors import UsageError
from kvmharness.lab import capsule
from tests.lab.test_cpio import read

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    need_tools()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def need_tools() -> None:
    missing = [tool for tool in ("busybox", "ldd", "strip") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {' '.join(missing)}")


def entries(part: capsule.Part) -> dict[str, bytes]:
    return {e.path: e.data for e in read(part.path.read_bytes())}


def test_the_base_has_what_the_inside_loads_and_nothing_of_the_analysis() -> None:
    found = entries(capsule.base())
    library = capsule.LIBRARY
    assert f"{library}/kvmharness/lab/inside.pyc" in found
    assert f"{library}/kvmharness/blobs/long64.bin" in found
    assert f"{library}/os.pyc" in found
    assert {"init", "bin/busybox", "bin/insmod", "dev/console", "usr/bin/python3"} <= set(found)
    assert "lib64/ld-linux-x86-64.so.2" in found
    assert not [p for p in found if any(x in p for x in ("numpy", "scipy", "rich", "elftools"))]
    assert not [p for p in found if p.endswith(".py")]


def test_bytecode_is_never_checked_and_names_no_folder_of_the_hosts() -> None:
    found = entries(capsule.base())
    for path, data in found.items():
        if path.endswith(".pyc"):
            assert data[:4] == importlib.util.MAGIC_NUMBER
            assert data[4:8] == b"\1\0\0\0", path  # PEP 552: by hash, unchecked
            assert marshal.loads(data[16:]).co_filename == "/" + path[:-1]


def test_the_same_files_give_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = capsule.base()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    second = capsule.base()
    assert first.path != second.path
    assert first.sha256 == second.sha256 == cache.digest(second.path)
    assert first.path.read_bytes() == second.path.read_bytes()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a module of ours that can be imported."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "a_module.py"


def test_it_is_made_once_and_anew_when_a_file_has_changed(module: Path) -> None:
    module.write_text("x = 1\n")
    first = capsule.base(("a_module",))
    made = first.path.stat()
    assert capsule.base(("a_module",)) == first
    assert first.path.stat().st_mtime_ns == made.st_mtime_ns
    module.write_text("x = 2\n")
    second = capsule.base(("a_module",))
    module.write_text("import colorsys\n")
    third = capsule.base(("a_module",))
    assert len({first.sha256, second.sha256, third.sha256}) == 3
    assert f"{capsule.LIBRARY}/colorsys.pyc" in entries(third)


def test_only_the_last_few_are_kept(module: Path) -> None:
    for number in range(capsule.KEPT + 2):
        module.write_text(f"x = {number}\n")
        last = capsule.base(("a_module",))
        os.utime(last.path.parent, (number, number))
    folders = [p for p in cache.folder("capsules").iterdir() if p.is_dir()]
    assert len(folders) == capsule.KEPT
    assert last.path.exists()


def test_one_that_was_used_a_moment_ago_is_not_removed(module: Path) -> None:
    for number in range(capsule.KEPT + 2):
        module.write_text(f"x = {number}\n")
        capsule.base(("a_module",))
    folders = [p for p in cache.folder("capsules").iterdir() if p.is_dir()]
    assert len(folders) == capsule.KEPT + 2


def test_one_that_is_removed_before_it_is_used_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another process does that makes a ninth archive just then."""
    module = tmp_path / "a_module.py"
    module.write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    real, made = cache.made_once, 0

    def made_and_lost(path: Path, make: Callable[[Path], None]) -> Path:
        nonlocal made
        made += 1
        real(path, make)
        if made == 1:
            shutil.rmtree(path)
        return path

    monkeypatch.setattr(cache, "made_once", made_and_lost)
    part = capsule.base(("a_module",))
    assert made == 2
    assert cache.digest(part.path) == part.sha256


def test_perf_is_a_part_of_its_own_with_its_libraries() -> None:
    part = capsule.perf()
    if part is None:
        pytest.skip("not installed: perf")
    found = entries(part)
    assert "bin/perf" in found
    assert "lib/libelf.so.1" in found
    assert "bin/perf" not in entries(capsule.base())


def test_a_module_that_cannot_be_loaded_is_one_line() -> None:
    with pytest.raises(UsageError, match="no_such_module"):
        capsule.base(("no_such_module",))


def test_a_job_lies_where_the_inside_looks(tmp_path: Path) -> None:
    capsule.job(tmp_path / "job", {"job.json": b"{}"})
    found = {e.path: e.data for e in read((tmp_path / "job").read_bytes())}
    assert found["job/job.json"] == b"{}"
    assert b"inside" in found["job/start"]


def unpacked(part: capsule.Part, into: Path) -> Path:
    for entry in read(part.path.read_bytes()):
        path = into / entry.path
        if entry.mode & 0o170000 == 0o040000:
            path.mkdir()
        elif entry.mode & 0o170000 == 0o120000:
            path.symlink_to(entry.data.decode())
        elif entry.mode & 0o170000 == 0o100000:
            path.write_bytes(entry.data)
            path.chmod(entry.mode & 0o777)
    return into


def test_the_inside_loads_from_the_capsule_alone(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root may change its root folder")
    root = tmp_path / "root"
    root.mkdir()
    unpacked(capsule.base(), root)
    code = f"import {capsule.INSIDE} as inside, subprocess, sys; print(inside.__file__, sys.path)"
    command = ["chroot", str(root), "/usr/bin/python3", *capsule.OPTIONS, "-c", code]
    env = {**os.environ, "LD_LIBRARY_PATH": "/lib"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"/{capsule.LIBRARY}/kvmharness/lab/inside.pyc")
    assert str(Path(sys.prefix)) not in done.stdout.replace("/usr", "")


def test_a_part_that_is_gone_is_told(tmp_path: Path) -> None:
    place = tmp_path / "key"
    place.mkdir()
    os.utime(place, (0, 0))
    capsule.spare([capsule.Part(place / "part.cpio", "")])
    assert place.stat().st_mtime > 0
    place.rmdir()
    with pytest.raises(UsageError, match="taken out of the cache"):
        capsule.spare([capsule.Part(place / "part.cpio", "")])


@pytest.mark.parametrize("python", ["/usr/bin/python3"])
def test_debians_python_makes_one_too(python: str, tmp_path: Path) -> None:
    """The libraries of the tests' own Python serve: only the interpreter is another."""
    if not Path(python).exists() or version_of(python) != sys.version_info[:2]:
        pytest.skip(f"{python} is not of this Python's version")
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from kvmharness.lab import capsule; print(capsule.interpreter(), capsule.base().path)"
    )
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(os.path.realpath(python))


def version_of(python: str) -> tuple[int, ...]:
    code = "import sys; print(*sys.version_info[:2])"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return tuple(map(int, done.stdout.split()))
