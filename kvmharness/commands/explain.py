"""kvmharness explain."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kvmharness import errors
from kvmharness.commands import completion
from kvmharness.commands.options import Number, built

if TYPE_CHECKING:
    from kvmharness.model.cases import Case

# How long the case is sampled on real hardware, and its `empty`.
SECONDS = 1.0


@click.command()
@click.argument("case", shell_complete=completion.cases)
@click.argument("kernel", nargs=-1)
@click.option("--lab", is_flag=True, help="Boot each KERNEL and follow every instruction in it.")
@click.option(
    "--variant",
    "variants",
    multiple=True,
    metavar="NAME[+mitigations=off]",
    help="With --lab: as `lab --variant`; two of them are compared.",
)
@click.option(
    "--kvm-modules",
    "modules",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="With --lab: as `lab --kvm-modules`; two of them are compared.",
)
@click.option(
    "--nested",
    metavar="KERNEL",
    help="With --lab: boot this kernel inside, which measures; each KERNEL below it is followed.",
)
@click.option(
    "--nested-variant", metavar="NAME[+OPTION]", help="With --nested: as `lab --nested-variant`."
)
@click.option(
    "--samples",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    help="Samples to follow, those nearest the median.",
)
@click.option(
    "--share",
    type=Number(0, 100),
    default=2.0,
    show_default=True,
    metavar="PCT",
    help="Cut the call tree at functions that take less, in %.",
)
@click.option(
    "--top", type=click.IntRange(1), default=20, show_default=True, help="Functions shown."
)
@built
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for explain.json, flame graphs (.svg), .folded and .callgrind; made if need be.",
)
def explain(
    case: str,
    kernel: tuple[str, ...],
    lab: bool,
    variants: tuple[str, ...],
    modules: tuple[Path, ...],
    nested: str | None,
    nested_variant: str | None,
    samples: int,
    share: float,
    top: int,
    config: Path | None,
    reuse: bool,
    output: Path | None,
) -> None:
    """Show where every instruction of one op of CASE went, by kernel function, with --lab.

    One KERNEL is explained; of two (or one in two variants) first what lies between them.
    Without --lab the kernel that runs here is sampled: real hardware counts nothing exactly.

    Example: kvmharness explain long64/cr0_wp --lab linux-image-6.1.0-56-amd64 --variant tdp
    """
    from kvmharness.commands import explaining
    from kvmharness.kernel.build import Recipe
    from kvmharness.lab import planning
    from kvmharness.render import explain_table, tables

    chosen = explaining.case(case)
    if not lab:
        if kernel or variants or modules or nested or nested_variant or output:
            raise errors.UsageError(
                "explain: kernels, their options and --output need --lab; without it the kernel "
                "that runs here is sampled"
            )
        _sampled(chosen, top)
        return
    if output:
        planning.check_folder(output, [])
    recipe = Recipe(config, reuse=reuse)
    inner = explaining.inner(nested, recipe, nested_variant)
    wanted = explaining.wanted(kernel, recipe, variants, modules, inner)
    found = explaining.explain(wanted, chosen, samples)
    # Before anything is shown: a reader of stdout may leave (`| head`), and we with it.
    written = explaining.write(found, output) if output else []
    explain_table.show_explanation(found, share / 100, top, tables.console())
    for path in written:
        click.echo(f"written: {path}")


def _sampled(case: Case, top: int) -> None:
    """Show what can be had of the kernel that runs here: samples, and calls per op."""
    from kvmharness.analysis.profile import profiled, with_calls
    from kvmharness.kvm import fds
    from kvmharness.measure import feasible, host, profile
    from kvmharness.render import tables

    click.echo("Instructions cannot be accounted for exactly on real hardware: what follows is")
    click.echo("sampled by perf, and calls are counted by ftrace.  Use --lab for an exact account.")
    wanted = profile.settings(SECONDS, max(os.sched_getaffinity(0)))
    with fds.System() as system:
        reason = feasible.why_infeasible(case, feasible.limits(system, host.vendor_module()))
        if reason:
            raise errors.Unavailable(f"explain {case.name}: {reason}")
        sampled, _ = profile.profile(system, case, wanted)
        found = profiled(*sampled)
        not_followed = ""
        try:
            found = with_calls(found, *profile.calls(system, case, wanted))
        except errors.Unavailable as error:
            not_followed = str(error)
    out = tables.console()
    tables.show_profile(found, case.name, top, out)
    if not_followed:
        out.print(tables.plain(f"not counted: {not_followed}"), soft_wrap=True)
