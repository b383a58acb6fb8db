"""Tables in little room: nothing is wider than it, and what is left out is named."""

from __future__ import annotations

import io
import os

import pytest
from rich.console import Console
from rich.text import Text

from kvmharness.analysis import compare
from kvmharness.analysis.load import classified, summarised
from kvmharness.analysis.summary import summarise
from kvmharness.render import compare_table, fitting, tables
from kvmharness.render.fitting import Column
from tests.support.golden import same_as_golden
from tests.support.recorded import RECORDINGS
from tests.support.samples import made_up_run

RUNS = RECORDINGS / "run1"


def shown(width: int) -> str:
    """Return what `show` prints of a real run."""
    out = io.StringIO()
    run = summarised([RUNS / "host.json"])[0].run
    tables.show_run(run, Console(file=out, width=tables.WIDTH, highlight=False), width)
    return out.getvalue()


def compared(width: int) -> str:
    """Return what `compare` prints of two real runs."""
    out = io.StringIO()
    files = [RUNS / f"{name}.json" for name in ("5.10-tdp", "6.1-tdp")]
    base, new = (compare.side(file.stem, [classified([file])[0].run]) for file in files)
    console = Console(file=out, width=tables.WIDTH, highlight=False)
    compare_table.show_comparison(compare.compare(base, new), console, width)
    return out.getvalue()


@pytest.mark.parametrize("width", [60, 72, 80, 100, 128])
def test_no_line_is_wider_than_there_is_room(width: int) -> None:
    for text in (shown(width), compared(width)):
        assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("width", [60, 80])
def test_narrow_tables_are_the_golden_ones(width: int) -> None:
    text = f"{shown(width)}\n{compared(width)}"
    same_as_golden(f"narrow-{width}.txt", "".join(x.rstrip() + "\n" for x in text.splitlines()))


def test_what_matters_most_stays_and_the_rest_is_named() -> None:
    text = " ".join(shown(60).split())
    assert "case ns/op class" in text
    assert "left out to fit 60 columns: tsc/op, found, pages new, emulated, kvm_exit" in text
    # What it says makes room for all does.
    enough = int(text.partition("with COLUMNS=")[2].split()[0])
    assert "left out" not in shown(enough)
    assert "left out" in shown(enough - 1)


def test_a_long_name_is_folded_and_never_cut() -> None:
    run = made_up_run()
    run.cases[0].name = "long64/cr0_wp@pages=512,vcpus=2,slots=100,high=1"
    run.cases[0].class_ = None
    summarise(run)
    out = io.StringIO()
    tables.show_run(run, Console(file=out, width=tables.WIDTH, highlight=False), 40)
    table = out.getvalue().partition("case")[2]
    folded = "".join(line.split(" ")[0] for line in table.splitlines()[1:5])
    assert folded.startswith(run.cases[0].name)


def test_the_column_that_matters_least_goes_first_its_short_form_before_it() -> None:
    cells = [Text("1234567890")]
    brief = Column("b", [Text("12")], lost="details")
    columns = [
        Column("name", cells),
        Column("long", cells, goes=2, brief=brief),
        Column("last", cells, goes=1),
    ]
    assert fitting.width(columns) == 34
    assert fitting.fit(columns, None) == (columns, [])
    assert fitting.fit(columns, 34) == (columns, [])
    assert fitting.fit(columns, 33) == ([columns[0], brief, columns[2]], ["details"])
    assert fitting.fit(columns, 25) == ([columns[0], brief], ["details", "last"])
    assert fitting.fit(columns, 3) == ([columns[0], brief], ["details", "last"])


def test_room_is_what_columns_says_or_the_terminal_has(monkeypatch: pytest.MonkeyPatch) -> None:
    def terminal(_: int) -> os.terminal_size:
        return os.terminal_size((90, 24))

    def none(_: int) -> os.terminal_size:
        raise OSError

    # A stand-in: what stdout is in a test is pytest's.
    monkeypatch.setattr(os, "get_terminal_size", terminal)
    monkeypatch.setenv("COLUMNS", "70")
    assert fitting.room() == 70
    monkeypatch.setenv("COLUMNS", "wide")
    assert fitting.room() == 90
    monkeypatch.setattr(os, "get_terminal_size", none)
    assert fitting.room() is None
    monkeypatch.setenv("COLUMNS", "3")
    assert fitting.room() == fitting.LEAST
