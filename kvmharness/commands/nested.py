"""kvmharness nested."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kvmharness import errors
from kvmharness.commands import options
from kvmharness.commands.options import Number, built, kernels
from kvmharness.model.clocks import LAB_TIMEOUT_S

if TYPE_CHECKING:
    from kvmharness.lab.here import Ended


@click.command()
@click.argument("kernel")
@click.option(
    "--variant", metavar="NAME[+OPTION]", default="default", help="As `lab --variant`, of KERNEL."
)
@options.cases("quick")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the result file here.")
@options.amounts(samples=50)
@click.option(
    "--timeout",
    type=Number(0.01, 86400),
    default=LAB_TIMEOUT_S,
    show_default=True,
    help="Seconds that one measurement may take.",
)
@built
def nested(
    kernel: str,
    variant: str,
    patterns: tuple[str, ...],
    suite_name: str | None,
    output: Path | None,
    vms: int | None,
    samples: int | None,
    timeout: float,
    config: Path | None,
    reuse: bool,
) -> None:
    """Boot KERNEL in this machine's KVM, and measure its guest: two levels, in real time.

    This kernel is L0, and needs kvm_intel or kvm_amd with nested=1. Without that, `lab L0 --nested
    L1` has both levels in an emulated machine.

    Example: kvmharness nested linux-image-6.1.0-56-amd64 --variant tdp -o nested.json
    """
    from kvmharness import files
    from kvmharness.kernel import variants
    from kvmharness.kernel.build import Recipe
    from kvmharness.lab import here, machines, planning
    from kvmharness.lab.packing import Measured
    from kvmharness.lab.workshop import Workshop
    from kvmharness.measure.settings import for_lab
    from kvmharness.model import runfile, suites

    vendor = machines.nested_vendor()
    if vendor is None:
        raise errors.UsageError(
            f"nested: {machines.NO_NESTING}; use `kvmharness lab L0 --nested {kernel}`"
        )
    target = files.Output(output) if output else None
    chosen, suite_name = suites.chosen(patterns, suite_name, "quick")
    (found,) = kernels([kernel], Recipe(config, reuse=reuse))
    settings = for_lab("tsc", vms, samples, timeout_s=timeout)
    plan = planning.LabPlan(chosen, {"tsc": settings}, suite_name, None, None)
    measured = Measured(found, variants.parse(variant), vendor, "tsc")
    with Workshop() as workshop:
        ended = here.measure(measured, plan, workshop.job(), _heard)
    if target and ended.run:
        target.write(runfile.encode(ended.run))
    sys.exit(_tell(ended))


def _heard(line: str) -> None:
    click.echo(line, err=True)


def _tell(ended: Ended) -> int:
    """Show what became of it; return the exit code."""
    from kvmharness.analysis import exit_codes
    from kvmharness.commands import watching
    from kvmharness.render import curves

    if ended.run is not None:
        curves.print_run(ended.run)
    if ended.skipped:
        click.echo(f"skipped: {ended.skipped}")
    if ended.lost:
        watching.show_console(ended.lost)
        click.echo(f"kvmharness: lost: {ended.lost}", err=True)
        return ended.lost.exit_code
    return exit_codes.of_run(ended.run) if ended.run else errors.EXIT_NOTHING_RAN
