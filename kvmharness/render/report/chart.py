"""A case over versions as SVG: a line a variant and vendor, a shape a class, a mark a step."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from math import log10
from typing import NamedTuple

from markupsafe import Markup
from matplotlib.ticker import Locator, LogLocator, MaxNLocator

from kvmharness.analysis import totals
from kvmharness.analysis.timeline import Line, Point, Way
from kvmharness.model.run import CaseClass, CaseResult
from kvmharness.render.report.axes import LOG_FROM, TICKS
from kvmharness.render.timeline_table import first
from kvmharness.text import figure, printable, short

# Pixels: as wide as a phone shows one to one, wider only where there are more kernels.
LEFT, RIGHT, TOP, BOTTOM, HEIGHT = 52, 12, 16, 74, 230
LEAST_PITCH, LEAST_WIDTH = 14.0, 276.0
LONGEST = 12
# Readable in grey: the root by shape, an op that does not exit is hollow.
SHAPES = {
    "kept": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "reloaded": "M-4-4h8v8h-8z",
    "rebuilt": "M0-5L5 4H-5z",
}
OTHER_SHAPE = "M0-5L5 0L0 5L-5 0z"
COLOURS = {"kept": "--run2", "reloaded": "--run1", "rebuilt": "--run4"}
OTHER_COLOUR = "--muted"
DASHES = {"tdp": "", "legacy": "7 3", "shadow": "2 2"}
OTHER_DASH = "9 2 2 2"
VENDORS = {"kvm_amd": "--run3", "kvm_intel": "--run0"}
OTHER_VENDOR = "--run5"


class Anchors(NamedTuple):
    """Where a point and a step lead to: ids in the page, by case, way and kernel."""

    points: Mapping[tuple[str, Way, str], str]
    steps: Mapping[tuple[str, Way, str, str], str]


class Scale(NamedTuple):
    """From a cost to a height; `ticks` are the costs that are written beside the axis."""

    low: float
    high: float
    by_log: bool
    ticks: list[float]

    def y(self, value: float) -> float:
        """Return the height of a cost, in pixels from the top."""
        share = _position(value, self.by_log) - _position(self.low, self.by_log)
        whole = _position(self.high, self.by_log) - _position(self.low, self.by_log)
        return TOP + HEIGHT * (1 - share / whole)


def _position(value: float, by_log: bool) -> float:
    return log10(value) if by_log else value


def scale(values: Sequence[float]) -> Scale:
    """Return an axis for costs: by logarithm where the greatest is ten times the least."""
    low, high = min(values), max(values)
    by_log = low > 0 and high > LOG_FROM * low
    if by_log:
        low, high = low / 1.3, high * 1.3
        several = high / low > 1000
        locator: Locator = LogLocator(
            subs=(1.0,) if several else (1.0, 2.0, 5.0), numticks=TICKS + 2
        )
    else:
        margin = (high - low) * 0.1 or high * 0.1 or 1.0
        low, high = max(0.0, low - margin), high + margin
        locator = MaxNLocator(TICKS, steps=[1, 2, 5, 10])
    ticks = [float(tick) for tick in locator.tick_values(low, high) if low <= tick <= high]
    return Scale(low, high, by_log, ticks)


def symbol(class_: CaseClass | None) -> tuple[str, str, bool]:
    """Return the path of a class's shape, its colour's name, and whether it is filled."""
    root = class_.root if class_ else ""
    filled = class_ is None or class_.how != "no-exit"
    return SHAPES.get(root, OTHER_SHAPE), COLOURS.get(root, OTHER_COLOUR), filled


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _add(parent: ET.Element, tag: str, text: str = "", **attributes: str | float) -> ET.Element:
    """Add an element; an attribute `class_` is class, an underscore a hyphen."""
    given = {
        key.rstrip("_").replace("_", "-"): (
            printable(value) if isinstance(value, str) else _number(value)
        )
        for key, value in attributes.items()
    }
    element = ET.SubElement(parent, tag, given)
    element.text = printable(text) or None
    return element


class _Chart:
    """A chart on its way: where each kernel stands, and the drawing."""

    def __init__(self, lines: Sequence[Line], kernels: Sequence[Point], anchors: Anchors) -> None:
        self._lines, self._anchors = lines, anchors
        pitch = max(LEAST_PITCH, LEAST_WIDTH / max(len(kernels), 1))
        self._x = {k.name: LEFT + pitch * (at + 0.5) for at, k in enumerate(kernels)}
        self._kernels, self._pitch = kernels, pitch
        self.width = LEFT + RIGHT + pitch * len(kernels)
        self._scale = scale([v for line in lines for p in line.points for v in _costs(p, line)])
        self.root = ET.Element("svg")

    def axes(self, unit: str) -> None:
        """Draw the grid, the costs beside it and the versions below."""
        right, bottom = self.width - RIGHT, TOP + HEIGHT
        for tick in self._scale.ticks:
            y = self._scale.y(tick)
            _add(self.root, "path", d=f"M{LEFT} {_number(y)}H{_number(right)}", class_="grid")
            _add(self.root, "text", figure(tick), x=LEFT - 4.0, y=y + 3, class_="left")
        before = None
        for kernel in self._kernels:
            x = self._x[kernel.name]
            if kernel.place.series != before:
                edge = _number(x - self._pitch / 2)
                _add(self.root, "path", d=f"M{edge} {TOP}V{bottom}", class_="grid")
            before = kernel.place.series
            at = f"translate({_number(x + 3)} {bottom + 6}) rotate(-90)"
            _add(self.root, "text", short(kernel.name, LONGEST), transform=at, class_="left")
        _add(self.root, "text", unit, x=0.0, y=10.0)

    def line(self, line: Line) -> None:
        """Draw what joins a line's kernels, the kernels, and the steps between them."""
        way = line.way
        group = _add(
            self.root, "g", class_="line", data_variant=way.variant, data_vendor=way.vendor
        )
        group.set("style", f"--line:var({VENDORS.get(way.vendor, OTHER_VENDOR)})")
        at = {p.name: (self._x[p.name], self._scale.y(_costs(p, line)[0])) for p in line.points}
        for old, new in line.edges:
            one, other = line.points[old], line.points[new]
            d = "M{} {}L{} {}".format(*map(_number, (*at[one.name], *at[other.name])))
            branch = one.place.series == other.place.series
            dash = DASHES.get(way.variant.partition("+")[0], OTHER_DASH)
            drawn = _add(group, "path", d=d, class_="branch" if branch else "trunk")
            if dash:
                drawn.set("stroke-dasharray", dash)
        for point in line.points:
            self._point(group, line, point, *at[point.name])
        for step in line.steps:
            x, y = at[step.after.name]
            key = (line.case, way, step.before.name, step.after.name)
            mark = _add(group, "a", href=f"#{self._anchors.steps[key]}", class_="step")
            _add(mark, "path", d=f"M{_number(x)} {_number(y - 8)}l-4-7h8z")
            _add(mark, "title", f"step: {step.before.name} → {step.after.name}: {step.row.said}")

    def _point(self, group: ET.Element, line: Line, point: Point, x: float, y: float) -> None:
        result = first(point, line.case)
        assert result
        cost, total = _costs(point, line)
        if total > cost:  # what is deferred stands on top of the cost
            top = _number(self._scale.y(total))
            d = f"M{_number(x)} {_number(y)}V{top}m-4 0h8"
            _add(group, "path", d=d, class_="deferred")
        shape, colour, filled = symbol(result.class_)
        href = f"#{self._anchors.points[line.case, line.way, point.name]}"
        mark = _add(group, "a", href=href, class_="point" if filled else "point hollow")
        drawn = _add(mark, "path", d=shape, transform=f"translate({_number(x)} {_number(y)})")
        drawn.set("style", f"--class:var({colour})")
        _add(mark, "title", f"{point.name} {line.way}: {_told(result, cost, total)}")


