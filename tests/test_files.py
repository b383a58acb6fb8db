"""Files that a user names: no node is replaced, no link, no permission, no earlier result."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvmharness import files
from kvmharness.errors import UsageError
from kvmharness.files import Output
from kvmharness.lab.matrix import _keep
from kvmharness.lab.planning import LabPlan, Result, Target, check_folder
from kvmharness.model import runfile
from tests.support.samples import made_up_run

Call = Callable[..., "subprocess.CompletedProcess[str]"]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes nodes, owners")
NOT_ROOT = pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
# As /dev/null and /dev/full are made; the tests touch none but their own.
NULL, FULL = os.makedev(1, 3), os.makedev(1, 7)


def node(path: Path, device: int, kind: int = stat.S_IFCHR) -> Path:
    os.mknod(path, kind | 0o666, device)
    return path


def write(path: Path, data: bytes = b"new") -> Output:
    output = Output(path)
    output.save(b"so far")
    output.write(data)
    return output


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        write(path)
    return str(caught.value)


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "made.json"
    runfile.write(path, made_up_run())
    return path


@needs_root
def test_a_device_is_written_to(tmp_path: Path) -> None:
    path = node(tmp_path / "null", NULL)
    assert write(path).kept is None
    assert stat.S_ISCHR(path.stat().st_mode)
    assert [p.name for p in tmp_path.iterdir()] == ["null"]


@needs_root
def test_a_full_device_is_one_line_and_stays(tmp_path: Path) -> None:
    path = node(tmp_path / "full", FULL)
    assert refusal(path) == f"write {path}: No space left on device; name another file"
    assert stat.S_ISCHR(path.stat().st_mode)


@needs_root
def test_a_block_device_is_refused_beforehand(tmp_path: Path) -> None:
    path = node(tmp_path / "disk", os.makedev(7, 250), stat.S_IFBLK)
    with pytest.raises(UsageError, match="it is a block device; name a file"):
        Output(path)


def test_a_socket_is_refused_beforehand(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        with pytest.raises(UsageError, match="it is a socket; name a file"):
            Output(tmp_path / "socket")


def reading(path: Path) -> Iterator[bytes]:
    """Read a FIFO to its end beside us, and yield what came."""
    came: list[bytes] = []
    reader = threading.Thread(target=lambda: came.append(path.read_bytes()), daemon=True)
    reader.start()
    yield b""
    reader.join(20)
    yield came[0]


def test_a_fifo_is_given_the_result_once(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = reading(path)
    next(reader)
    write(path)
    assert next(reader) == b"new"
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_where_stdout_goes_is_not_replaced(tmp_path: Path, run_file: Path) -> None:
    out = tmp_path / "out"
    command = outputs("export", run_file, Path("/proc/self/fd/1"))
    with out.open("wb") as file:
        done = subprocess.run(
            [sys.executable, "-m", "kvmharness", *command],
            stdout=file,
            check=False,
            timeout=60,
        )
    assert done.returncode == 0
    assert b"long64/cr0_wp" in out.read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"out", "made.json"}


def test_a_links_target_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target = tmp_path / "there/file"
    link = tmp_path / "link"
    link.symlink_to("there/file")
    write(link, b"first")  # it points to nothing yet
    output = write(link, b"second")
    assert link.is_symlink()
    assert target.read_bytes() == b"second"
    assert output.kept == tmp_path / "there/file~"
    assert output.kept.read_bytes() == b"first"


def test_a_link_to_itself_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert "Too many levels of symbolic links" in refusal(tmp_path / "loop")


def test_a_new_file_obeys_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "file")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_the_mode_of_an_existing_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o620)
    assert stat.S_IMODE((write(path).kept or path).stat().st_mode) == 0o620
    assert stat.S_IMODE(path.stat().st_mode) == 0o620


@needs_root
def test_the_owner_of_an_existing_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    os.chown(path, 65534, 65533)
    write(path)
    assert (path.stat().st_uid, path.stat().st_gid) == (65534, 65533)


@NOT_ROOT
def test_a_file_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o444)
    assert "Permission denied" in refusal(path)


def test_what_a_file_held_is_kept_under_the_first_free_name(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for number in (1, 2, 3):
        write(path, b"%d" % number)
    held = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert held == {"file": b"3", "file~": b"1", "file~2": b"2"}


def test_the_same_result_again_keeps_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    (tmp_path / "file").write_bytes(b"")  # as mktemp leaves it
    for _ in range(3):
        output = Output(path)
        output.write(b"same")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_without_hard_links_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A file system that has none (vfat) cannot be mounted by every user, so the call is replaced.
    def link(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    path = tmp_path / "file"
    for number in (1, 2, 3):
        write(path, b"%d" % number)
    assert {p.name for p in tmp_path.iterdir()} == {"file", "file~", "file~2"}


def test_a_write_that_fails_leaves_all_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    output = Output(path)
    with pytest.raises(TypeError):
        output.write("no bytes")  # type: ignore[arg-type]
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"file": b"old"}


def test_writability_is_checked_beforehand(tmp_path: Path) -> None:
    files.check_writable(tmp_path / "new.json")
    assert list(tmp_path.iterdir()) == []
    for path in (tmp_path, tmp_path / "none" / "x.json"):
        with pytest.raises(UsageError, match="name a"):
            files.check_writable(path)


def outputs(command: str, run_file: Path, output: Path) -> list[str]:
    options = ["--format", "csv"] if command == "export" else []
    return [command, str(run_file), *options, "-o", str(output)]


@pytest.mark.parametrize("command", ["report", "export"])
def test_a_run_named_as_output_by_mistake_is_kept(
    kvmharness: Call, run_file: Path, command: str
) -> None:
    before = run_file.read_bytes()
    done = kvmharness(*outputs(command, run_file, run_file))
    assert done.returncode == 0
    kept = Path(f"{run_file}~")
    assert kept.read_bytes() == before
    assert f"what {run_file} held is now {kept}" in done.stderr


@needs_root
@pytest.mark.parametrize("command", ["report", "export"])
def test_a_full_device_is_exit_2(
    kvmharness: Call, run_file: Path, tmp_path: Path, command: str
) -> None:
    full = node(tmp_path / "full", FULL)
    done = kvmharness(*outputs(command, run_file, full))
    assert done.returncode == 2
    assert "full: No space left on device; name another file" in done.stderr
    assert stat.S_ISCHR(full.stat().st_mode)


FAST = ("--vms", "2", "--samples", "4", "--iterations", "20", "--precision", "100")


@needs_root
@pytest.mark.kvm
def test_a_full_device_leaves_the_figures_of_a_run(kvmharness: Call, tmp_path: Path) -> None:
    full = node(tmp_path / "full", FULL)
    done = kvmharness("run", "long64/empty", "-o", str(full), *FAST)
    assert done.returncode == 2
    assert "long64/empty" in done.stdout
    saved, refused = done.stderr.splitlines()
    assert saved.startswith("kvmharness: what was measured is in ")
    Path(saved.split()[-1]).unlink()
    assert refused == f"kvmharness: write {full}: No space left on device; name another file"
    assert stat.S_ISCHR(full.stat().st_mode)


@pytest.mark.kvm
def test_a_run_to_a_fifo_is_a_whole_result(kvmharness: Call, tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = reading(path)
    next(reader)
    done = kvmharness("run", "long64/empty", "-o", str(path), *FAST)
    assert done.returncode == 0
    copy = tmp_path / "copy.json"
    copy.write_bytes(next(reader))
    assert runfile.read(copy).finished


def in_lab(folder: Path) -> Result:
    """Keep a made-up result as a lab does: booting a kernel for it would show nothing more."""
    from kvmharness.kernel.resolve import Kernel  # noqa: PLC0415
    from kvmharness.kernel.variants import parse  # noqa: PLC0415
    from kvmharness.lab.machines import TCG_SVM  # noqa: PLC0415

    target = Target(Kernel("made-up", "6.1", Path("vmlinuz"), None, "6.1"), parse("tdp"), TCG_SVM)
    check_folder(folder, [target])
    result = Result(target, made_up_run())
    _keep(result, LabPlan([], {}, None, None, folder), folder)
    return result


def test_a_labs_folder_keeps_what_it_held(tmp_path: Path) -> None:
    (tmp_path / "6.1-tdp.json").write_bytes(b"an earlier one")
    result = in_lab(tmp_path)
    assert [o.kept for o in result.outputs] == [tmp_path / "6.1-tdp.json~", None]
    assert (tmp_path / "6.1-tdp.json~").read_bytes() == b"an earlier one"
    assert runfile.read(tmp_path / "6.1-tdp.json") == made_up_run()


def test_a_labs_folder_is_checked_for_each_file(tmp_path: Path) -> None:
    (tmp_path / "6.1-tdp.log").mkdir()
    with pytest.raises(UsageError, match=r"6.1-tdp\.log: it is a folder"):
        in_lab(tmp_path)


KILLED = (
    "import os, signal, sys; from pathlib import Path; from kvmharness import files\n"
    "os.replace = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
    "files.write_whole(Path(sys.argv[1]), b'new')"
)


def test_what_a_killed_write_left_is_swept_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    (tmp_path / ".a.json.notours").touch()
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -9
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 3
    files.check_writable(path)
    assert {p.name for p in tmp_path.iterdir()} == {"a.json", ".a.json.notours"}


def test_a_write_under_way_is_not_swept(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    descriptor, name = files._scratch(path)
    write(path)
    assert Path(name).exists()
    os.close(descriptor)
    write(path)
    assert not Path(name).exists()


def test_many_writers_of_one_file_do_not_fail(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    failed: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(50):
                files.write_whole(path, b"whole")
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
