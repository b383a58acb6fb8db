"""A bug is reported as one, with a code of its own, and costs nothing that was measured.

There is no bug to be had on demand, so these tests put one into a process of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from kvmharness.analysis import exit_codes
from kvmharness.errors import EXIT_BUG, LabBug
from kvmharness.kernel import resolve
from kvmharness.kernel.resolve import Kernel
from kvmharness.kernel.variants import parse
from kvmharness.lab import inside, matrix, packing
from kvmharness.lab.job import OUTCOME, RUN, JobOutcome
from kvmharness.lab.machines import TCG_SVM
from kvmharness.lab.planning import LabPlan, Result, Target
from kvmharness.lab.wire import Receiver, Sender
from kvmharness.model import runfile
from tests.support.samples import made_up_run

BUG = "def bug(*a, **k): raise ZeroDivisionError('of a bug')\n"
FAST = ("--vms", "2", "--samples", "4", "--iterations", "20", "--precision", "100")


def call(put: str, *arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line with a function replaced by one that fails."""
    code = f"{BUG}{put}\nimport kvmharness.cli\nkvmharness.cli.main()"
    environment = {**os.environ, "TMPDIR": str(folder)} if folder else None
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=environment,
    )


READING = "import kvmharness.model.runfile as f; f.read = bug"


def test_a_bug_is_code_70_and_says_what_to_report() -> None:
    done = call(READING, "show", "a.json")
    assert done.returncode == EXIT_BUG == 70
    first, second, *trace = done.stderr.splitlines()
    assert (
        first
        == "kvmharness: bug: ZeroDivisionError: of a bug; please report it with the lines below"
    )
    assert "Python" in second
    assert "['show', 'a.json']" in second
    assert trace[0].startswith("Traceback")


def test_an_end_of_file_error_is_not_clicks_exit_1() -> None:
    put = "def bug(*a, **k): raise EOFError('of a bug')\n" + READING
    assert call(put, "show", "a.json").returncode == EXIT_BUG


def test_a_bug_while_options_are_read_is_code_70() -> None:
    put = "import kvmharness.commands.options as o; o.Number.convert = bug"
    assert call(put, "run", "--precision", "1").returncode == EXIT_BUG


@pytest.mark.parametrize(
    ("module", "words", "said"),
    [
        (
            "kvmharness.kvm._core",
            ("run", "--vms", "1"),
            "kvmharness.kvm._core is not built; make bench in the checkout, or pip install it",
        ),
        (
            "click",
            ("check", "a.json", "--bisect"),
            "Python's module click is not installed; pip install it",
        ),
        ("click", ("doctor",), "Python's module click is not installed; pip install it"),
        ("rich", ("compare", "a", "b"), "Python's module rich is not installed; pip install it"),
    ],
)
def test_what_is_not_installed_is_no_bug(module: str, words: tuple[str, ...], said: str) -> None:
    """As in a checkout of which nothing was built, by whatever Python is at hand."""
    missing = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}: raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        f"sys.argv[1:] = {list(words)}\n"
        "from kvmharness.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", missing], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == (128 if "--bisect" in words else 2)
    assert done.stderr == f"kvmharness: set-up: {said}\n"


def test_a_bug_blames_no_commit() -> None:
    done = call(READING, "check", "a.json", "--bisect", "--expect", "*/cr0_wp class */kept")
    assert done.returncode == 128


def test_an_error_of_the_system_that_is_not_stdouts_is_a_bug() -> None:
    put = "def bug(*a, **k): raise OSError(9, 'Bad file descriptor')\n" + READING
    done = call(put, "show", "a.json")
    assert done.returncode == EXIT_BUG
    assert "stdout" not in done.stderr.splitlines()[0]


