"""`timeline --explain`: by which functions a case's cost changed at a step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from kvmharness import errors
from kvmharness.analysis import load, timeline
from kvmharness.analysis.timeline import Step
from kvmharness.commands import explaining
from kvmharness.commands.explaining import Wanted
from kvmharness.kernel import history, variants
from kvmharness.kernel.resolve import Kernel
from kvmharness.lab import machines
from kvmharness.model import cases, explanation
from kvmharness.model.note import EXPLAINED
from kvmharness.text import printable

NO_TRACE = "steps on {} are not explained: no trace follows every instruction there"


def _say(line: str) -> None:
    click.echo(printable(line), err=True)


def _wanted(step: Step, kernels: Sequence[Kernel]) -> list[Wanted]:
    """Return the two kernels around a step.  Raises UsageError where they are not at hand."""
    found = []
    for point in (step.before, step.after):
        held = [kernel for kernel in kernels if kernel.release == point.release]
        if len(held) != 1:
            why = "several are called so" if held else "nobody named it; add it"
            raise errors.UsageError(f"{point.release}: {why}")
        found.append(Wanted(held[0], variants.parse(step.way.variant), None))
    return found


def _missing(folder: Path, since: str | None) -> Iterator[list[Step]]:
    """Yield the steps that want an explanation, those between the same two kernels together."""
    first = history.since(since) if since else None
    held = load.folder(folder)
    found = timeline.timeline(held.runs, first)
    together: dict[tuple[object, ...], list[Step]] = defaultdict(list)
    elsewhere = set()
    for step in found.steps:
        if step.way.machine != machines.TCG_SVM.name:
            elsewhere.add(step.way.machine)
        elif step.of_cost and step.name not in held.explained:
            together[step.way, step.before.files[0], step.after.files[0]].append(step)
    for machine in sorted(elsewhere):
        _say(NO_TRACE.format(machine))
    yield from together.values()


def _explain(steps: Sequence[Step], kernels: Sequence[Kernel], folder: Path) -> int:
    """Explain steps between the same two kernels; return the exit code."""
    wanted = _wanted(steps[0], kernels)
    chosen = cases.select([step.case for step in steps])
    by_case = {step.case: step for step in steps}
    code = errors.EXIT_OK
    for case, found in zip(chosen, explaining.explain_each(wanted, chosen, 1), strict=True):
        if isinstance(found, errors.HarnessError):
            _say(f"not explained: {found}")
            code = errors.EXIT_LOST
        else:
            explanation.write(folder / f"{by_case[case.name].name}{EXPLAINED}", found)
    return code


def explain(folder: Path, since: str | None, kernels: Sequence[Kernel]) -> int:
    """Explain each step in cost that is not yet, by two boots a pair of kernels.

    Returns the exit code: 4 where a pair was lost or did not add up.  Raises UsageError for a
    folder that takes nothing.
    """
    code = errors.EXIT_OK
    for steps in _missing(folder, since):
        one = steps[0]
        pair = f"{one.before.name} → {one.after.name}, {one.way.variant}"
        try:
            code = max(code, _explain(steps, kernels, folder))
        except errors.HarnessError as error:
            _say(f"not explained: {pair}: {error}")
            code = errors.EXIT_LOST
        else:
            _say(f"explained: {pair}: {', '.join(step.case for step in steps)}")
    return code
