"""Boot kernels for a command that needs their runs and nothing else: --lab of compare and check."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from kvmharness import errors
from kvmharness.commands.options import kernels

if TYPE_CHECKING:
    from kvmharness.kernel.build import Recipe
    from kvmharness.kernel.variants import Variant
    from kvmharness.lab.boot import LabMachine
    from kvmharness.lab.planning import LabPlan, Result
    from kvmharness.model.cases import Case
    from kvmharness.model.run import Run


def kinds(asked: str | None) -> list[LabMachine]:
    """Return the machines that `NAME[,NAME]...` asks for, once their tools are all here."""
    from kvmharness.lab import machines

    found = machines.choose_all(asked)
    machines.check_tools(found)
    return found


class Asked(NamedTuple):
    """How every kernel is built, where it must be, and booted, how often, and what is measured."""

    recipe: Recipe
    variant: Variant
    machine: LabMachine
    plan: LabPlan
    boots: int


def ask(
    recipe: Recipe,
    variant: str,
    chosen: Sequence[Case],
    kind: LabMachine,
    boots: int | None,
    *,
    snapshots: bool = True,
) -> Asked:
    """Settle all that is the same for every kernel.  Raises UsageError.

    It is booted `boots` times, None: as often as a comparison by the machine's clock wants;
    without `snapshots` from the start each time.
    """
    from kvmharness import cache
    from kvmharness.kernel import variants
    from kvmharness.lab import planning
    from kvmharness.measure.settings import for_lab
    from kvmharness.model.clocks import CLOCKS

    asked = variants.parse(variant)
    cache.folder()
    settings = {kind.clock: for_lab(kind.clock)}
    plan = planning.LabPlan(chosen, settings, None, None, None, snapshots=snapshots)
    return Asked(recipe, asked, kind, plan, boots or CLOCKS[kind.clock].boots)


def runs_of(named: Sequence[str], asked: Asked) -> list[list[Run]]:
    """Boot each kernel as asked, and return what was measured inside: one run per boot, by kernel.

    Raises UsageError for what is no kernel, LabLost for the first that was lost, Unavailable
    for one that cannot do the variant.
    """
    from kvmharness.commands import watching
    from kvmharness.lab import matrix, planning

    found = kernels(named, asked.recipe)
    targets = planning.targets(found, [asked.variant], [asked.machine], asked.boots)
    jobs = min(len(targets), len(os.sched_getaffinity(0)))
    with watching.watch(targets) as heard:
        results = {r.target: r for r in matrix.measure(targets, asked.plan, jobs, heard)}
    runs = [run_of(results[target], f"lab: {target.label}") for target in targets]
    return [runs[at : at + asked.boots] for at in range(0, len(runs), asked.boots)]


def run_of(result: Result, what: str) -> Run:
    """Return what was measured in a kernel.

    Raises what became of the kernel, its console shown, where it has no run; `what` names it.
    """
    if result.bug:
        raise result.bug
    if result.lost:
        from kvmharness.commands import watching

        watching.show_console(result.lost)
        raise result.lost
    if result.run is None:
        raise errors.Unavailable(f"{what}: skipped: {result.skipped}")
    return result.run
