"""The cases of a run and their figures, by the cases' names."""

from __future__ import annotations

from kvmharness.model.run import CaseResult, Run


def case(run: Run, name: str) -> CaseResult:
    return next(c for c in run.cases if c.name == name)


def median(run: Run, name: str) -> float:
    per_op = case(run, name).per_op
    assert per_op is not None
    return per_op.median
