"""Result files of the right types with hostile values: shown, or refused in one line."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyperf import BenchmarkSuite as Suite
from rich.console import Console

from kvmharness.analysis import compare, expectations, load, stats, timeline
from kvmharness.analysis.summary import summarise
from kvmharness.errors import UsageError
from kvmharness.model import runfile
from kvmharness.render import compare_table, curves, distributions, tables, timeline_table
from kvmharness.render.export import csv as long_form
from kvmharness.render.export import junit, ktap, pyperf
from kvmharness.render.report import page, timeline_page
from tests.analysis.test_summary import swept
from tests.render.test_export import read_ktap
from tests.render.test_report import Page
from tests.support.samples import made_up_ends, made_up_lab_run

pytestmark = pytest.mark.slow


def good() -> Any:
    """Return the JSON of a file that has every field filled."""
    run = made_up_ends()
    run.host.lab = made_up_lab_run().host.lab
    case = run.cases[1]
    case.exit_reasons, case.absent = {"io": 1.0}, {"kvm.*": "no such file"}
    case.params, case.vcpus = {"pages": 4}, [0] * len(case.samples)
    case.preempted = [0, 1] * (len(case.samples) // 2)
    case.deferred_samples, case.deferred_vms = [500.0, 501.0] * 5, [n // 2 for n in range(10)]
    case.deferred_by, case.proof = "threads", {"direct": 75}
    run.cases += swept("cr3_same", 50)
    summarise(run)
    return json.loads(runfile.encode(run))


WORDS = st.sampled_from(
    [
        "",
        " ",
        "[/bold]x",
        "<script>",
        "\x1b[31m",
        "a\nb",
        "\x00",
        "\ufffe",
        "é" * 300,
        "a # b",
        "$x$",
        "]]>",
        "# SKIP",
        "\u2028",
    ]
)
INTEGERS = st.one_of(st.integers(-(2**70), 2**70), st.integers(-9, 9))
NUMBERS = st.one_of(INTEGERS, st.floats(allow_nan=False), st.floats(0, 1e14))
LIKE = {str: WORDS, int: INTEGERS, float: NUMBERS}
WEIRD = st.one_of(
    st.none(),
    st.booleans(),
    NUMBERS,
    WORDS,
    st.just([]),
    st.just({}),
    st.just([0.0, 0.0]),
    st.just([1e308] * 30),
)


def leaves(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value in a JSON document, containers too."""
    found = [path] if path else []
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            found += leaves(value, (*path, key))
    return found


def find(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


GOOD = good()
# Of a list, the first items stand for the rest.
PATHS = [path for path in leaves(GOOD) if not any(isinstance(k, int) and k > 6 for k in path)]
# What can be replaced by its like is, three times out of four, or most files would be refused.
TYPED = [path for path in PATHS if type(find(GOOD, path)) in LIKE]


def mutation(path: tuple[Any, ...]) -> st.SearchStrategy[str]:
    """Give the good file with one value replaced, oftener than not by one of its type."""

    def replaced(value: Any) -> str:
        data = json.loads(json.dumps(GOOD))
        find(data, path[:-1])[path[-1]] = value
        return json.dumps(data)

    like = LIKE.get(type(find(GOOD, path)), WEIRD)
    # Not one_of(): it would share the chances out among all that WEIRD is made of.
    return st.sampled_from([like, like, like, WEIRD]).flatmap(lambda kind: kind.map(replaced))


def hostile(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Call a test with the text of hostile files, KVMHARNESS_EXAMPLES of them if set."""

    def wrap(test: Callable[..., None]) -> Callable[..., None]:
        return settings(
            max_examples=int(os.environ.get("KVMHARNESS_EXAMPLES", examples)),
            deadline=None,
            suppress_health_check=[HealthCheck.function_scoped_fixture],
        )(given(text=st.sampled_from(PATHS + 3 * TYPED).flatmap(mutation))(test))

    return wrap


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hostile values meet the same code in a few resamples as in thousands."""
    monkeypatch.setattr(stats, "RESAMPLES", 40)


def test_the_file_is_good_before(tmp_path: Path) -> None:
    file = tmp_path / "good.json"
    file.write_text(json.dumps(GOOD))
    assert len(load.summarised([file])[0].run.slopes) == 1


@hostile(250)
def test_any_value_anywhere(tmp_path: Path, text: str) -> None:
    file = tmp_path / "hostile.json"
    file.write_text(text)
    out = Console(file=io.StringIO(), width=tables.WIDTH)
    with contextlib.suppress(UsageError):  # anything else fails the test
        run = runfile.read(file)
        summarise(run)
        tables.show_run(run, out)
        curves.show_curves(run, out)
        distributions.show_samples(run, out)


def written_or_refused(write: Callable[[], bytes]) -> bytes | None:
    """Return what is written, None where it is refused; the refusal is one line."""
    try:
        return write()
    except UsageError as error:
        lines = str(error).splitlines()
    assert len(lines) == 1
    return None


@hostile(100)
def test_any_value_anywhere_is_exported_or_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "hostile.json"
    file.write_text(text)
    try:
        name, run = load.summarised([file])[0]
    except UsageError:
        return
    ET.fromstring(junit.export(run, name))
    read_ktap(ktap.export(run, name).decode())
    rows = list(csv.reader(io.StringIO(long_form.export(run, name).decode())))
    assert {len(row) for row in rows} == {len(rows[0])}
    exported = written_or_refused(lambda: pyperf.export(run, name))
    if exported is not None:
        assert Suite.loads(exported.decode()).get_benchmarks()


@hostile(25)
def test_any_value_anywhere_is_reported_or_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    (tmp_path / "b.json").write_text(json.dumps(GOOD))
    written = written_or_refused(lambda: page.render(load.summarised([tmp_path])).encode())
    if written is not None:
        Page(written.decode())


@hostile(150)
def test_any_value_anywhere_is_in_a_timeline_or_left_out(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    (tmp_path / "b.json").write_text(json.dumps(GOOD))
    held = load.folder(tmp_path)
    found = timeline.timeline(held.runs)
    shown = io.StringIO()
    timeline_table.show(found, held.explained, Console(file=shown, width=tables.WIDTH))
    assert "\x1b" not in shown.getvalue()
    written = timeline_page.render(found, [], held.left_out, held.explained)
    Page(written)
    assert "\x1b" not in written
    assert "<script>x" not in written


EXPECTED = [
    expectations.parse(text)
    for text in ("* < 6000 ns", "* net > 1 ns", "* class */kept", "* kvm.exits < 0.1")
]


@hostile(250)
def test_any_value_anywhere_is_compared_and_checked_or_refused(tmp_path: Path, text: str) -> None:
    hostile_file, good_file = tmp_path / "hostile.json", tmp_path / "good.json"
    hostile_file.write_text(text)
    good_file.write_text(json.dumps(GOOD))
    good_side = compare.side("good", [runfile.read(good_file)])
    shown, refused = io.StringIO(), ""
    out = Console(file=shown, width=tables.WIDTH)
    try:
        run = runfile.read(hostile_file)
        summarise(run)
        odd = compare.side("odd", [run])
        for base, new in ((good_side, odd), (odd, good_side), (odd, odd)):
            compare_table.show_comparison(compare.compare(base, new), out)
        for expected in EXPECTED:
            for outcome in expectations.check(expected, run):
                out.print(tables.plain(outcome.seen))
    except UsageError as error:  # anything else fails the test
        refused = str(error)
    assert "\n" not in refused
    assert "\x1b" not in shown.getvalue() + refused
