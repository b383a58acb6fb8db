"""`timeline` and `report --timeline` on folders as they may be found, without a boot."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmharness.analysis import load, timeline
from kvmharness.commands import explained_steps
from kvmharness.kernel.resolve import Kernel
from kvmharness.model import explanation, note, runfile
from kvmharness.model.note import Note
from tests.support import made_up_explanation
from tests.support.made_up_timeline import UNCURED, toggles

Call = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a timeline's folder: two kernels, a note, and what does not belong there."""
    held = tmp_path / "timeline"
    held.mkdir()
    for file in (toggles("5.10.1", 157_964, UNCURED), toggles("6.1.30", 4_854)):
        runfile.write(held / f"{file.name}-tdp-0123.json", file.run)
    lost = Note("lost", "it panicked", "6.2", "tdp", "tcg-svm", "0", "BUG: no\x1b[31m")
    (held / "6.2-tdp-0123.note").write_bytes(note.encode(lost))
    (held / "foreign.json").write_text('{"name": "a package"}')
    (held / "half.json").write_text('{"schema": "kvmharness.run/2", "cases"')
    (held / "half.note").write_text("{")
    (held / "words.txt").write_text("no JSON")
    (held / "folder.json").mkdir()
    os.mkfifo(held / "pipe.json")
    (held / "gone.json").symlink_to("nowhere")
    return held


def test_without_kernels_it_tells_what_the_folder_holds(kvmharness: Call, folder: Path) -> None:
    done = kvmharness("timeline", "-o", str(folder))
    assert done.returncode == 0, done.stderr
    assert "5.10.1 → 6.1.30: long64/cr0_wp: 158,406 → 4,868 insn/op" in done.stdout
    assert "because the root is kept" in done.stdout
    assert "lost: 6.2-tdp-0123: it panicked; --rebuild tries again" in done.stderr
    for name in ("foreign", "half"):
        assert f"left out: {name}: read " in done.stderr
    for name in ("folder", "gone", "pipe"):
        assert re.search(rf"left out: .*{name}.*: it is no regular file", done.stderr)
    assert "Traceback" not in done.stderr


def test_of_two_runs_of_a_kernel_the_younger_file_counts(kvmharness: Call, folder: Path) -> None:
    for name, cost, age in (("a", 5_000, 10), ("b", 6_000, 20)):
        path = folder / f"6.1.30-tdp-{name}.json"
        runfile.write(path, toggles("6.1.30", cost).run)
        os.utime(path, (2_000_000_000 - age, 2_000_000_000 - age))
    assert "158,406 → 5,014" in kvmharness("timeline", "-o", str(folder)).stdout


def test_since_leaves_older_kernels_out(kvmharness: Call, folder: Path) -> None:
    done = kvmharness("timeline", "-o", str(folder), "--since", "6.0")
    assert "→" not in done.stdout
    assert "left out: 5.10.1-tdp-0123: it is older" in done.stdout


def test_figures_that_differed_once_are_an_alarm_until_somebody_looks(
    kvmharness: Call, folder: Path
) -> None:
    run = toggles("6.1.30", 9_999).run
    runfile.write(folder / "6.1.30-tdp-0123.differing.json", run)
    done = kvmharness("timeline", "-o", str(folder))
    assert done.returncode == 4
    assert "ALARM: 6.1.30-tdp-0123.differing has other figures" in done.stderr
    assert "9,9" not in done.stdout


def test_what_is_known_of_a_steps_functions_is_told(kvmharness: Call, folder: Path) -> None:
    (step,) = timeline.timeline(load.folder(folder).runs).steps
    explanation.write(folder / f"{step.name}.explained", made_up_explanation.file())
    (folder / "half.explained").write_text("{")
    (folder / "pipe.explained").symlink_to("pipe.json")
    done = kvmharness("timeline", "-o", str(folder))
    assert "→ 4,868 insn/op" in done.stdout.split("by function: ")[0].splitlines()[-2]
    for name in ("half", "pipe"):
        assert f"left out: {name}" in done.stderr or f", {name}" in done.stderr


@pytest.mark.parametrize(
    ("releases", "why"),
    [
        ([], "5.10.1: nobody named it; add it"),
        (["5.10.1"], "6.1.30: nobody named it; add it"),
        (["5.10.1", "6.1.30", "5.10.1"], "5.10.1: several are called so"),
    ],
)
def test_a_step_of_kernels_that_are_not_at_hand_is_not_explained(
    folder: Path, capsys: pytest.CaptureFixture[str], releases: list[str], why: str
) -> None:
    kernels = [Kernel(name, name, Path("image"), None, name) for name in releases]
    assert explained_steps.explain(folder, None, kernels) == 4
    assert f"not explained: 5.10.1 → 6.1.30, tdp: {why}" in capsys.readouterr().err


def test_the_page_is_written_and_what_was_there_is_kept(kvmharness: Call, folder: Path) -> None:
    out = folder.parent / "page.html"
    out.write_text("mine")
    done = kvmharness("report", "--timeline", str(folder), "-o", str(out))
    assert done.returncode == 0, done.stderr
    assert out.read_text().startswith("<!DOCTYPE html>")
    assert (folder.parent / "page.html~").read_text() == "mine"
    assert "it panicked" in out.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["timeline", "-o", "nothing"], "read nothing: No such file or directory"),
        (["timeline", "-o", "there", "--tags", "v6*"], "--tags: of which tree?"),
        (["timeline", "-o", "there", "--explain"], "--explain: by booting which kernels?"),
        (["timeline", "-o", "there", "--git", "."], "no kernel's source"),
        (["timeline", "-o", "there", "nosuch-kernel"], "kernel nosuch-kernel: no such file"),
        (["timeline", "-o", "there", "--debian", "--since", "x"], "--since x: no version"),
        (["timeline", "-o", "there", "k", "--variant", "x"], "--variant 'x': unknown"),
        (["timeline", "-o", "there", "k", "--machine", "x"], "--machine x: unknown"),
        (["timeline", "-o", "there", "k", "--case", "x"], "case 'x': matches nothing"),
        (["timeline", "-o", "file/x", "k"], "write file/x: Not a directory"),
        (["timeline", "-o", "there", "k", "--scheduler", "nosuch"], "--scheduler nosuch: "),
        (["timeline", "-o", "there", "k", "--scheduler", "a", "-j", "2"], "--jobs: "),
        (["report", "-o", "x"], "name run files, or a folder by --timeline"),
        (["report", "a", "--timeline", "b", "-o", "x"], "name run files, or a folder"),
        (["report", "a", "--since", "6.1", "-o", "x"], "--since: of which timeline?"),
        (["report", "--timeline", "nothing", "-o", "x"], "read nothing: No such file"),
        (["report", "--timeline", "there", "-o", "x"], "no run of a lab in it"),
    ],
)
def test_a_slip_is_one_line_and_a_code(
    kvmharness: Call, tmp_path: Path, arguments: list[str], said: str
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "file").touch()
    done = kvmharness(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "x").exists()


def test_a_folder_that_may_only_be_read_is_told_all_the_same(
    kvmharness: Call, folder: Path
) -> None:
    folder.chmod(0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write anywhere")
    assert kvmharness("timeline", "-o", str(folder)).returncode == 0
