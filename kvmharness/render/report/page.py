"""The report's page: what it says of runs, and the template that says it."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from kvmharness.analysis import compare
from kvmharness.analysis.load import RunFile
from kvmharness.errors import UsageError
from kvmharness.model.clocks import UNITS
from kvmharness.model.counters import columns
from kvmharness.model.explanation import File
from kvmharness.model.run import CaseResult, Run, Slope
from kvmharness.render import compare_table, tables
from kvmharness.render.levels import SHOWN_FROM
from kvmharness.render.report import explained, figures, hosts
from kvmharness.render.report.figures import Curve, RatioFigure
from kvmharness.text import printable

# Each run is called by a letter; nobody reads a table of more.
MOST_RUNS = len(ascii_uppercase)
# Cases that one run lacks are named up to here; of more, the number says enough.
MOST_NAMED = 6


class Entry(NamedTuple):
    """A run as the page names it: by its letter, and in full."""

    number: int
    letter: str
    name: str
    run: Run

    @property
    def label(self) -> str:
        return f"{self.letter} {self.name}"

    def find(self, name: str) -> CaseResult | None:
        """Return the run's case of that name."""
        return next((case for case in self.run.cases if case.name == name), None)


class Judged(NamedTuple):
    """A case in both runs: its ratio, both costs, the verdict, and what KVM did."""

    ratio: RatioFigure
    before: float
    after: float
    verdict: str
    said: str


class ComparisonView(NamedTuple):
    """A run against the base: the sentence, one row per case, and what could not be compared."""

    entry: Entry
    sentence: str
    figure: Markup | None
    rows: list[Judged]
    others: list[str]


class Sweep(NamedTuple):
    """The runs' sweeps of one case over one parameter."""

    title: str
    figure: Markup
    slopes: list[tuple[Entry, Slope]]


class CaseSection(NamedTuple):
    """A case in every run that has it: samples, figures, and counters by name."""

    name: str
    figure: Markup | None
    rows: list[tuple[Entry, CaseResult]]
    counters: list[tuple[str, list[str]]]


def _axis(unit: str, run: Run) -> str:
    return f"{unit}/op: instructions, not nanoseconds" if run.clock == "insn" else f"{unit}/op"


def _comparison(base: Entry, new: Entry) -> ComparisonView:
    found = compare.compare(
        compare.side(base.letter, [base.run]), compare.side(new.letter, [new.run])
    )
    rows = [
        Judged(
            RatioFigure(
                printable(row.case),
                row.found.ratio,
                row.found.ci95,
                compare_table.with_interval(row.found),
            ),
            row.found.base,
            row.found.new,
            row.verdict,
            printable(row.said),
        )
        for row in found.rows
        if row.found
    ]
    reasons: dict[str, list[str]] = {}
    for row in found.rows:
        if not row.found:
            reasons.setdefault(f"{row.verdict}: {row.said}", []).append(row.case)
    for case, reason in found.left_out.items():
        reasons.setdefault(reason, []).append(case)
    others = [printable(f"{_named(names)}: {reason}.") for reason, names in reasons.items()]
    sentence = printable(compare_table.sentence(found))
    if not rows:
        return ComparisonView(new, sentence, None, rows, others)
    axis = f"cost in {new.letter} as a multiple of {base.letter}'s"
    if new.run.clock == "insn":
        axis += f" ({tables.INSTRUCTIONS_BRIEFLY.partition(',')[0]})"
    title = f"Ratio of {new.label} to {base.label}, a row a case, with 95 % intervals"
    ratios = [row.ratio for row in rows]
    drawn = figures.forest(ratios, new.number, axis, title, f"ratio-{new.letter}")
    return ComparisonView(new, sentence, drawn, rows, others)


