"""The names for programs: the page's program runs, and who asks for none of them loads nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import kvmharness
from kvmharness import api
from kvmharness.errors import UsageError
from tests.support.recorded import RECORDINGS
from tests.support.samples import made_up_run
from tests.test_imports import COMPILED, HEAVY, loaded_by

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/api.md").read_text()
FILES = [RECORDINGS / f"run1/{name}.json" for name in ("5.10-tdp", "6.1-tdp")]


def test_the_names_are_those_of_the_module() -> None:
    assert frozenset(api.__all__) == kvmharness._API
    assert all(getattr(kvmharness, name) is getattr(api, name) for name in api.__all__)
    with pytest.raises(AttributeError):
        _ = kvmharness.nothing_of_ours


def test_every_name_of_the_page_is_one() -> None:
    rows = re.findall(r"^\| (.*?) \|", PAGE, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)", row)}
    assert named <= set(api.__all__)
    assert set(api.__all__) - named <= {"CaseComparison", "CaseResult", "HarnessError", "Step"} | {
        "Comparison",
        "sentence",
    }


def test_nothing_is_loaded_that_nobody_asked_for() -> None:
    loaded = loaded_by("import kvmharness; from kvmharness import errors, text")
    assert not loaded & (HEAVY | COMPILED | {"msgspec"})


@pytest.mark.kvm
def test_the_program_of_the_page_runs(tmp_path: Path) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "proved W^X: True" in done.stdout
    assert re.search(r"^long64/cr0_wp [\d.]+ ns \S+", done.stdout, re.MULTILINE)
    assert (tmp_path / "here.json").is_file()


def test_two_files_are_compared_as_the_command_does() -> None:
    base, new = map(kvmharness.read, FILES)
    comparison = kvmharness.compare(base, [new])
    assert kvmharness.sentence(comparison).startswith("NEW is 32.55x faster at long64/cr0_wp")
    assert comparison.exit_code == 0


def test_a_frame_has_a_row_a_sample() -> None:
    pandas = pytest.importorskip("pandas")
    run = made_up_run()
    run.cases[1].params = {"pages": 16}
    frame = run.frame()
    assert isinstance(frame, pandas.DataFrame)
    assert len(frame) == sum(len(case.samples) for case in run.cases)
    assert set(frame[frame.case == run.cases[1].name].pages) == {16}
    assert set(frame[frame.case == run.cases[0].name].pages) == {0}
    assert frame.groupby("case").per_op.median()[run.cases[0].name] > 0


def test_without_pandas_a_frame_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    # As if it were not here: which it may be.
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match="pip install pandas"):
        made_up_run().frame()
