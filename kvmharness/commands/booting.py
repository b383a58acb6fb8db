"""Boot kernels for a command that needs their runs and nothing else: --lab of compare and check."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from kvmharness import errors

if TYPE_CHECKING:
    from kvmharness.cases import Case
    from kvmharness.lab.runs import Result
    from kvmharness.results import Run


def runs_of(named: Sequence[str], variant: str, chosen: Sequence[Case]) -> list[Run]:
    """Boot each kernel in the variant, and return what was measured inside, in this order.

    Raises LabLost for the first that was lost, Unavailable for one that cannot do the variant.
    """
    from kvmharness.commands import lab
    from kvmharness.lab import kernels, machines, runs, variants, watching

    machines.check_tools()
    kind = machines.choose(None)
    asked = variants.parse(variant)
    targets = [runs.Target(kernels.resolve(name), asked) for name in named]
    settings = lab.settings(kind, None, None, None, 5.0, 100.0)
    plan = runs.Plan(chosen, settings, None, kind, None, None)
    jobs = min(len(targets), len(os.sched_getaffinity(0)))
    with watching.watch(targets) as progress:
        found = {r.target: r for r in runs.measure(targets, plan, jobs, progress)}
    return [_run(found[target]) for target in targets]


def _run(result: Result) -> Run:
    if result.lost:
        for line in result.lost.console.splitlines():
            click.echo(f"    {line}", err=True)
        raise result.lost
    if result.run is None:
        raise errors.Unavailable(f"lab: {result.target.label}: skipped: {result.skipped}")
    return result.run
