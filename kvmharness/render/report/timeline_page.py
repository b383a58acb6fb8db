"""The page of a timeline: charts, steps and the table that says the same, and their template."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from types import MappingProxyType
from typing import NamedTuple

from markupsafe import Markup

from kvmharness.analysis import totals
from kvmharness.analysis.timeline import Line, Point, Step, Timeline, Way
from kvmharness.errors import UsageError
from kvmharness.model.counters import columns
from kvmharness.model.explanation import File
from kvmharness.model.note import Note
from kvmharness.model.run import CaseResult
from kvmharness.render import tables, timeline_table
from kvmharness.render.levels import SHOWN_FROM
from kvmharness.render.report import chart, page
from kvmharness.render.report.chart import Anchors
from kvmharness.text import figure, printable

PRODUCTS = {"kvm_amd": "AMD", "kvm_intel": "Intel"}


class Row(NamedTuple):
    """A kernel in a line, as the table has it."""

    anchor: str
    way: Way
    point: Point
    cost: str
    deferred: str
    class_: str
    counts: str
    step: str


class Happened(NamedTuple):
    """A step as the page tells it; `why` names the functions, None where nobody followed it."""

    anchor: str
    case: str
    sentence: str
    why: str | None


class Between(NamedTuple):
    """The steps of one way between two kernels."""

    title: str
    way: Way
    steps: list[Happened]


class Section(NamedTuple):
    """A case: its chart, and its table's rows."""

    case: str
    chart: Markup
    rows: list[Row]


def vendor(module: str) -> str:
    """Return whose CPUs a vendor module is for."""
    return PRODUCTS.get(module, module)


def _anchors(found: Timeline) -> Anchors:
    points, steps = {}, {}
    for number, line in enumerate(found.lines):
        for at, point in enumerate(line.points):
            points[line.case, line.way, point.name] = f"p{number}-{at}"
        for at, step in enumerate(line.steps):
            steps[line.case, line.way, step.before.name, step.after.name] = f"s{number}-{at}"
    return Anchors(points, steps)


def _anchor(anchors: Anchors, step: Step) -> str:
    return anchors.steps[step.case, step.way, step.before.name, step.after.name]


def _counts(result: CaseResult) -> str:
    """Return what was counted per op, of what the tables show."""
    counted = [(column.title, result.counters.get(name)) for name, column in columns()]
    return ", ".join(f"{title} {n:.2f}" for title, n in counted if n and n >= SHOWN_FROM)


def _row(line: Line, point: Point, anchors: Anchors) -> Row:
    result = timeline_table.first(point, line.case)
    assert result
    late = totals.material(result)
    steps = [step for step in line.steps if step.after.name == point.name]
    return Row(
        anchors.points[line.case, line.way, point.name],
        line.way,
        point,
        tables.with_interval(result.per_op),
        figure(late) if late else "-",
        str(result.class_ or "-"),
        _counts(result),
        "; ".join(f"{step.row.verdict} than {step.before.name}" for step in steps),
    )


def _sections(found: Timeline, anchors: Anchors) -> list[Section]:
    cases: dict[str, list[Line]] = {}
    for line in found.lines:
        cases.setdefault(line.case, []).append(line)
    kernels = found.kernels()
    sections = []
    for number, (case, lines) in enumerate(cases.items()):
        title = f"What {case} costs over versions, a line a variant and vendor"
        drawn = chart.chart(lines, kernels, anchors, title, f"chart-{number}")
        rows = [_row(line, point, anchors) for line in lines for point in line.points]
        sections.append(Section(printable(case), drawn, rows))
    return sections


def _happened(step: Step, explained: Mapping[str, File], anchors: Anchors) -> Happened:
    why = timeline_table.why(step, explained)
    return Happened(
        _anchor(anchors, step),
        printable(step.case),
        printable(timeline_table.sentence(step)),
        why and printable(why),
    )


def _between(found: Timeline, explained: Mapping[str, File], anchors: Anchors) -> list[Between]:
    """Return the steps by the kernels around them, in the order of the newer kernel."""
    held: dict[tuple[str, Way], list[Step]] = {}
    ordered = sorted(found.steps, key=lambda s: (s.after.place, s.before.place, s.way, s.row.order))
    for step in ordered:
        held.setdefault((timeline_table.between(step), step.way), []).append(step)
    return [
        Between(
            printable(title),
            way,
            [_happened(step, explained, anchors) for step in steps],
        )
        for (title, way), steps in held.items()
    ]


def _hash(script: str) -> str:
    """Return what the page's policy calls its one script."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _notes(found: Timeline, notes: Sequence[Note], left_out: Mapping[str, str]) -> list[str]:
    lost = [
        (note.reason, f"{note.kernel} {note.variant} on {note.machine} ({note.state})")
        for note in notes
    ]
    gaps = [
        (why, f"{name} {line.case} {line.way}")
        for line in found.lines
        for name, why in line.gaps.items()
    ]
    others = [(why, name) for name, why in {**found.left_out, **left_out}.items()]
    told = [*tables.by_reason("no run", lost), *tables.by_reason("no figure", gaps)]
    return [printable(line) for line in [*told, *tables.by_reason("left out", others)]]


def render(
    found: Timeline,
    notes: Sequence[Note] = (),
    left_out: Mapping[str, str] = MappingProxyType({}),
    explained: Mapping[str, File] = MappingProxyType({}),
) -> str:
    """Return the page.  Raises UsageError for a timeline without a single figure."""
    if not found.lines:
        raise UsageError("report --timeline: no run of a lab in it; measure by `timeline`")
    anchors = _anchors(found)
    script = files("kvmharness.render.report").joinpath("timeline.js").read_text()
    ways = sorted({line.way for line in found.lines})
    kernels = found.kernels()
    counted = any(p.runs[0].clock == "insn" for line in found.lines for p in line.points)
    return (
        page.environment()
        .get_template("timeline.html.j2")
        .render(
            sections=_sections(found, anchors),
            between=_between(found, explained, anchors),
            variants=list(dict.fromkeys(way.variant for way in ways)),
            vendors=list(dict.fromkeys(way.vendor for way in ways)),
            machines=list(dict.fromkeys(way.machine for way in ways)),
            kernels=kernels,
            remarks=_notes(found, notes, left_out),
            vendor=vendor,
            chart=chart,
            script=Markup(script),
            script_hash=_hash(script),
            note=f"Figures are {tables.INSTRUCTIONS_BRIEFLY}." if counted else "",
            instructions=tables.INSTRUCTIONS if counted else "",
        )
    )
