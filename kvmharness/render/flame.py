"""Flame graphs as SVG that needs nothing else: to zoom and search in a browser, or on paper.

The roots are at the top.  A frame is as wide as its function and all that it called took, so
what a function took itself is where nothing lies below it.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files

from kvmharness.analysis.call_difference import align, is_root
from kvmharness.analysis.calltree import Node
from kvmharness.analysis.explain import tree
from kvmharness.model.explanation import CallNode, Difference, Explanation
from kvmharness.text import figure, printable

WIDTH, ROW, HEAD = 1200, 18, 64
FONT, LETTER = 11, 6.65
# Of the whole: what is narrower cannot be seen at any zoom, or on a page that has none.
LEAST, LEAST_STILL = 2e-6, 4e-4
# Of the greatest change: what is less is drawn as none.
LEAST_CHANGE = 0.005
INK, PAPER, SAME = "#1b1b1b", "#ffffff", "#e4e4e4"
SVG = "http://www.w3.org/2000/svg"
XHTML = "http://www.w3.org/1999/xhtml"


_Pair = tuple[Node | None, Node | None]


@dataclass(frozen=True)
class Box:
    """A frame: `x` and `width` are shares of the whole, `title` is shown when pointed at."""

    name: str
    title: str
    colour: str
    x: float
    width: float
    depth: int


@dataclass
class _Drawn:
    """A node to be drawn: its own width, its children, and what is said of it."""

    name: str
    own: float
    children: list[_Drawn]
    title: str
    colour: str
    total: float = 0.0


def _warm(name: str) -> str:
    """Return a colour that a function has in every graph; grey for a root."""
    if is_root(name):
        return "#d0d0d0"
    seed = zlib.crc32(name.encode())
    return f"hsl({18 + seed % 36},{72 + (seed >> 8) % 20}%,{64 + (seed >> 16) % 12}%)"


def _lay_out(roots: list[_Drawn]) -> Iterator[Box]:
    """Yield the boxes, widest root first, callers before what they called."""
    _add_up(roots)
    whole = sum(root.total for root in roots)
    if whole <= 0:
        return
    waiting: list[tuple[_Drawn, float, int]] = []

    def push(drawn: list[_Drawn], x: float, depth: int) -> None:
        for one in sorted(drawn, key=lambda d: (-d.total, d.name)):
            waiting.append((one, x, depth))
            x += one.total / whole

    push(roots, 0.0, 0)
    while waiting:
        one, x, depth = waiting.pop()
        if one.total <= 0:
            continue
        yield Box(one.name, one.title, one.colour, x, one.total / whole, depth)
        push(one.children, x, depth + 1)


def _add_up(roots: list[_Drawn]) -> None:
    ordered: list[_Drawn] = []
    waiting = list(roots)
    while waiting:
        one = waiting.pop()
        ordered.append(one)
        waiting += one.children
    for one in reversed(ordered):
        one.total = one.own + sum(child.total for child in one.children)


def _drawn(nodes: Sequence[CallNode], ops: int) -> list[_Drawn]:
    """Return the roots of a call tree over `ops` ops; what took less than nothing has no width."""
    top = tree(nodes)
    totals = top.totals()
    made: dict[Node, _Drawn] = {}
    for node in top.walk():
        title = (
            f"{node.name}: {figure(totals[node] / ops)} insn/op, own {figure(node.own / ops)}, "
            f"called {figure(node.calls / ops)} times per op"
        )
        own = max(node.own, 0) / ops
        made[node] = drawn = _Drawn(node.name, own, [], title, _warm(node.name))
        if node.parent is not None:
            made[node.parent].children.append(drawn)
    return made[top].children


def caption(explanation: Explanation) -> str:
    """Say in words what a graph of one kernel is of."""
    late = explanation.deferred
    deferred = f", and {late.figure:,.2f} deferred" if late and late.counts else ""
    return f"{explanation.figure:,.2f} instructions per op, every one of them{deferred}"


def explained(explanation: Explanation) -> list[Box]:
    """Lay out one kernel's call tree, with the work that it deferred where that counts."""
    roots = _drawn(explanation.nodes, explanation.ops)
    late = explanation.deferred
    if late and late.counts:
        roots += _drawn(late.nodes, late.ops)
    return list(_lay_out(roots))


def _heat(change: float, most: float) -> str:
    """Return red for more, blue for less, the deeper the nearer to the greatest change of all."""
    share = abs(change) / most if most else 0.0
    if share < LEAST_CHANGE:
        return SAME
    return f"hsl({4 if change > 0 else 214},80%,{90 - round(38 * share**0.5)}%)"


