"""How much of its work a guest's kernel still does when it protects its writes; pure.

Work is measured alone and behind one protected write (model.cases.PROTECTED), so that the share
that is left is what the one costs by what the other does.  docs/nested.md says of what this is a
model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kvmharness.analysis import ratios, steady, totals
from kvmharness.analysis.stats import Floats
from kvmharness.model.cases import PROTECTED, Case
from kvmharness.model.run import CaseResult, Run


class Rate(NamedTuple):
    """One protected write for `pieces` of work, which touch `pages` pages together."""

    op: str
    pieces: int
    pages: int


@dataclass(frozen=True)
class Progress:
    """Work without a protected write and with one, in the run's unit a portion, with what the
    kernel did for it later.

    `share` is what is left of the speed, as a share of 1, with its interval (null where a side
    has one VM).
    """

    rate: Rate
    without: float
    with_: float
    share: float
    ci95: tuple[float, float] | None


def _groups(case: CaseResult) -> Sequence[Floats]:
    late = totals.sums(case) if totals.material(case) else None
    return late or steady.groups(case)


def _one(rate: Rate, work: CaseResult, protected: CaseResult) -> Progress:
    without, with_ = (ratios.blocks([_groups(case)]) for case in (work, protected))
    found = ratios.ratio(with_, without)
    return Progress(rate, found.new, found.base, found.ratio, found.ci95)


def of(run: Run) -> tuple[Sequence[Progress], Sequence[str]]:
    """Return the progress of each pair of cases in a run, and partners that were not measured.

    A case without a figure gives none; why it has none stands in the run.
    """
    cases = {case.name: case for case in run.cases}
    rows: list[Progress] = []
    lacking: list[str] = []
    for work in run.cases:
        if work.op not in PROTECTED:
            continue
        partner = Case(work.mode, PROTECTED[work.op], work.params).name
        protected = cases.get(partner)
        if protected is None:
            lacking.append(partner)
        elif work.samples and protected.samples:
            rate = Rate(work.op, work.case["work"], work.case["pages"])
            rows.append(_one(rate, work, protected))
    return rows, lacking
