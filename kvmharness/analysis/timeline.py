"""Many kernels in the order in which they were made, and where a cost or a class changed; pure.

A stable branch begins at the oldest kernel of its series.  So a kernel is held against the one
before it in its series, and the first of a series against the first of the series before: what
came to a branch later is a step of that branch.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import numpy as np

from kvmharness.analysis import compare
from kvmharness.analysis.compare import CaseComparison, Comparison, Side
from kvmharness.analysis.load import RunFile
from kvmharness.model.clocks import CLOCKS
from kvmharness.model.run import CaseResult, Run
from kvmharness.model.version import Place, place_of, version_of

# Verdicts that make a step.
CHANGED = frozenset({"faster", "slower", "worse", "better", "unweighed"})
OF_COST = frozenset({"faster", "slower", "unweighed"})
# Fewer changes within branches than this say nothing of how much a case changes by itself.
FEWEST_CHANGES = 5
# rustc-perf's: a change stands out that lies so many interquartile ranges above the third quartile.
OUTSIDE = 3.0


class Way(NamedTuple):
    """How kernels were measured: in which machine, with which vendor's KVM, in which variant."""

    machine: str
    vendor: str
    variant: str

    def __str__(self) -> str:
        return f"{self.variant} on {self.machine} ({self.vendor})"


@dataclass(frozen=True)
class Point:
    """A kernel, measured in one way: its runs, one a boot, and the names of their files.

    `name` is what to call it: its upstream version, or its release where that is not enough.
    """

    name: str
    release: str
    place: Place
    runs: Sequence[Run]
    files: Sequence[str]

    def results(self, case: str) -> list[CaseResult]:
        """Return what its runs have of a case."""
        return [result for run in self.runs for result in run.cases if result.name == case]


@dataclass(frozen=True)
class Step:
    """A change of a case between two kernels; `on_branch` where both are of one series.

    `threshold` is the least change that would have made one, as a share of 1.
    """

    way: Way
    case: str
    before: Point
    after: Point
    comparison: Comparison
    threshold: float

    @property
    def row(self) -> CaseComparison:
        """What the comparison of the two says of the case."""
        return self.comparison.rows[0]

    @property
    def of_cost(self) -> bool:
        """Whether instructions differ, so that there is something to explain."""
        return self.row.verdict in ("faster", "slower")

    @property
    def name(self) -> str:
        """What to call the step among others: it stands for the case and both kernels' runs."""
        facts = [self.case, *self.before.files, ">", *self.after.files]
        digest = hashlib.sha256("\n".join(facts).encode()).hexdigest()
        words = (self.before.name, self.after.name, self.way.variant, self.case)
        return re.sub(r"[^\w.+-]+", "-", "-".join(words))[:150] + f"-{digest[:16]}"

    @property
    def on_branch(self) -> bool:
        return self.before.place.series == self.after.place.series


@dataclass(frozen=True)
class Line:
    """A case in one way: the kernels that have figures of it, in order, and its steps.

    `edges` are the places in `points` of each two kernels that were compared.  `gaps` are the
    kernels without figures, with the reason.
    """

    way: Way
    case: str
    points: Sequence[Point]
    edges: Sequence[tuple[int, int]]
    steps: Sequence[Step]
    threshold: float
    gaps: Mapping[str, str]


@dataclass(frozen=True)
class Timeline:
    """All lines; `left_out` names the files that are in none, with the reason."""

    lines: Sequence[Line]
    left_out: Mapping[str, str]

    @property
    def steps(self) -> list[Step]:
        return [step for line in self.lines for step in line.steps]

    def kernels(self) -> list[Point]:
        """Return each kernel once, as the first line has it that does, in order."""
        found = {(p.place, p.name): p for line in reversed(self.lines) for p in line.points}
        return [found[key] for key in sorted(found)]


def _why_left_out(run: Run, first: Place | None) -> str | None:
    lab, place = run.host.lab, _place(run)
    if lab is None:
        return "it was not measured in a lab"
    if lab.below is not None:
        return "it has two levels"
    if place is None:
        return f"the release {run.host.kernel.release} tells no version"
    return "it is older" if first is not None and place < first else None


def _place(run: Run) -> Place | None:
    return place_of(run.host.kernel.release, run.host.kernel.build)


def _way(run: Run) -> Way:
    assert run.host.lab
    return Way(run.host.lab.machine, run.host.kvm.module or "none", run.host.lab.variant)


def _newest(files: Iterable[RunFile]) -> list[RunFile]:
    """Return the last run of each boot: a later one was measured by a later tool.

    In a lab every run starts at one time, so it is the order of the files that tells.
    """
    of_boots: dict[int, RunFile] = {}
    for file in files:
        assert file.run.host.lab
        of_boots[file.run.host.lab.boot] = file
    return [of_boots[boot] for boot in sorted(of_boots)]


def _version(run: Run) -> str:
    found = version_of(run.host.kernel.release, run.host.kernel.build)
    return found.text if found else run.host.kernel.release


