"""`compare` and `check` as a user, a CI and `git bisect run` meet them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from kvmharness.analysis import expectations
from kvmharness.commands import check
from kvmharness.errors import HarnessError
from kvmharness.lab import machines
from kvmharness.model import runfile
from tests.support.golden import same_as_golden
from tests.support.recorded import recorded_run
from tests.support.samples import made_up_run

Call = Callable[..., "subprocess.CompletedProcess[str]"]

COSTS = {"long64/empty": 2.0, "long64/cr0_wp": 5000.0}
DEAR = {"long64/empty": 2.0, "long64/cr0_wp": 158000.0}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Lay down a good kernel's run, a bad one's, and one that could not be measured."""
    good = recorded_run("debian-6.1.192-tdp", COSTS)
    bad = recorded_run("debian-5.10.218-tdp", DEAR)
    lost = recorded_run("debian-6.1.192-tdp", COSTS)
    lost.cases[1].samples, lost.cases[1].vms = [], []
    lost.cases[1].failed = "guest: triple fault; rip 0x1000"
    for name, run in (("good", good), ("bad", bad), ("lost", lost)):
        runfile.write(tmp_path / f"{name}.json", run)
    return tmp_path


@pytest.mark.parametrize("arguments", [("--nope",), ()])
def test_a_slip_in_a_bisecting_command_stops_the_bisection(
    kvmharness: Call, runs: Path, arguments: tuple[str, ...]
) -> None:
    # git would take 2 for a bad commit, and blame the wrong one.
    done = kvmharness("check", str(runs / "good.json"), "--bisect", *arguments)
    assert done.returncode == 128


def test_compare_exits_as_its_worst_pair(kvmharness: Call, runs: Path) -> None:
    good, bad, lost = (str(runs / f"{name}.json") for name in ("good", "bad", "lost"))
    assert kvmharness("compare", good, good).returncode == 0
    faster = kvmharness("compare", bad, good)
    assert faster.returncode == 0
    assert "good is 31.6x faster at long64/cr0_wp because the root is kept" in faster.stdout
    unclear = kvmharness("compare", good, lost)
    assert unclear.returncode == 3
    worst = kvmharness("compare", good, lost, bad)
    assert worst.returncode == 1
    assert "\n\nbad is 31.6x slower at long64/cr0_wp because the root is rebuilt" in worst.stdout


def test_threshold_is_in_percent(kvmharness: Call, runs: Path) -> None:
    good, bad = (str(runs / f"{name}.json") for name in ("good", "bad"))
    assert kvmharness("compare", bad, good, "--threshold", "200").returncode == 0
    huge = kvmharness("compare", good, bad, "--threshold", "1000")
    assert huge.returncode == 1  # 31.6 times is more than 1000 %
    assert "threshold ±1,000 %" in huge.stdout


def test_folder_is_several_runs_of_one_kernel(kvmharness: Call, tmp_path: Path) -> None:
    for side, factor in (("base", 1.0), ("new", 1.1)):
        for boot in (1.0, 1.001, 1.003):
            (tmp_path / side / str(boot)).mkdir(parents=True)
            run = made_up_run()
            for case in run.cases:
                case.samples = [factor * boot * sample for sample in case.samples]
            runfile.write(tmp_path / side / str(boot) / "kernel.json", run)
    done = kvmharness("compare", str(tmp_path / "base"), str(tmp_path / "new"))
    assert done.returncode == 1, done.stdout
    assert done.stdout.startswith("new is 1.1x slower at ")
    assert "one run on a side" not in done.stdout


def test_sides_of_one_name_are_told_apart_by_their_paths(kvmharness: Call, tmp_path: Path) -> None:
    for boot in ("1", "2"):
        (tmp_path / boot).mkdir()
        runfile.write(tmp_path / boot / "6.1.json", made_up_run())
    done = kvmharness("compare", "1/6.1.json", "2/6.1.json", cwd=tmp_path)
    assert done.stdout.startswith("2/6.1.json costs the same as 1/6.1.json in every case")


def test_folders_that_are_no_side_are_one_line(kvmharness: Call, runs: Path) -> None:
    mixed = kvmharness("compare", str(runs), str(runs / "good.json"))
    (runs / "empty").mkdir()
    empty = kvmharness("compare", str(runs / "empty"), str(runs / "good.json"))
    for done, says in ((mixed, "holds runs of 2 kernels"), (empty, "no *.json in this folder")):
        assert done.returncode == 2
        assert done.stdout == ""
        assert says in done.stderr
        assert done.stderr.count("\n") == 1


def ending(*arguments: str) -> int:
    """Return the exit code of `check`, run in this process because there are many."""
    done = CliRunner().invoke(check.check, arguments)
    if isinstance(done.exception, HarnessError):
        assert str(done.exception).isprintable()  # one line, too
        return done.exception.exit_code
    return done.exit_code


