"""The curves against their golden file."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from kvmharness.model.run import Slope
from kvmharness.render import curves, tables
from tests.support.golden import same_as_golden
from tests.support.samples import made_up_run

# A rebuilt root over pages, net of touching them; a flat cost over a number of vCPUs.
PAGES = Slope(
    "long64/cr0_wp",
    "pages",
    "ns",
    [(x, 2500 + 123.4 * x) for x in (0.0, *(float(1 << n) for n in range(13)))],
    123.4,
    (120.0, 126.0),
    2500.0,
    121.9,
    (118.5, 124.4),
)
VCPUS = Slope(
    "long64/cr0_wp@high=1",
    "vcpus",
    "ns",
    [(1.0, 900.0), (2.0, 910.0), (4.0, 905.0), (6.0, 930.0)],
    4.8,
    None,
    896.0,
)


def rendered(*slopes: Slope, **options: bool) -> str:
    run = made_up_run()
    run.slopes = list(slopes)
    out = io.StringIO()
    curves.show_curves(run, Console(file=out, width=tables.WIDTH, highlight=False, **options))  # type: ignore[arg-type]
    return "".join(line.rstrip() + "\n" for line in out.getvalue().splitlines())


def test_curves_are_the_golden_ones() -> None:
    same_as_golden("curves.txt", rendered(PAGES, VCPUS))


def test_run_without_a_sweep_prints_nothing() -> None:
    assert rendered() == ""


def test_colours_go_to_a_terminal_only() -> None:
    assert "\x1b" not in rendered(PAGES)
    assert "\x1b" in rendered(PAGES, force_terminal=True)


def test_size_is_the_same_on_every_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("LINES", "5")
    same_as_golden("curves.txt", rendered(PAGES, VCPUS))


@pytest.mark.parametrize("cost", [0.0, 1000.0])
def test_flat_cost_is_drawn(cost: float) -> None:
    flat = [(x, cost) for x in (1.0, 2.0, 4.0, 8.0)]
    text = rendered(Slope("real16/cr0_wp", "slots", "ns", flat, 0.0, (0.0, 0.0), cost))
    # The legend has one, the plot one a value.
    assert text.count("●") == 1 + len(flat)
    assert text.endswith("cost per slot: 0 ns [0, 0]\n")


def test_line_that_falls_below_0_is_drawn_where_it_can_be() -> None:
    points = [(0.0, 1.0), (1.0, 2.0), (2.0, 50.0), (4.0, 4000.0)]
    text = rendered(Slope("long64/wx", "pages", "ns", points, 900.0, (1.0, 1000.0), -500.0))
    assert text.count("●") == 1 + len(points)