def _names(files: Sequence[RunFile]) -> dict[tuple[str, str], str]:
    """Return what to call each kernel: its version, its release where several share that."""
    builds = {(f.run.host.kernel.release, f.run.host.kernel.build): _version(f.run) for f in files}
    versions, releases = list(builds.values()), [release for release, _ in builds]

    def name(release: str, build: str, version: str) -> str:
        if versions.count(version) == 1:
            return version
        return release if releases.count(release) == 1 else f"{release} {build}"

    return {key: name(*key, version) for key, version in builds.items()}


def _points(files: Sequence[RunFile], names: Mapping[tuple[str, str], str]) -> list[Point]:
    """Return the kernels of one way's files, in order."""
    builds: dict[tuple[str, str], list[RunFile]] = {}
    for file in files:
        kernel = file.run.host.kernel
        builds.setdefault((kernel.release, kernel.build), []).append(file)
    points = []
    for key, held in builds.items():
        newest = _newest(held)
        place = _place(newest[0].run)
        assert place
        runs = [file.run for file in newest]
        points.append(Point(names[key], key[0], place, runs, [file.name for file in newest]))
    return sorted(points, key=lambda point: (point.place, point.name))


def edges(places: Sequence[Place]) -> list[tuple[int, int]]:
    """Return which two of the kernels in order are held against each other, the older one first."""
    found, first = [], 0
    for at in range(1, len(places)):
        if places[at].series == places[at - 1].series:
            found.append((at - 1, at))
        else:
            found.append((first, at))
            first = at
    return found


def threshold(changes: Sequence[float], least: float) -> float:
    """Return the least change that makes a step, as a share of 1; never below `least`.

    `changes` are the logarithms of a case's ratios between neighbours within branches: what it
    changes by there is mostly nothing of KVM's doing.
    """
    if len(changes) < FEWEST_CHANGES:
        return least
    low, high = np.quantile(np.abs(changes), [0.25, 0.75])
    return max(least, math.expm1(float(high + OUTSIDE * (high - low))))


def _of_case(run: Run, case: str) -> Run | None:
    """Return a run without its other cases, None where it has no figures of this one."""
    held = [result for result in run.cases if result.name == case and result.samples]
    return msgspec.structs.replace(run, cases=held, slopes=[]) if held else None


def _gap(point: Point, case: str) -> str:
    for result in point.results(case):
        for end in ("incorrect", "failed", "skipped"):
            if getattr(result, end):
                return f"{end}: {getattr(result, end)}"
    return "not measured"


def _line(way: Way, case: str, points: Sequence[Point]) -> Line:
    sides: list[tuple[Point, Side]] = []
    gaps = {}
    for point in points:
        runs = [run for whole in point.runs if (run := _of_case(whole, case))]
        if len(runs) == len(point.runs):
            sides.append((point, Side(point.name, runs)))
        else:
            gaps[point.name] = _gap(point, case)
    pairs = edges([point.place for point, _ in sides])
    found = [
        compare.compare(sides[old][1], sides[new][1], at_once=len(pairs)) for old, new in pairs
    ]
    kept = [point for point, _ in sides]
    least = _threshold(kept, pairs, found)
    steps = [
        Step(way, case, kept[old], kept[new], comparison, least)
        for (old, new), comparison in zip(pairs, found, strict=True)
        if _is_step(comparison.rows[0], least)
    ]
    return Line(way, case, kept, pairs, steps, least, gaps)


def _threshold(
    points: Sequence[Point], pairs: Sequence[tuple[int, int]], found: Sequence[Comparison]
) -> float:
    least = CLOCKS[points[0].runs[0].clock].threshold if points else 0.0
    changes = [
        math.log(row.found.ratio)
        for (old, new), comparison in zip(pairs, found, strict=True)
        for row in comparison.rows
        if row.found and points[old].place.series == points[new].place.series
    ]
    return threshold(changes, least)


def _is_step(row: CaseComparison, least: float) -> bool:
    if row.verdict not in CHANGED:
        return False
    if row.verdict == "unweighed" or row.verdict not in OF_COST or row.found is None:
        return True
    assert row.accounts
    reclassed = row.accounts[0].class_ != row.accounts[1].class_
    return reclassed or abs(math.log(row.found.ratio)) > math.log1p(least)


def timeline(files: Sequence[RunFile], first: Place | None = None) -> Timeline:
    """Return the lines of classified runs, the older ones first, of kernels from `first` on."""
    left_out = {f.name: why for f in files if (why := _why_left_out(f.run, first))}
    taken = [file for file in files if file.name not in left_out]
    names = _names(taken)
    ways: dict[Way, list[RunFile]] = {}
    for file in taken:
        ways.setdefault(_way(file.run), []).append(file)
    lines = [line for way in sorted(ways) for line in _lines(way, _points(ways[way], names))]
    return Timeline(lines, left_out)


def _lines(way: Way, points: Sequence[Point]) -> Iterator[Line]:
    named = {r.name: r.case.order for p in points for run in p.runs for r in run.cases}
    for case in sorted(named, key=lambda name: (named[name], name)):
        line = _line(way, case, points)
        if line.points:
            yield line