@pytest.mark.parametrize(
    ("name", "expressions", "code", "bisect"),
    [
        ("good", ["long64/cr0_wp < 6000 insn", "*/cr0_wp class */kept"], 0, 0),
        ("bad", ["long64/cr0_wp < 6000 insn"], 1, 1),
        ("bad", ["long64/empty < 6000 insn", "*/cr0_wp class */kept"], 1, 1),
        ("good", ["long64/cr0_wp < 5015 insn"], 3, 125),
        ("lost", ["long64/cr0_wp < 6000 insn"], 3, 125),
        ("lost", ["long64/empty < 1 insn", "long64/cr0_wp < 6000 insn"], 1, 1),
        ("incorrect", ["long64/cr0_wp < 6000 insn"], 1, 125),
        # What no commit could satisfy: skipping them all would find nothing.
        ("missing", ["long64/cr0_wp < 6000 insn"], 2, 128),
        ("good", ["long64/pio < 6000 insn"], 2, 128),
        ("good", ["long64/cr0_pw < 6000 insn"], 2, 128),
        ("good", ["long64/cr0_wp < 6000 ns"], 2, 128),
        ("good", ["long64/cr0_wp < 6000"], 2, 128),
        ("good", ["long64/cr0_wp class exit"], 2, 128),
        ("good", ["long64/cr0_wp class */keep"], 2, 128),
        ("good", ["long64/cr0_wp < 0 insn"], 2, 128),
        ("good", ["long64/cr0_wp >= 1e14 insn"], 2, 128),
        ("good", ["long64/cr0_wp kvm.exits < 0"], 2, 128),
        ("good", ["long64/cr0_wp kvm:kvm_exits < 2"], 2, 128),
        ("good", ["long64/cr0_wp > 9 insn", "long64/cr0_wp < 9 insn"], 2, 128),
        ("good", ["*/cr0_wp class exit/*", "*/cr0_wp class no-exit/*"], 2, 128),
    ],
)
def test_check_ends_as_ci_or_bisect_wants_it(
    runs: Path, name: str, expressions: list[str], code: int, bisect: int
) -> None:
    if name == "incorrect":
        run = recorded_run("debian-6.1.192-tdp", COSTS)
        run.cases[1].discard("WP did not hold")
        runfile.write(runs / "incorrect.json", run)
    arguments = [str(runs / f"{name}.json"), *(x for e in expressions for x in ("--expect", e))]
    assert ending(*arguments) == code
    assert ending(*arguments, "--bisect") == bisect


EXPECT = ("--expect", "*/cr0_wp class */kept")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("/nonexistent/tree",), 128),
        (("no-such-version",), 128),
        ((".", "--variant", "tpd"), 128),
        ((".", "--machine", "tgc-svm"), 128),
        ((".", "--expect", "long64/cr0_pw < 5 insn"), 128),
        # A folder that is there and holds no kernel: the commit has built none.
        ((".",), 125),
    ],
)
def test_what_is_wrong_with_a_kernel_is_told_from_a_slip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int
) -> None:
    monkeypatch.chdir(tmp_path)
    # No kernel is booted here, so it is no matter whether the lab's tools are.
    monkeypatch.setattr(machines, "check_tools", lambda found: None)
    assert ending("--lab", "--bisect", *EXPECT, *arguments) == code
    assert ending("--lab", *EXPECT, *arguments) == 2


def test_a_commit_that_built_half_a_kernel_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machines, "check_tools", lambda found: None)
    image = tmp_path / "vmlinuz"
    image.write_bytes(b"cut short")
    assert ending("--lab", "--bisect", *EXPECT, str(image)) == 125


@pytest.mark.parametrize(
    "text",
    [
        "long64/cr0_wp <= 0 insn",
        "long64/cr0_wp net < -5 insn",
        "long64/cr0_wp kvm.a_statistic_of_another_kernel <= 0",
        "long64/cr0_wp class unclear/*",
        "long64/cr0_wp class *",
    ],
)
def test_what_may_hold_somewhere_is_an_expectation(text: str) -> None:
    assert expectations.parse_all([text, "long64/cr0_wp < 9 insn"])


def test_a_bound_on_each_side_may_hold() -> None:
    assert expectations.parse_all(["* > 8 insn", "* < 9 insn", "* >= 8.5 insn", "* <= 8.5 insn"])


def test_check_prints_a_line_a_case_with_what_it_saw(kvmharness: Call, runs: Path) -> None:
    done = kvmharness(
        "check",
        str(runs / "bad.json"),
        "--expect",
        "* < 6,000 insn",
        "--expect",
        "*/cr0_wp class */kept",
        "--expect",
        "*/cr0_wp kvm.exits <= 1.1",
    )
    same_as_golden("check.txt", done.stdout)


def git(folder: Path, *arguments: str) -> str:
    """Run git as nobody in particular, whatever this user's configuration says."""
    who = {
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        **{
            f"GIT_{role}_{what}": f"{role}@example.org".lower()
            for role in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        },
    }
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        env={**os.environ, **who},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_git_bisect_finds_the_first_bad_commit(runs: Path) -> None:
    """The recipe of docs/comparing.md, with a measuring step that copies a run made before."""
    repository = runs / "linux"
    repository.mkdir()
    git(repository, "init", "--quiet")
    commits: list[str] = []
    for kernel in ("good", "good", "good", "lost", "good", "bad", "bad", "bad"):
        (repository / "kernel").write_text(f"{kernel} {len(commits)}\n")
        git(repository, "add", "kernel")
        git(repository, "commit", "--quiet", "--message", f"Select {kernel}")
        commits.append(git(repository, "rev-parse", "HEAD").strip())
    step = runs / "step.sh"
    step.write_text(
        f"cp {shlex.quote(str(runs))}/$(cut -d' ' -f1 kernel).json measured.json || exit 125\n"
        f"exec {shlex.quote(sys.executable)} -m kvmharness check measured.json --bisect "
        "--expect 'long64/cr0_wp class */kept'\n"
    )
    git(repository, "bisect", "start", commits[-1], commits[0])
    said = git(repository, "bisect", "run", "sh", str(step))
    assert f"{commits[5]} is the first bad commit" in said
    assert "guest: triple fault" in said  # the commit that could not be tested was tried