def _costs(point: Point, line: Line) -> tuple[float, float]:
    """Return what a case costs a kernel, and with what it defers."""
    result = first(point, line.case)
    if result is None or result.per_op is None:
        return 0.0, 0.0
    cost = result.per_op.median
    return cost, cost + totals.material(result)


def _told(result: CaseResult, cost: float, total: float) -> str:
    deferred = f" and {figure(total - cost)} deferred" if total > cost else ""
    return f"{figure(cost)} {result.unit}/op{deferred}, {result.class_ or 'no class'}"


def chart(
    lines: Sequence[Line], kernels: Sequence[Point], anchors: Anchors, title: str, name: str
) -> Markup:
    """Return the drawing of one case's lines over `kernels`; `name` is an id of its own."""
    drawn = _Chart(lines, kernels, anchors)
    root = drawn.root
    root.attrib |= {
        "viewBox": f"0 0 {_number(drawn.width)} {TOP + HEIGHT + BOTTOM}",
        "width": _number(drawn.width),
        # Not an image: what it holds can be followed.
        "role": "group",
        "aria-labelledby": name,
        "class": "chart",
    }
    _add(root, "title", title, id=name)
    first_point = lines[0].points[0]
    result = first(first_point, lines[0].case)
    drawn.axes(f"{result.unit if result else ''}/op")
    for line in lines:
        drawn.line(line)
    # Nothing in it is markup but what ElementTree wrote.
    return Markup(ET.tostring(root, encoding="unicode"))
