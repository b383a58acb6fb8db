"""What the figures' axes have in common: a width that a phone shows, and readable ticks."""

from __future__ import annotations

from collections.abc import Iterable
from math import floor, log10

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from kvmharness.render.report.svg import GRID, INK, MUTED
from kvmharness.text import figure

# Pixels: as wide as a phone shows one to one.
WIDTH = 360
DPI = 72  # an SVG's points, so that a size in pixels is one
TICKS = 5
# Beyond this ratio a linear axis would show one value and a floor.
LOG_FROM = 10.0


def drawing(height: float, left: float, top: float, bottom: float) -> tuple[Figure, Axes]:
    """Return a figure of WIDTH by `height` pixels and its axes; margins in pixels."""
    right = 12.0
    drawn = Figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI)
    axes = drawn.add_axes(
        (
            left / WIDTH,
            bottom / height,
            (WIDTH - left - right) / WIDTH,
            (height - top - bottom) / height,
        )
    )
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0, labelcolor=MUTED, labelsize=10)
    axes.set_axisbelow(True)
    return drawn, axes


def scale(
    axis: Axis, values: Iterable[float], *, log_from: float = LOG_FROM, from_zero: bool = False
) -> None:
    """Fit an axis to values >= 0, by logarithm where the greatest is `log_from` times the least.

    `from_zero` lets a linear axis begin at 0, where a flat line would else look like a slope.
    """
    found = list(values)
    low, high = min(found), max(found)
    by_log = low > 0 and high > log_from * low
    across = axis is axis.axes.xaxis
    set_scale = axis.axes.set_xscale if across else axis.axes.set_yscale
    set_limits = axis.axes.set_xlim if across else axis.axes.set_ylim
    if by_log:
        set_scale("log")
        margin = (high / low) ** 0.03
        set_limits(low / margin, high * margin)
        decades = log10(high / low)
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2 else (1,), numticks=TICKS))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: figure(value)))
    else:
        low = 0.0 if from_zero else low
        margin = (high - low) * 0.03 or high * 0.01 or 1.0
        set_limits(low - margin, high + margin)
        axis.set_major_locator(MaxNLocator(TICKS - 1, steps=[1, 2, 5, 10]))
        digits = max(0, -floor(log10((high - low + 2 * margin) / (TICKS - 1))))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.{digits}f}"))
    axis.grid(True, which="major", color=GRID, linewidth=0.8)


def label(axes: Axes, text: str) -> None:
    """Name the x axis."""
    axes.set_xlabel(text, color=INK, fontsize=10, labelpad=4)