def test_a_closed_stdout_is_one_line() -> None:
    command = f"exec {sys.executable} -m kvmharness run --list >&-"
    done = subprocess.run(
        ["sh", "-c", command], stderr=subprocess.PIPE, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr == "kvmharness: stdout is closed; send it elsewhere\n"


@pytest.mark.kvm
def test_what_was_measured_is_saved_where_stdout_is_full(tmp_path: Path) -> None:
    """An hour of measuring is not lost to a full disk, which its reader does not see."""
    command = [sys.executable, "-m", "kvmharness", "run", "long64/empty", *FAST]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
    assert done.returncode == 2
    (path,) = tmp_path.glob("kvmharness-*.json")
    assert done.stderr == (
        f"kvmharness: what was measured is in {path}\n"
        "kvmharness: stdout: No space left on device; send it elsewhere\n"
    )
    assert len(runfile.read(path).cases[0].samples) == 4


MEASURING = [
    "import kvmharness.analysis.summary as s; s.summarise = bug",
    "import kvmharness.render.tables as t; t.show_run = bug",
    "import kvmharness.measure.counting as c; c.Counting.count = bug",
]


@pytest.mark.kvm
@pytest.mark.parametrize("put", MEASURING, ids=["statistics", "table", "counting"])
def test_a_bug_costs_nothing_that_was_measured(put: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    done = call(put, "run", "long64/empty", *FAST, "-o", str(path))
    assert done.returncode == EXIT_BUG, done.stderr
    assert len(runfile.read(path).cases[0].samples) == 4


@pytest.mark.kvm
@pytest.mark.parametrize("put", MEASURING, ids=["statistics", "table", "counting"])
def test_a_bug_without_a_file_named_saves_what_was_measured(put: str, tmp_path: Path) -> None:
    done = call(put, "run", "long64/empty", *FAST, folder=tmp_path)
    assert done.returncode == EXIT_BUG, done.stderr
    (path,) = tmp_path.glob("kvmharness-*.json")
    assert f"what was measured is in {path}" in done.stderr
    assert len(runfile.read(path).cases[0].samples) == 4


def targets() -> list[Target]:
    names = ("bad", "good")
    return [Target(Kernel(n, n, Path("vmlinuz"), None, n), parse("tdp"), TCG_SVM) for n in names]


def test_a_bug_in_one_lab_costs_the_others_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one(target: Target, plan: LabPlan, folder: Path, *_: object) -> Result:
        runfile.write(folder / RUN, made_up_run())
        if target.kernel.label == "bad":
            raise ZeroDivisionError
        return Result(target, made_up_run())

    # Two kernels booted would show no more than two that are said to have been.
    monkeypatch.setattr(matrix, "_one", one)
    monkeypatch.setattr(packing, "roles_of", lambda *_: None)
    monkeypatch.setattr(resolve, "bootable", lambda kernel: None)
    plan = LabPlan([], {}, None, None, tmp_path)
    bad, good = sorted(
        matrix.measure(targets(), plan, 1, lambda _, line: None), key=lambda r: r.target.label
    )
    assert isinstance(bad.bug, ZeroDivisionError)
    assert runfile.read(tmp_path / "bad-tdp.json") == made_up_run()
    assert good.path == tmp_path / "good-tdp.json"


def test_a_bug_inside_a_lab_is_told_from_a_kernel_that_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(sender: Sender, steps: object) -> None:
        raise ZeroDivisionError("of a bug")

    port = tmp_path / "port"
    port.touch()
    monkeypatch.setattr(inside, "_do", bug)
    monkeypatch.setattr(inside, "PORT", port)
    inside.main()
    receiver = Receiver(lambda line: None)
    receiver.feed(port.read_bytes())
    outcome = msgspec.json.decode(receiver.files[OUTCOME], type=JobOutcome)
    assert outcome.state == "bug"
    assert "ZeroDivisionError: of a bug" in (outcome.reason or "")
    assert outcome.trace.startswith("Traceback")
    assert exit_codes.worst([4, 1, LabBug("").exit_code]) == EXIT_BUG
