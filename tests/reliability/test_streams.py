"""stdout, stderr and signals as a shell has them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kvmharness.model import runfile
from tests.support.samples import made_up_run

KVMHARNESS = [sys.executable, "-m", "kvmharness"]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.json"
    runfile.write(path, made_up_run())
    return path


def command(words: str, good: Path) -> list[str]:
    return [*KVMHARNESS, *(str(good) if word == "FILE" else word for word in words.split())]


WRITERS = [
    "show FILE",
    "show FILE --plot",
    "compare FILE FILE",
    "export FILE --format csv",
    "check FILE --expect */cr0_wp<9ns",
    "run --list *",
    "--help",
    "run --help",
    "--version",
]


def writer(words: str, good: Path) -> list[str]:
    return [w.replace("<", " < ").replace("9ns", "9 ns") for w in command(words, good)]


@pytest.mark.parametrize("words", WRITERS)
def test_a_reader_that_left_ends_it_by_sigpipe(good: Path, words: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            writer(words, good), stdout=writing, stderr=subprocess.PIPE, check=False, timeout=60
        )
    finally:
        os.close(writing)
    assert done.returncode == -signal.SIGPIPE
    assert done.stderr == b""


@pytest.mark.parametrize("words", WRITERS[:3])
@pytest.mark.parametrize("closed", ["stdin", "stdout", "stderr", "all"])
def test_closed_streams_give_no_traceback(good: Path, words: str, closed: str) -> None:
    how = {"stdin": "<&-", "stdout": ">&-", "stderr": "2>&-", "all": "<&- >&- 2>&-"}[closed]
    done = subprocess.run(
        ["sh", "-c", f'"$@" {how}', "sh", *writer(words, good)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    if closed == "stdout":
        assert done.returncode == 2
        assert done.stderr == "kvmharness: stdout is closed; send it elsewhere\n"
    elif closed != "all":
        assert done.returncode in (0, 1, 3)
        assert done.stdout


@pytest.mark.parametrize("words", WRITERS[1:3])
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_encoding_that_lacks_characters_gets_escapes(
    good: Path, words: str, encoding: str
) -> None:
    done = subprocess.run(
        writer(words, good),
        capture_output=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    assert done.returncode in (0, 1, 3)
    assert b"Traceback" not in done.stderr
    assert done.stdout


def test_a_full_stdout_is_blamed_and_no_temporary_file_is(good: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command("show FILE", good),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 2
    assert done.stderr == "kvmharness: stdout: No space left on device; send it elsewhere\n"


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (24, "files: no more may be open at once; raise the limit (ulimit -n 1024)"),
        (12, "memory: there is no more to be had; free some, or raise the limit (ulimit -v)"),
        (28, "temporary files: No space left on device; make room, or set TMPDIR to another"),
        (11, "processes: no more may be started; raise the limit (ulimit -u)"),
    ],
)
def test_what_the_system_refuses_is_not_blamed_on_stdout(
    good: Path, number: int, says: str
) -> None:
    # None of them can be had at a chosen place, so a function that fails so is put there.
    code = (
        f"def fail(*a, **k): raise OSError({number}, __import__('os').strerror({number}))\n"
        "import kvmharness.model.runfile as f; f.read = fail\n"
        "import kvmharness.cli; kvmharness.cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "show", str(good)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"kvmharness: {says}")
    assert done.stderr.count("\n") == 1


# Counts imports from the program's first line on, and is interrupted at the chosen one.
INTERRUPTED = """
import os, sys
import kvmharness.__main__
def hook(event, arguments):
    global left
    if event == "import":
        left -= 1
        if not left: os.kill(os.getpid(), {number})
left = {at}
sys.addaudithook(hook)
kvmharness.__main__.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_is_loaded_gives_no_traceback(good: Path, number: int) -> None:
    codes = set()
    for at in (2, 40, 120, 200, 300):
        code = INTERRUPTED.format(number=int(number), at=at)
        done = subprocess.run(
            [sys.executable, "-c", code, "show", str(good)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.stderr == "", at
        codes.add(done.returncode)
    assert codes >= {-number, 130}


def test_what_was_ignored_stays_ignored(good: Path) -> None:
    """nohup has SIGHUP ignored, a shell SIGINT for what it starts with &."""
    code = (
        "import signal\n"
        "for n in (signal.SIGHUP, signal.SIGINT): signal.signal(n, signal.SIG_IGN)\n"
        "import kvmharness.analysis.load as load, os\n"
        "real = load.one\n"
        "def hit(path):\n"
        "    os.kill(os.getpid(), signal.SIGHUP); os.kill(os.getpid(), signal.SIGINT)\n"
        "    return real(path)\n"
        "load.one = hit\n"
        "import kvmharness.__main__; kvmharness.__main__.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "show", str(good)], capture_output=True, check=False
    )
    assert done.returncode == 0
    assert b"long64/cr0_wp" in done.stdout


def test_an_explanation_is_written_before_a_reader_can_leave(tmp_path: Path) -> None:
    code = (
        "import kvmharness.commands.explaining as e\n"
        "from tests.support.made_up_explanation import file\n"
        "e.explain, e.wanted = lambda *_: file(), lambda *_: []\n"
        "import kvmharness.cli; kvmharness.cli.main()"
    )
    words = ["explain", "long64/cr0_wp", "--lab", "a-kernel", "-o", str(tmp_path / "explained")]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, "")
    assert (tmp_path / "explained/explain.json").stat().st_size
