"""Several files at once, several runs at once, and the forms of a comparison."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmharness.model import runfile
from tests.support.golden import same_as_golden
from tests.support.recorded import RECORDINGS, recorded_run

Call = Callable[..., "subprocess.CompletedProcess[str]"]

FILES = [str(RECORDINGS / f"run1/{name}.json") for name in ("5.10-tdp", "6.1-tdp")]
KEPT = ("--expect", "long64/cr0_wp class */kept")
FAST = ("--vms", "2", "--samples", "4", "--iterations", "20", "--precision", "100")


def test_show_prints_every_file_under_its_name(kvmharness: Call) -> None:
    one, other = (kvmharness("show", file).stdout for file in FILES)
    done = kvmharness("show", *FILES)
    assert done.stdout == f"5.10-tdp:\n{one}\n6.1-tdp:\n{other}"


def test_check_answers_for_every_file_and_ends_with_the_worst(kvmharness: Call) -> None:
    done = kvmharness("check", *FILES, *KEPT)
    assert [line.split()[:3] for line in done.stdout.splitlines()] == [
        ["FAIL", "5.10-tdp", "long64/cr0_wp"],
        ["ok", "6.1-tdp", "long64/cr0_wp"],
    ]
    assert done.returncode == 1
    assert kvmharness("check", FILES[1], FILES[1], *KEPT).returncode == 0


def test_github_is_told_what_is_not_as_expected(
    kvmharness: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    assert "::" not in kvmharness("check", *FILES, *KEPT).stdout
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    told = [x for x in kvmharness("check", *FILES, *KEPT).stdout.splitlines() if x[:2] == "::"]
    assert len(told) == 1
    assert re.fullmatch(
        r"::error title=kvmharness check 5\.10-tdp::long64/cr0_wp class .*", told[0]
    )


def test_a_file_cannot_say_more_to_github_than_its_line(
    kvmharness: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = recorded_run("debian-6.1.192-tdp", {"long64/empty": 2.0, "long64/cr0_wp": 5000.0})
    run.cases[1].samples, run.cases[1].vms = [], []
    run.cases[1].failed = "100%\n::error::planted"
    path = tmp_path / "a,b:c.json"
    runfile.write(path, run)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    told = kvmharness("check", str(path), "--expect", "long64/cr0_wp < 1 insn").stdout
    lines = [line for line in told.splitlines() if line.startswith("::")]
    assert len(lines) == 1
    assert "title=kvmharness check a%2Cb%3Ac::" in lines[0]
    assert r"100%25\n::error::planted" in lines[0]


def test_a_comparison_as_json_says_what_the_table_says(kvmharness: Call) -> None:
    table = kvmharness("compare", *FILES)
    done = kvmharness("compare", *FILES, "--json")
    found = json.loads(done.stdout)
    assert found["schema"] == "kvmharness.compare/1"
    (comparison,) = found["comparisons"]
    assert comparison["sentence"] == table.stdout.splitlines()[0]
    assert comparison["exit_code"] == done.returncode == table.returncode
    rows = {row["case"]: row for row in comparison["cases"]}
    row = rows["long64/cr0_wp"]
    assert row["verdict"] == "faster"
    assert row["ci95"][0] <= row["ratio"] <= row["ci95"][1] < 1
    assert row["base"]["class"] == {"how": "exit", "root": "rebuilt"}
    assert row["ratio"] == pytest.approx(row["new"]["cost"] / row["base"]["cost"])
    assert kvmharness("compare", *FILES, "--format", "json").stdout == done.stdout


def test_a_comparison_as_markdown_is_the_golden_one(kvmharness: Call) -> None:
    done = kvmharness("compare", *FILES, "--format", "markdown")
    same_as_golden("compare.md", done.stdout)


def test_names_do_not_break_a_table_of_markdown(kvmharness: Call, tmp_path: Path) -> None:
    run = recorded_run("debian-6.1.192-tdp", {"long64/empty": 2.0, "long64/cr0_wp": 5000.0})
    path = tmp_path / "a|b`<script>.json"
    runfile.write(path, run)
    text = kvmharness("compare", FILES[1], str(path), "--format", "markdown").stdout
    assert r"a\|b\`\<script\>" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {7}


def test_explain_has_no_other_form(kvmharness: Call) -> None:
    done = kvmharness("compare", "--lab", "a", "b", "--explain", "long64/cr0_wp", "--json")
    assert done.returncode == 2
    assert "leave --format json out" in done.stderr


@pytest.mark.kvm
def test_runs_fill_a_folder_and_add_to_it(kvmharness: Call, tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there yet"
    done = kvmharness("run", "long64/cpuid", "--runs", "2", "-o", str(folder), *FAST)
    assert done.returncode in (0, 3), done.stderr
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(before) == ["run-1.json", "run-2.json"]
    assert f"run 2 of 2, {folder}/run-2.json:" in done.stdout
    kvmharness("run", "long64/cpuid", "--runs", "1", "-o", str(folder), *FAST)
    assert sorted(path.name for path in folder.iterdir()) == [*sorted(before), "run-3.json"]
    assert before == {name: (folder / name).read_bytes() for name in before}
    # The kernel has not been booted in between: that is no side of several boots.
    compared = kvmharness("compare", str(folder), str(folder)).stdout
    assert "runs of one boot on a side: the intervals hold the spread between them" in compared


@pytest.mark.kvm
@pytest.mark.parametrize("more", [(), ("-o", "folder", "--json")])
def test_runs_without_a_folder_for_them_are_refused(
    kvmharness: Call, tmp_path: Path, more: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = kvmharness("run", "long64/cpuid", "--runs", "2", *more)
    assert done.returncode == 2
    assert "name their folder: -o FOLDER" in done.stderr
    assert not list(tmp_path.iterdir())
