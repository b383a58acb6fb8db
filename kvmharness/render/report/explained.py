"""Explanations in the report: the sentence, flame graphs that stand still, what changed most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from kvmharness.model.explanation import Change, File
from kvmharness.render import flame
from kvmharness.text import printable

ROWS = 12


class Graph(NamedTuple):
    """A flame graph and what stands below it."""

    drawing: Markup
    caption: str


class Section(NamedTuple):
    """A case explained: a sentence, graphs, and the functions that changed most."""

    title: str
    sentence: str
    graphs: list[Graph]
    changes: list[Change]


def _graph(boxes: list[flame.Box], title: str, caption: str, name: str) -> Graph:
    # Nothing in it is markup but what ElementTree wrote.
    return Graph(Markup(flame.still(boxes, title, name)), caption)


def _section(explained: File, number: int) -> Section:
    case, kernels, between = explained.case, explained.kernels, explained.difference
    graphs = []
    if between is not None and len(kernels) == 2:
        one, other = kernels
        caption = (
            f"{one.label} → {other.label}: red takes more itself, blue less; as wide as where it "
            "takes more. The roots are at the top."
        )
        boxes = flame.difference(one, other, between)
        graphs.append(_graph(boxes, f"{case}: what changed", caption, f"flame-{number}-diff"))
    for place, kernel in enumerate(kernels):
        caption = f"{kernel.label}: {flame.caption(kernel)}."
        boxes = flame.explained(kernel)
        graphs.append(
            _graph(boxes, f"{case} on {kernel.label}", caption, f"flame-{number}-{place}")
        )
    sentence = between.sentence if between else graphs[0].caption
    labels = " → ".join(kernel.label for kernel in kernels)
    changes = between.changes[:ROWS] if between else []
    return Section(printable(f"{case}: {labels}"), sentence, graphs, changes)


def sections(explained: Sequence[File]) -> list[Section]:
    """Return what the page shows of explanations, in their order."""
    return [_section(one, number) for number, one in enumerate(explained)]
