"""The explanation's file: what was written is read, and anything else is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from kvmharness.errors import UsageError
from kvmharness.model import explanation
from kvmharness.render import explain_table, flame, stacks
from tests.support.made_up_explanation import file


def good(folder: Path) -> Any:
    path = folder / "explain.json"
    explanation.write(path, file())
    return json.loads(path.read_text())


def test_what_was_written_is_read(tmp_path: Path) -> None:
    explanation.write(tmp_path / "x.json", file())
    assert explanation.read(tmp_path / "x.json") == file()
    assert explanation.is_one(tmp_path / "x.json")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema":"kvmharness.run/2"}', "\xff"])
def test_other_files_are_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(text.encode("latin-1"))
    assert not explanation.is_one(path)
    with pytest.raises(UsageError, match=r"^read .*[^\n]*$"):
        explanation.read(path)


def _change(whole: Any, *path: str | int, to: Any) -> Any:
    at = whole
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = to
    return whole


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        (("schema",), "kvmharness.explain/9", "schema"),
        (("kernels",), [], "0 kernels"),
        (("kernels", 0, "ops"), 0, "out of range"),
        (("kernels", 0, "samples"), [451], "do not add up"),
        (("kernels", 0, "nodes", 2, "parent"), 2, "does not come before"),
        (("kernels", 0, "nodes", 2, "own"), -1, "out of range"),
        (("kernels", 1, "deferred", "ops"), 0, "out of range"),
        (("kernels", 1, "deferred", "nodes", 3, "parent"), 3, "does not come before"),
        (("kernels", 1, "deferred", "nodes", 3, "own"), -(2**60), "out of range"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(
    tmp_path: Path, path: tuple[str | int, ...], value: Any, why: str
) -> None:
    whole = _change(good(tmp_path), *path, to=value)
    (tmp_path / "x.json").write_text(json.dumps(whole))
    with pytest.raises(UsageError, match=why):
        explanation.read(tmp_path / "x.json")


WORDS = st.sampled_from(["", "a;b c", "[/bold]x", "<script>", "\x1b[2J", "\n", "]]>", "ä", None, 0])
PLACES = [
    ("case",),
    ("kernels", 0, "label"),
    ("kernels", 0, "nodes", 2, "name"),
    ("kernels", 1, "no_lines"),
    ("difference", "sentence"),
    ("difference", "changes", 0, "function"),
    ("difference", "changes", 0, "before"),
    ("difference", "only_before"),
    ("kernels", 1, "ops"),
    ("kernels", 1, "deferred", "nodes", 3, "name"),
    ("kernels", 1, "deferred", "measured"),
    ("kernels", 0, "no_deferred"),
]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(PLACES), WORDS | st.integers() | st.floats())
def test_a_hostile_file_is_shown_or_refused(
    tmp_path: Path, place: tuple[str | int, ...], value: Any
) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(_change(good(tmp_path), *place, to=value)))
    try:
        found = explanation.read(path)
    except UsageError:
        return
    out = Console(record=True, width=150, file=open("/dev/null", "w"))  # noqa: SIM115
    explain_table.show_explanation(found, 0.0, 5, out)
    assert "\x1b" not in out.export_text()
    assert found.difference is not None
    before, after = found.kernels[0], found.kernels[-1]
    flame.difference(before, after, found.difference)
    for kernel in found.kernels:
        assert flame.document(flame.explained(kernel), kernel.label, "")
        for line in stacks.folded(kernel).splitlines():
            assert line.rpartition(" ")[2].isdigit()
        stacks.callgrind(kernel, found.case)