def _named(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= MOST_NAMED else f"{len(names)} cases"


def _sweeps(entries: Sequence[Entry]) -> list[Sweep]:
    found: dict[tuple[str, str], list[tuple[Entry, Slope]]] = {}
    for entry in entries:
        for slope in entry.run.slopes:
            found.setdefault((slope.case, slope.param), []).append((entry, slope))
    sweeps = []
    for number, ((case, param), slopes) in enumerate(found.items()):
        curves = [Curve(entry.number, entry.label, slope) for entry, slope in slopes]
        title = f"{printable(case)} over {printable(param)}"
        axis = f"{printable(param)}\n{_axis(slopes[0][1].unit, slopes[0][0].run)}"
        drawn = figures.sweep(curves, axis, f"Cost of {title}", f"sweep-{number}")
        sweeps.append(Sweep(title, drawn, slopes))
    return sweeps


def _counters(rows: Sequence[tuple[Entry, CaseResult]]) -> list[tuple[str, list[str]]]:
    """Return the counts that some run saw, after those that say most in any case."""
    always = [name for name, column in columns() if column.always]
    reasons = {reason for _, result in rows for reason in result.exit_reasons}
    counts = [
        # A reason that was not seen was counted all the same.
        result.counters | {f"exit {r}": result.exit_reasons.get(r, 0) for r in sorted(reasons)}
        for _, result in rows
    ]
    names = dict.fromkeys([*always, *(name for found in counts for name in found)])
    return [
        (name, [tables.count(found.get(name)) for found in counts])
        for name in names
        if any((found.get(name) or 0) >= SHOWN_FROM for found in counts)
        or (name in always and any(found.get(name) is not None for found in counts))
    ]


def _case(entries: Sequence[Entry], name: str, number: int) -> CaseSection:
    found = [(entry, entry.find(name)) for entry in entries]
    rows = [(entry, result) for entry, result in found if result is not None]
    drawn = [figures.RatioRow(e.number, e.label, result) for e, result in rows if result.per_op]
    if not drawn:
        return CaseSection(printable(name), None, rows, _counters(rows))
    title = f"Samples of {printable(name)} in each run, grouped by VM"
    axis = _axis(rows[0][1].unit, entries[0].run)
    figure = figures.distributions(drawn, axis, title, f"samples-{number}")
    return CaseSection(printable(name), figure, rows, _counters(rows))


def _safe(value: object) -> object:
    """Make escapes of what no page can hold, in whatever the template writes."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def environment() -> Environment:
    """Return where the report's templates are rendered."""
    return Environment(
        loader=PackageLoader("kvmharness.render.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_safe,
    )


def render(files: Sequence[RunFile], explanations: Sequence[File] = ()) -> str:
    """Return the page of the runs, the first of which is the base of every comparison.

    `explanations` are shown between the comparisons and the cases.

    Raises UsageError where the runs are of different clocks, or too many.
    """
    clocks = {file.run.clock for file in files}
    if len(clocks) > 1:
        raise UsageError(
            f"report: runs of different clocks ({', '.join(sorted(clocks))}) cannot be compared; "
            "make a report for each"
        )
    if len(files) > MOST_RUNS:
        raise UsageError(f"report: {len(files)} runs; name {MOST_RUNS} or fewer")
    entries = [
        Entry(number, letter, file.name, file.run)
        for number, (letter, file) in enumerate(zip(ascii_uppercase, files, strict=False))
    ]
    names = dict.fromkeys(case.name for entry in entries for case in entry.run.cases)
    cases = [_case(entries, name, number) for number, name in enumerate(names)]
    clock = files[0].run.clock
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            entries=entries,
            unit=UNITS[clock],
            note=f"Figures are {tables.INSTRUCTIONS_BRIEFLY}." if clock == "insn" else "",
            instructions=tables.INSTRUCTIONS,
            comparisons=[_comparison(entries[0], entry) for entry in entries[1:]],
            explained=explained.sections(explanations),
            sweeps=_sweeps(entries),
            # What was measured nowhere is what nobody came for.
            cases=sorted(cases, key=lambda case: case.figure is None),
            hosts=hosts.rows([entry.run for entry in entries]),
            tables=tables,
        )
    )
