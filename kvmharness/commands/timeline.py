"""kvmharness timeline: one history of many kernels."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kvmharness import errors
from kvmharness.commands import options
from kvmharness.commands.options import built

if TYPE_CHECKING:
    from kvmharness.lab.pool import Pool

VARIANTS = ("tdp", "legacy", "shadow")


@click.command()
@click.argument("kernel", nargs=-1)
@click.option(
    "--debian", is_flag=True, help="The oldest and the newest of each series that Debian offers."
)
@click.option(
    "--git",
    "tree",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The kernels of a git tree's tags, which are built.",
)
@click.option("--tags", multiple=True, metavar="GLOB", help="With --git. [v*]")
@click.option("--since", metavar="VERSION", help="With --debian and --git: no older ones.")
@click.option(
    "--variant",
    "variants",
    multiple=True,
    metavar="NAME[+OPTION]",
    help="As `lab --variant`; may be repeated. [tdp, legacy, shadow]",
)
@click.option(
    "--machine",
    default="tcg-svm",
    show_default=True,
    metavar="NAME[,NAME]",
    help="As `lab --machine`.",
)
@options.cases("timeline")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="The timeline's folder: what is in it is not measured again.",
)
@click.option(
    "--rebuild", is_flag=True, help="Measure again what is there, and compare; failures too."
)
@click.option(
    "--twice",
    is_flag=True,
    help="Measure each job twice, on two machines if there are, and compare.",
)
@click.option(
    "--scheduler", metavar="ADDRESS", help="Have the workers of this Dask scheduler do the jobs."
)
@click.option(
    "--explain", is_flag=True, help="Say by which functions a cost changed; two boots a step."
)
@built
@options.machines_at_once
@options.amounts(samples=25)
def timeline(
    kernel: tuple[str, ...],
    debian: bool,
    tree: Path | None,
    tags: tuple[str, ...],
    since: str | None,
    variants: tuple[str, ...],
    machine: str,
    patterns: tuple[str, ...],
    suite_name: str | None,
    output: Path,
    rebuild: bool,
    twice: bool,
    scheduler: str | None,
    explain: bool,
    config: Path | None,
    reuse: bool,
    jobs: int | None,
    vms: int | None,
    samples: int | None,
) -> None:
    """Measure many kernels, each once, and say at which of them a cost or a class changed.

    What -o DIR holds is not measured again: a timeline that was interrupted goes on, and grows by
    the kernels that are named next.  Without any it only tells what DIR holds.

    Exit codes: 4 where a job or an explanation was lost, or figures of one job differ.

    Example: kvmharness timeline --debian --machine tcg-svm,bochs-vmx -o timeline
    """
    from kvmharness.analysis import exit_codes
    from kvmharness.commands import explained_steps, history
    from kvmharness.kernel.build import Recipe

    if tags and tree is None:
        raise errors.UsageError("--tags: of which tree? add --git TREE")
    asked = history.Asked(
        named=kernel,
        debian=debian,
        tree=tree,
        patterns=tags or ("v*",),
        since=since,
        recipe=Recipe(config, reuse=reuse),
    )
    if explain and not asked.any:
        raise errors.UsageError("--explain: by booting which kernels? name them, or add --debian")
    codes = []
    if asked.any:
        how = history.How(
            output,
            machine,
            variants or VARIANTS,
            patterns,
            suite_name,
            vms,
            samples,
            rebuild,
            twice,
        )
        with _pool(scheduler, jobs) as workers:
            code, kernels = history.measure(asked, how, workers)
        codes.append(code)
        if explain:
            codes.append(explained_steps.explain(output, since, kernels))
    codes.append(history.show(output, since))
    sys.exit(exit_codes.worst(codes))


def _pool(scheduler: str | None, jobs: int | None) -> Pool:
    """Return who does the jobs.  Raises UsageError."""
    from kvmharness.lab import pool, remote

    if scheduler is None:
        return pool.Local(jobs or len(os.sched_getaffinity(0)))
    if jobs:
        raise errors.UsageError("--jobs: the workers there say how many they do; leave it out")
    return remote.Cluster(scheduler)
