"""The exit code that runs deserve."""

from __future__ import annotations

from collections.abc import Sequence

from kvmharness import errors
from kvmharness.model.run import Run

# From worst to best: the code of several runs is the first of these that any of them has.
ORDER = (
    errors.EXIT_BUG,
    errors.EXIT_REGRESSION,
    errors.EXIT_LOST,
    errors.EXIT_UNCLEAR,
    errors.EXIT_OK,
    errors.EXIT_NOTHING_RAN,
)


def of_run(run: Run) -> int:
    """Return the exit code of one run."""
    if any(case.incorrect for case in run.cases):
        return errors.EXIT_REGRESSION
    if any(case.failed for case in run.cases):
        return errors.EXIT_LOST
    if not any(case.samples for case in run.cases):
        return errors.EXIT_NOTHING_RAN
    if any(case.noisy for case in run.cases):
        return errors.EXIT_UNCLEAR
    return errors.EXIT_OK


def worst(codes: Sequence[int]) -> int:
    """Return the exit code of several runs."""
    return min(codes, key=ORDER.index)
