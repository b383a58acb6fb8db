"""What a user names to be read: nothing without an end is read, nobody is waited for."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from kvmharness import cache, cli, inputs
from kvmharness.errors import UsageError
from kvmharness.kernel import image, resolve, unpacking
from kvmharness.kernel.btf import Btf, BtfError
from kvmharness.model import explanation, note, runfile
from kvmharness.model.cases import MOST_CASES, select
from tests.kernel.test_image import make_deb
from tests.support import made_up_explanation
from tests.support.samples import made_up_run


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.json"
    runfile.write(path, made_up_run())
    return path


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def loop(path: Path) -> Path:
    path.symlink_to(path.name)
    return path


def listening(path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))
    return path


# By what is no file: how it is made, and what is said of it.
NO_FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "device": (lambda path: Path("/dev/zero"), "it is a device, no file"),
    "fifo": (fifo, "it is a FIFO, no file"),
    "socket": (listening, "it is a socket, no file"),
    "loop": (loop, "Too many levels of symbolic links"),
}
# By command: what is read of FILE.
READERS = {
    "show": ["show", "FILE"],
    "check": ["check", "FILE", "--expect", "*/cr0_wp class */kept"],
    "compare": ["compare", "GOOD", "FILE"],
    "report": ["report", "FILE", "-o", "OUT"],
    "export": ["export", "FILE", "--format", "csv"],
    "suite": ["run", "--list", "--suite", "FILE"],
    "doctor": ["doctor", "--kernel", "FILE"],
    "lab": ["lab", "FILE"],
    "check --lab": ["check", "FILE", "--lab", "--expect", "*/cr0_wp class */kept"],
}


def call(words: list[str], stands_for: dict[str, Path]) -> Result:
    """Run a command in this process, which is fast; whoever waits is ended by the time limit."""
    return CliRunner().invoke(cli.main, [str(stands_for.get(word, word)) for word in words])


@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_is_refused_in_one_line(
    tmp_path: Path, good: Path, reader: str, kind: str
) -> None:
    make, says = NO_FILES[kind]
    stands_for = {"FILE": make(tmp_path / "it"), "GOOD": good, "OUT": tmp_path / "out.html"}
    done = call(READERS[reader], stands_for)
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    # Of a kernel no more is said than that none of the kinds that are is there.
    assert says in done.stderr or "no such file, version or package" in done.stderr


@pytest.mark.parametrize("command", ["show", "report", "export", "compare", "check"])
def test_a_fifo_in_a_folder_blocks_nobody(tmp_path: Path, good: Path, command: str) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    fifo(folder / "a.json")
    stands_for = {"FILE": folder, "GOOD": good, "OUT": tmp_path / "out.html"}
    done = call(READERS[command], stands_for)
    assert done.exit_code == 2
    assert "a.json: it is a FIFO" in done.stderr


def test_a_note_that_is_a_fifo_is_none(tmp_path: Path) -> None:
    assert note.read(fifo(tmp_path / "a.note")) is None


def test_a_shells_pipe_is_read(good: Path) -> None:
    script = f"{sys.executable} -m kvmharness show <(cat '{good}')"
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert b"long64/cr0_wp" in done.stdout


def test_a_pipe_without_an_end_is_given_up() -> None:
    with subprocess.Popen(["yes"], stdout=subprocess.PIPE) as endless:
        assert endless.stdout
        path = f"/dev/fd/{endless.stdout.fileno()}"
        with pytest.raises(OSError, match="it holds more than 1 MiB"):
            inputs.read(path, 1 << 20)
        endless.kill()


def test_a_file_with_a_hole_of_a_terabyte_is_not_read(tmp_path: Path, good: Path) -> None:
    for name, says in (("a.json", "256 MiB"), ("a.deb", "4096 MiB"), ("vmlinuz", "4096 MiB")):
        path = tmp_path / name
        path.touch()
        os.truncate(path, 1 << 40)
        read = runfile.read if name == "a.json" else cache.digest if name == "a.deb" else image.read
        with pytest.raises(UsageError, match=f"it holds more than {says}"):
            read(path)


def test_a_package_of_zeros_is_given_up_and_nothing_of_it_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The real limit is some seconds of unpacking away.
    monkeypatch.setattr(unpacking, "MOST_OF_A_PACKAGE", 4 << 20)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    package = make_deb(tmp_path, {"boot/vmlinuz-1": bytes(8 << 20)})
    assert package.stat().st_size < 1 << 16
    with pytest.raises(UsageError, match=r"x\.deb: it holds more than 0 GiB, which no kernel does"):
        resolve.resolve(str(package))
    left = [p for p in (tmp_path / "cache").rglob("*") if p.is_file() and p.stat().st_size]
    assert left == []
    with pytest.raises(UsageError, match=r"x\.deb: it holds more than"):
        image.read(package)


def test_a_package_is_unpacked_as_ours_and_without_privileges(tmp_path: Path) -> None:
    package = make_deb(tmp_path, {"boot/vmlinuz-1": b"x"})
    into = tmp_path / "into"
    into.mkdir()
    unpacking.unpack_deb(package, into)
    found = (into / "boot/vmlinuz-1").stat()
    assert (found.st_uid, found.st_mode & 0o7777) == (os.geteuid(), 0o644)


def test_a_broken_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    package = make_deb(tmp_path, {"boot/vmlinuz-1": os.urandom(1 << 20)})
    package.write_bytes(package.read_bytes()[: 1 << 19])
    with pytest.raises(UsageError, match=r"unpack x\.deb: .+; is it a whole package\?"):
        resolve.resolve(str(package))


def test_a_key_that_comes_twice_is_refused(tmp_path: Path, good: Path) -> None:
    text = good.read_text()
    path = tmp_path / "twice.json"
    path.write_text(text.replace('"clock": "tsc"', '"clock": "insn", "clock": "tsc"', 1))
    assert path.read_text() != text
    with pytest.raises(UsageError, match="not a run: the key 'clock' comes twice; measure again"):
        runfile.read(path)


def test_a_key_that_comes_twice_in_an_explanation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "explain.json"
    explanation.write(path, made_up_explanation.file())
    path.write_text(path.read_text().replace('"case":', '"case":"x","case":', 1))
    with pytest.raises(UsageError, match="the key 'case' comes twice"):
        explanation.read(path)


def test_a_number_that_python_refuses_is_no_traceback(good: Path) -> None:
    """Python turns no integer of 5,000 digits into one of its own."""
    text = good.read_bytes()
    for digits in (b"9" * 5000, b"1" + b"0" * 300, b"-" + b"9" * 5000):
        odd = text.replace(b"{", b'{"unknown": ' + digits + b",", 1)
        with contextlib.suppress(UsageError):
            runfile.decode(odd, good)


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"schema":' * 100_000])
def test_json_of_many_levels_is_one_line(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "deep.json"
    path.write_bytes(text)
    for read in (runfile.read, explanation.read):
        with pytest.raises(UsageError, match=r"deep\.json") as caught:
            read(path)
        assert "\n" not in str(caught.value)
    assert not explanation.is_one(path)


def test_a_million_cases_are_refused_in_bounded_memory(tmp_path: Path) -> None:
    whole = msgspec.json.decode(runfile.encode(made_up_run()))
    whole["cases"] = []
    case = b'{"name":"long64/empty","mode":"long64","op":"empty","params":{}}'
    text = msgspec.json.encode(whole)
    data = text.replace(b'"cases":[]', b'"cases":[' + b",".join([case] * 1_000_000) + b"]")
    tracemalloc.start()
    try:
        with pytest.raises(UsageError, match=r"a\.json: not a run: 1,000,000 cases, over 10,000"):
            runfile.decode(data, "a.json")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5 * len(data)


def test_more_cases_than_a_run_may_have_are_not_begun() -> None:
    patterns = [f"long64/*@pages={n}" for n in range(1, MOST_CASES)]
    with pytest.raises(UsageError, match="over 10,000 cases with it; name fewer"):
        select(patterns)


def test_btf_that_says_it_has_a_billion_types_is_refused() -> None:
    header = b"\x9f\xeb\x01\x00" + (24).to_bytes(4, "little")
    sizes = [0, 12 * 10**9 & 0xFFFFFFFF, 0, 1]
    data = header + b"".join(n.to_bytes(4, "little") for n in sizes) + b"\0"
    with pytest.raises(BtfError, match="its types end at byte"):
        Btf.parse(data)
    with pytest.raises(BtfError, match="65 MiB are more than any kernel's"):
        Btf.parse(bytes(65 << 20))


def test_a_struct_of_more_members_than_btf_allows_is_refused() -> None:
    members = 100_000
    record = (1).to_bytes(4, "little") + (4 << 24 | members).to_bytes(4, "little") + bytes(4)
    types = record + bytes(12 * members)
    strings = b"\0kvm_mmu\0"
    sizes = [0, len(types), len(types), len(strings)]
    header = b"\x9f\xeb\x01\x00" + (24).to_bytes(4, "little")
    data = header + b"".join(n.to_bytes(4, "little") for n in sizes) + types + strings
    with pytest.raises(BtfError, match="a struct of 100000 members"):
        Btf.parse(data).struct("kvm_mmu")
