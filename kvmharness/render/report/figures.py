"""The report's figures, each as wide as a phone shows: distributions, ratios, sweeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path

from kvmharness.analysis import stats, totals
from kvmharness.model.run import CaseResult, Interval, Slope
from kvmharness.render.report.axes import drawing, label, scale
from kvmharness.render.report.svg import INK, MUTED, RUN_COLOURS, STYLE, inline
from kvmharness.render.tables import with_interval
from kvmharness.text import figure, short

# With six colours, seven shapes tell 42 runs apart, also without colours.
MARKERS = "os^Dv<P"
MOST_OF_A_NAME, MOST_IN_A_LEGEND = 30, 24
MOST_TICKS = 8


class RatioFigure(NamedTuple):
    """A case's cost as a multiple of the base's; `text` says it with its interval."""

    case: str
    ratio: float
    ci95: tuple[float, float] | None
    text: str


class Curve(NamedTuple):
    """A run's sweep: the run's number and label."""

    number: int
    label: str
    slope: Slope


class RatioRow(NamedTuple):
    """A run's samples of a case: the run's number and label."""

    number: int
    label: str
    result: CaseResult


def _colour(number: int) -> str:
    return RUN_COLOURS[number % len(RUN_COLOURS)]


def _row_text(axes: Axes, row: int, left: str, right: str) -> None:
    """Write over a row what it is and what it says."""
    for x, text, side in ((0, left, "left"), (1, right, "right")):
        axes.text(
            x,
            row + 0.05,
            text,
            transform=axes.get_yaxis_transform(),
            ha=side,
            va="top",
            color=INK,
            fontsize=11,
        )


def _rows(count: int, height: float) -> tuple[Figure, Axes]:
    """Return a figure of `count` rows, counted from the top."""
    drawn, axes = drawing(count * height + 42, 12, 4, 38)
    axes.set_ylim(count, 0)
    axes.set_yticks([])
    return drawn, axes


def _dots(samples: Sequence[stats.Floats], row: int) -> Path:
    """Return one dot per sample, as lines of no length, and one line of them per VM."""
    lanes = np.linspace(row + 0.45, row + 0.9, len(samples))
    points = [(x, lane) for lane, vm in zip(lanes, samples, strict=True) for x in vm]
    return Path(np.repeat(points, 2, axis=0), [Path.MOVETO, Path.LINETO] * len(points))


def _in_all(result: CaseResult) -> Interval | None:
    """Return cost and deferred work together where there is any that matters."""
    return result.total if totals.material(result) else None


@rc_context(STYLE)
def distributions(rows: Sequence[RatioRow], axis: str, title: str, name: str) -> Markup:
    """Draw a case's samples in each run: one line of dots per VM, quartiles as a box, the median.

    `rows` have samples; `axis` says what a sample is.  Where an op defers work, an arrow leads
    from the median to what it costs in all.
    """
    drawn, axes = _rows(len(rows), 52)
    sums = [total.median for row in rows if (total := _in_all(row.result))]
    scale(axes.xaxis, [*(sample for row in rows for sample in row.result.samples), *sums])
    label(axes, axis)
    for at, row in enumerate(rows):
        result, colour = row.result, _colour(row.number)
        first, middle, third = np.quantile(result.samples, [0.25, 0.5, 0.75])
        box = Rectangle((first, at + 0.4), third - first, 0.55, color=colour, alpha=0.25, lw=0)
        axes.add_patch(box)
        axes.plot([middle, middle], [at + 0.38, at + 0.97], color=INK, lw=1.5, clip_on=False)
        total = _in_all(result)
        if total:
            axes.annotate(
                "",
                (total.median, at + 0.675),
                (middle, at + 0.675),
                arrowprops={"arrowstyle": "-|>", "color": INK, "linestyle": ":", "lw": 1},
            )
        axes.add_patch(
            PathPatch(
                _dots(stats.by_vm(result.samples, result.vms), at),
                fill=False,
                lw=2.6,
                edgecolor=colour,
                capstyle="round",
                clip_on=False,
                zorder=3,
            )
        )
        text = with_interval(result.per_op) + (f" → {figure(total.median)}" if total else "")
        _row_text(axes, at, short(row.label, MOST_OF_A_NAME), text)
    return inline(drawn, title, name)


@rc_context(STYLE)
def forest(rows: Sequence[RatioFigure], number: int, axis: str, title: str, name: str) -> Markup:
    """Draw each case's ratio with its interval, beside the line at 1."""
    drawn, axes = _rows(len(rows), 32)
    shown = [value for row in rows for value in (row.ratio, *(row.ci95 or ()))]
    scale(axes.xaxis, [*shown, 1.0], log_from=4)
    label(axes, axis)
    for at, row in enumerate(rows):
        middle, colour = at + 0.72, _colour(number)
        axes.plot([1, 1], [at + 0.47, at + 1], color=MUTED, lw=1.5, clip_on=False)
        if row.ci95:
            axes.plot(row.ci95, [middle, middle], color=colour, lw=2.5, clip_on=False)
        axes.plot([row.ratio], [middle], color=colour, marker="o", markersize=6, clip_on=False)
        _row_text(axes, at, short(row.case, MOST_OF_A_NAME), row.text)
    return inline(drawn, title, name)


def _line(slope: Slope) -> tuple[list[float], list[float]]:
    """Return the fitted line where the points are, without what an axis cannot show."""
    least, most = min(x for x, _ in slope.points), max(x for x, _ in slope.points)
    low, high = min(y for _, y in slope.points), max(y for _, y in slope.points)
    at = [*np.linspace(least, most, 50), *(x for x, _ in slope.points)]
    line = [(float(x), slope.intercept + slope.slope * float(x)) for x in sorted(set(at))]
    shown = [(x, y) for x, y in line if low / 2 <= y <= high * 2]
    return [x for x, _ in shown], [y for _, y in shown]


@rc_context(STYLE)
def sweep(curves: Sequence[Curve], axis: str, title: str, name: str) -> Markup:
    """Draw each run's medians over the parameter that was swept, and the line through them."""
    legend_rows = -(-len(curves) // 2)
    drawn, axes = drawing(272 + 16 * legend_rows, 72, 12 + 16 * legend_rows, 50)
    points = [point for curve in curves for point in curve.slope.points]
    scale(axes.yaxis, (y for _, y in points), from_zero=True)
    # 0 has no logarithm, but a linear axis holds it beside the powers of two.
    axes.set_xscale("symlog", base=2, linthresh=1)
    at = sorted({x for x, _ in points})
    every = -(-len(at) // MOST_TICKS)
    axes.set_xticks(at, [f"{x:g}" if n % every == 0 else "" for n, x in enumerate(at)])
    label(axes, axis)
    for curve in curves:
        colour = _colour(curve.number)
        xs, ys = zip(*curve.slope.points, strict=True)
        axes.plot(*_line(curve.slope), color=colour, lw=1, alpha=0.7, clip_on=False)
        axes.plot(
            xs,
            ys,
            color=colour,
            lw=0,
            marker=MARKERS[curve.number % len(MARKERS)],
            markersize=5,
            label=short(curve.label, MOST_IN_A_LEGEND),
            clip_on=False,
        )
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.25, 1.01),
        ncols=2,
        frameon=False,
        fontsize=10,
        labelcolor=INK,
        borderpad=0,
        handlelength=1,
    )
    return inline(drawn, title, name)
