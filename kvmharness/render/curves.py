"""What a sweep looks like: every slope's points and line, drawn in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from math import log2, log10

from rich.console import Console
from rich.text import Text

from kvmharness.model.run import Run, Slope
from kvmharness.render import fitting, tables
from kvmharness.render.tables import edges
from kvmharness.text import figure

# The same on every terminal, so that two runs can be laid side by side.
COLUMNS, ROWS = 78, 16
Y_TICKS = 5
# Beyond this ratio of dearest to cheapest a linear axis would show one point and a floor.
LOG_FROM = 10.0


def _is_power_of_two(value: float) -> bool:
    return value >= 1 and value == int(value) and int(value) & (int(value) - 1) == 0


def _x_positions(values: Sequence[float]) -> list[float]:
    """Return where values stand on the x axis: by log2 where all are powers of two, or 0."""
    if not all(value == 0 or _is_power_of_two(value) for value in values):
        return list(values)
    # 0 has no logarithm: it stands one step before the least power.
    least = min(log2(value) for value in values if value)
    return [log2(value) if value else least - 1 for value in values]


def _drawing(slope: Slope) -> str:
    """Return the plot's text, with colours."""
    import plotext  # noqa: PLC0415 - only a run with a sweep needs it

    values = [x for x, _ in slope.points]
    costs = [y for _, y in slope.points]
    by_log = min(costs) > 0 and max(costs) > LOG_FROM * min(costs)
    at = _x_positions(values)
    fitted = [slope.intercept + slope.slope * value for value in values]
    # A line far from its points would squeeze them, and has no logarithm below 0.
    least, most = min(costs) / 2, max(costs) * 2
    line = [(x, y) for x, y in zip(at, fitted, strict=True) if least <= y <= most]
    drawn = [*costs, *(y for _, y in line)]

    def height(cost: float) -> float:
        return log10(cost) if by_log else cost

    # A linear axis begins at 0, or a flat cost would look like a slope.
    low, high = height(min(drawn)) if by_log else min(0.0, *drawn), height(max(drawn))
    ticks = [low + (high - low) * n / (Y_TICKS - 1) for n in range(Y_TICKS)]
    plotext.clear_figure()
    plotext.limit_size(False, False)
    plotext.plot_size(COLUMNS, ROWS)
    plotext.theme("clear")
    plotext.plot([x for x, _ in line], [height(y) for _, y in line], marker="·", color="gray")
    plotext.scatter(at, [height(cost) for cost in costs], marker="●", color="cyan")
    # plotext drops a label that its tick at the edge leaves no room for.
    plotext.xlim(at[0], at[-1] + (at[-1] - at[0]) / 20)
    plotext.ylim(low, high if high > low else low + 1)
    plotext.xticks(at, [f"{value:g}" for value in values])
    plotext.yticks(ticks, [figure(10**tick if by_log else tick) for tick in ticks])
    return str(plotext.build())


def _caption(slope: Slope) -> str:
    """Return the slope in words, e.g. `cost per page: 123.4 ns [120, 126]`."""
    text = f"cost per {slope.param.removesuffix('s')}: {figure(slope.slope)} {slope.unit}"
    text += edges(slope.ci95)
    if slope.net_slope is not None:
        text += f"; net of empty: {figure(slope.net_slope)} {slope.unit}{edges(slope.net_ci95)}"
    return text


def show_curves(run: Run, out: Console) -> None:
    """Print every slope of a run: the medians (●), the line through them (·), the slope.

    Colours go to a terminal only.
    """
    for slope in run.slopes:
        title = f"{slope.case}: {slope.unit}/op (●) over {slope.param}, and the line fitted (·)"
        out.print()
        out.print(tables.plain(title))
        out.print(Text.from_ansi(_drawing(slope)))
        out.print(tables.plain(_caption(slope)))


def print_run(run: Run) -> None:
    """Print a run whole on stdout: its table, then its curves."""
    out = tables.console()
    tables.show_run(run, out, fitting.room())
    show_curves(run, out)
