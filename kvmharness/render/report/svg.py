"""From a matplotlib figure to SVG that lies in a page: small, themed by CSS, said aloud.

Colours are written as stand-ins and become CSS variables, so that one figure serves light,
dark and print; text stays text, in the page's font.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from typing import Any

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

# Stand-in colours by the CSS variable that each becomes.
INK, MUTED, GRID = "#a00001", "#a00002", "#a00003"
RUN_COLOURS = tuple(f"#b0000{n}" for n in range(6))
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid"} | {
    colour: f"--run{n}" for n, colour in enumerate(RUN_COLOURS)
}

_NAMESPACE = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_COLOUR = re.compile("#[0-9a-f]{6}")
_LONG_NUMBER = re.compile(r"-?\d+\.\d{2,}")
# A line of no length: what a dot with round ends is made of.
_DOT = re.compile(r"M (\S+ \S+) L \1(?= |$)")

# matplotlib's settings for our figures, in force before a figure has its first text.
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    # A name with two dollar signs is no formula.
    "text.parse_math": False,
    # Simplifying would remove dots, which it takes for noise on a line.
    "path.simplify": False,
    "font.size": 11,
}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def inline(figure: Figure, title: str, name: str) -> Markup:
    """Return the figure as an SVG element; `name` is an id that no other figure has."""
    out = io.StringIO()
    # Names within the figure are hashes of what they name, and two figures share a page.
    with rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(out, format="svg", metadata=_NO_METADATA, transparent=True)
    root = ET.fromstring(out.getvalue())
    for element in root.iter():
        element.tag = element.tag.removeprefix(_NAMESPACE)
        _tidy(element)
    for parent in list(root.iter("defs")):
        for style in parent.findall("style"):  # it would hold for the whole page
            parent.remove(style)
    view = root.get("viewBox", "")
    root.attrib.clear()
    root.attrib |= {
        "viewBox": view,
        "role": "img",
        "aria-labelledby": name,
        "class": "drawing",
    }
    label = ET.Element("title", id=name)
    label.text = title
    root.insert(0, label)
    # Nothing in it is markup but what ElementTree wrote.
    return Markup(ET.tostring(root, encoding="unicode"))


def _tidy(element: ET.Element) -> None:
    """Shorten an element, and give its colours to CSS."""
    if element.tag == "g":
        element.attrib.pop("id", None)
    if element.get("transform", "").startswith("rotate(-0 "):
        del element.attrib["transform"]
    if _HREF in element.attrib:
        element.set("href", element.attrib.pop(_HREF))
    for key in ("x", "y"):
        if key in element.attrib:
            element.set(key, _rounded(element.attrib[key]))
    if "d" in element.attrib:
        element.set("d", _path(element.attrib["d"]))
    if "style" in element.attrib:
        element.set("style", _style(element.attrib["style"]))
    if element.tag != "text":
        element.text = None
    element.tail = None


def _rounded(text: str) -> str:
    """Round coordinates to a tenth of a pixel."""
    return _LONG_NUMBER.sub(lambda number: f"{float(number[0]):.1f}".removesuffix(".0"), text)


def _path(commands: str) -> str:
    """Round a path; where it is nothing but dots, write them shortly and each place once."""
    path = " ".join(_rounded(commands).split())
    dots = _DOT.findall(path)
    if len(dots) * len("M x y L x y".split()) < len(path.split()):
        return path
    return "".join(f"M{place}h0" for place in dict.fromkeys(dots))


def _style(style: str) -> str:
    kept = [part for part in style.split("; ") if not part.startswith("font-family")]
    return _COLOUR.sub(
        lambda colour: f"var({_VARIABLES[colour[0]]})" if colour[0] in _VARIABLES else colour[0],
        ";".join(kept),
    )