class _Pairs:
    """Two call trees as one, node by node."""

    def __init__(self, before: Explanation, after: Explanation, between: Difference) -> None:
        self.tops = tree(before.nodes), tree(after.nodes)
        align(
            *self.tops,
            lambda name: name not in between.only_after,
            lambda name: name not in between.only_before,
        )
        self._totals = self.tops[0].totals() | self.tops[1].totals()
        self._ops = before.ops, after.ops
        owns = [self._per_op(nodes, own=True) for _, nodes in self._walk()]
        self._most = max((abs(one - other) for one, other in owns), default=0.0)

    def _per_op(self, nodes: _Pair, own: bool) -> tuple[float, float]:
        one, other = (
            (node.own if own else self._totals[node]) / ops if node else 0.0
            for node, ops in zip(nodes, self._ops, strict=True)
        )
        return one, other

    def _walk(self) -> Iterator[tuple[str, _Pair]]:
        waiting: list[tuple[str, _Pair]] = [("", self.tops)]
        while waiting:
            name, nodes = waiting.pop()
            yield name, nodes
            waiting += self.below(nodes)

    @staticmethod
    def below(nodes: _Pair) -> list[tuple[str, _Pair]]:
        """Return the children of both by name."""
        children = [node.children if node else {} for node in nodes]
        names = dict.fromkeys([*children[0], *children[1]])
        return [(name, (children[0].get(name), children[1].get(name))) for name in names]

    def drawn(self, name: str, nodes: _Pair) -> _Drawn:
        """Return what is drawn of a pair; it is as wide as the one that took more itself."""
        own, total = self._per_op(nodes, own=True), self._per_op(nodes, own=False)
        title = (
            f"{name}: {figure(total[0])} → {figure(total[1])} insn/op "
            f"({total[1] - total[0]:+,.2f}), own {figure(own[0])} → {figure(own[1])} "
            f"({own[1] - own[0]:+,.2f})"
        )
        return _Drawn(name, max(own), [], title, _heat(own[1] - own[0], self._most))


def difference(before: Explanation, after: Explanation, between: Difference) -> list[Box]:
    """Lay out two call trees as one: a function is as wide as in the kernel where it took more."""
    pairs = _Pairs(before, after, between)
    root = pairs.drawn("", pairs.tops)
    waiting: list[tuple[_Drawn, _Pair]] = [(root, pairs.tops)]
    while waiting:
        parent, nodes = waiting.pop()
        for name, below in pairs.below(nodes):
            child = pairs.drawn(name, below)
            parent.children.append(child)
            waiting.append((child, below))
    return list(_lay_out(root.children))


def _label(name: str, pixels: float) -> str:
    most = int((pixels - 4) / LETTER)
    if most < 3:
        return ""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _frame(parent: ET.Element, box: Box, head: int) -> None:
    x, width, y = box.x * WIDTH, box.width * WIDTH, head + box.depth * ROW
    name = printable(box.name)
    place = {"data-x": f"{box.x:.9g}", "data-w": f"{box.width:.9g}", "data-depth": str(box.depth)}
    group = ET.SubElement(parent, "g", {"data-name": name, **place})
    ET.SubElement(group, "title").text = printable(box.title)
    shape = {"x": f"{x:.2f}", "y": str(y), "width": f"{max(width - 0.5, 0.1):.2f}"}
    ET.SubElement(group, "rect", {**shape, "height": str(ROW - 1), "fill": box.colour})
    text = ET.SubElement(group, "text", {"x": f"{x + 3:.2f}", "y": str(y + ROW - 6)})
    text.text = _label(name, width)


def _canvas(boxes: list[Box], head: int) -> ET.Element:
    height = head + ROW * (1 + max((box.depth for box in boxes), default=0)) + 4
    return ET.Element(
        "svg",
        {
            "viewBox": f"0 0 {WIDTH} {height}",
            "font-family": "ui-monospace, 'DejaVu Sans Mono', Menlo, monospace",
            "font-size": str(FONT),
            "fill": INK,
        },
    )


def still(boxes: list[Box], title: str, name: str) -> str:
    """Return an SVG element for a page that runs no script; `name` is an id of its own."""
    shown = [box for box in boxes if box.width >= LEAST_STILL]
    root = _canvas(shown, 0)
    root.attrib |= {"role": "img", "aria-labelledby": name, "class": "drawing"}
    ET.SubElement(root, "title", {"id": name}).text = printable(title)
    for box in shown:
        _frame(root, box, 0)
    for group in root.iter("g"):
        group.attrib.clear()
    return ET.tostring(root, encoding="unicode")


def document(boxes: list[Box], title: str, caption: str) -> str:
    """Return a whole SVG file, to be zoomed and searched."""
    shown = [box for box in boxes if box.width >= LEAST]
    root = _canvas(shown, HEAD)
    root.attrib |= {
        "xmlns": SVG,
        "width": "100%",
        "preserveAspectRatio": "xMidYMin meet",
        "data-width": str(WIDTH),
        "data-letter": str(LETTER),
    }
    ET.SubElement(root, "title").text = printable(title)
    style = ET.SubElement(root, "style")
    style.text = "g[data-x],#all{cursor:pointer} @media print{.screen{display:none}}"
    ET.SubElement(root, "rect", {"width": "100%", "height": "100%", "fill": PAPER})
    heading = {"x": "4", "y": "20", "font-size": "16", "font-weight": "bold"}
    ET.SubElement(root, "text", heading).text = printable(title)
    ET.SubElement(root, "text", {"x": "4", "y": "38"}).text = printable(caption)
    _controls(root)
    for box in shown:
        _frame(root, box, HEAD)
    ET.SubElement(root, "script").text = files(__package__).joinpath("flame.js").read_text()
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _controls(root: ET.Element) -> None:
    """Add what only a browser needs: the search box, what it found, and the way back."""
    screen = ET.SubElement(root, "g", {"class": "screen"})
    back = ET.SubElement(screen, "text", {"id": "all", "x": "4", "y": "56", "fill": "#0645ad"})
    back.text = "whole graph"
    place = {"x": "100", "y": "42", "width": "260", "height": "20"}
    outside = ET.SubElement(screen, "foreignObject", place)
    options = {"id": "search", "type": "search", "placeholder": "search for a function"}
    looks = "width:250px;height:18px;box-sizing:border-box;font:inherit"
    ET.SubElement(outside, "input", {"xmlns": XHTML, **options, "style": looks})
    ET.SubElement(screen, "text", {"id": "found", "x": "370", "y": "56"})
