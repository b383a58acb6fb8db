"""kvmharness lab: boot kernels and measure inside them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kvmharness import errors
from kvmharness.commands import options
from kvmharness.commands.options import Number, built, kernels
from kvmharness.model.clocks import LAB_PRECISION, LAB_TIMEOUT_S

if TYPE_CHECKING:
    from kvmharness.lab.planning import LabPlan, Result, Target


@click.command()
@click.argument("kernel", nargs=-1, required=True)
@click.option(
    "--variant",
    "variants",
    multiple=True,
    metavar="NAME[+OPTION]",
    help="default, tdp, legacy (kvm.tdp_mmu=1 or 0) or shadow (npt=0, ept=0); may be repeated.",
)
@click.option(
    "--nested",
    metavar="KERNEL",
    help="Boot this kernel inside each of the others, and measure its guest: two levels.",
)
@click.option(
    "--nested-variant",
    "nested_variants",
    multiple=True,
    metavar="NAME[+OPTION]",
    help="The variant of --nested; may be repeated.",
)
@options.cases("quick")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the run files and logs, KERNEL-VARIANT.json and .log; made if need be.",
)
@click.option(
    "--machine",
    metavar="NAME[,NAME]",
    help="kvm: nested, needs VMX or SVM here; emulated: tcg-svm (AMD), bochs-vmx (Intel); "
    "several with commas between. [kvm where it works]",
)
@click.option(
    "--kvm-modules",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Load kvm.ko and the vendor's module from this folder in place of the kernel's own.",
)
@click.option("--shell", is_flag=True, help="Measure nothing: give a shell in the booted kernel.")
@built
@options.snapshots
@options.machines_at_once
@click.option(
    "--boots",
    type=click.IntRange(1, 100),
    default=1,
    show_default=True,
    help="Boots of each kernel and variant, of different memory layouts, a run file each.",
)
@options.amounts(samples=25)
@click.option("--iterations", type=click.IntRange(1, 2**32 - 1), help="Ops a sample. [100]")
@click.option("--precision", type=Number(0.01, 100), default=LAB_PRECISION, hidden=True)
@click.option(
    "--timeout",
    type=Number(0.01, 86400),
    default=LAB_TIMEOUT_S,
    show_default=True,
    help="Seconds of the booted kernel's clock that one measurement may take.",
)
def lab(
    kernel: tuple[str, ...],
    variants: tuple[str, ...],
    nested: str | None,
    nested_variants: tuple[str, ...],
    patterns: tuple[str, ...],
    suite_name: str | None,
    output: Path | None,
    machine: str | None,
    kvm_modules: Path | None,
    shell: bool,
    config: Path | None,
    reuse: bool,
    snapshots: bool,
    jobs: int | None,
    boots: int,
    vms: int | None,
    samples: int | None,
    iterations: int | None,
    precision: float,
    timeout: float,
) -> None:
    """Boot each KERNEL in each variant, and measure inside it.

    KERNEL is a source tree, TREE@REVISION or linux-source-VERSION, which are built; a Debian
    package's name, which is fetched; a .deb, a vmlinuz, a folder that holds a build, an unpacked
    package's folder, or an installed version.

    Example: kvmharness lab linux-image-6.1.0-56-amd64 --variant tdp --variant shadow -o runs
    """
    from kvmharness.commands import booting
    from kvmharness.kernel import variants as known
    from kvmharness.kernel.build import Recipe
    from kvmharness.lab import planning
    from kvmharness.measure.settings import for_lab
    from kvmharness.model import suites

    kinds = booting.kinds(machine)
    wanted = [known.parse(text) for text in variants or ("default",)]
    recipe = Recipe(config, reuse=reuse)
    if shell:
        if any((patterns, suite_name, output, nested, jobs, vms, samples, iterations)):
            raise errors.UsageError("lab --shell: measures nothing; leave the other options out")
        _look(planning.targets(kernels(kernel, recipe), wanted, kinds, boots), kvm_modules)
        return
    chosen, suite_name = suites.chosen(patterns, suite_name, "quick")
    chosen_settings = {
        kind.clock: for_lab(kind.clock, vms, samples, iterations, precision, timeout)
        for kind in kinds
    }
    if nested_variants and nested is None:
        raise errors.UsageError("--nested-variant: name the kernel too; add --nested KERNEL")
    inner: list[planning.Inner | None] = [None]
    if nested is not None:
        (inside,) = kernels([nested], recipe)
        of_inner = [known.parse(text) for text in nested_variants or ("default",)]
        inner = [planning.Inner(inside, variant) for variant in of_inner]
    targets = planning.targets(kernels(kernel, recipe), wanted, kinds, boots, inner)
    planning.check_labels(targets)
    if output:
        planning.check_folder(output, targets)
    plan = planning.LabPlan(
        chosen, chosen_settings, suite_name, kvm_modules, output, snapshots=snapshots
    )
    jobs = jobs or len(os.sched_getaffinity(0))
    sys.exit(_measure(targets, plan, min(jobs, len(targets))))


def _look(targets: list[Target], kvm_modules: Path | None) -> None:
    """Give a shell in the one target there is."""
    from kvmharness.lab import shell

    if len(targets) > 1:
        raise errors.UsageError("lab --shell: takes one kernel, variant and machine")
    shell.look(targets[0], kvm_modules)


def _measure(targets: list[Target], plan: LabPlan, jobs: int) -> int:
    from kvmharness.analysis import exit_codes
    from kvmharness.commands import watching
    from kvmharness.lab import matrix

    found: list[Result] = []
    try:
        with watching.watch(targets) as heard:
            for result in matrix.measure(targets, plan, jobs, heard):
                found.append(result)
    finally:
        for result in sorted(found, key=lambda r: targets.index(r.target)):
            _show_or_rescue(result)
    for result in found:
        if result.bug:
            raise result.bug
    return exit_codes.worst([_code(result) for result in found])


def _show(result: Result) -> None:
    from kvmharness.render import curves

    name = result.target.label
    if result.run is not None:
        curves.print_run(result.run)
    if result.skipped:
        click.echo(f"skipped: {name}: {result.skipped}")
    if result.lost:
        from kvmharness.commands import watching

        watching.show_console(result.lost)
        click.echo(f"kvmharness: lost: {result.lost}", err=True)
    if result.path:
        click.echo(f"written: {result.path}")
    for output in result.outputs:
        options.tell_kept(output)
    click.echo()


def _show_or_rescue(result: Result) -> None:
    """Show a result; where that fails, by a bug, the others are shown all the same."""
    from kvmharness.commands import measuring

    try:
        _show(result)
    except OSError:  # stdout is full or gone
        raise
    except Exception as error:
        result.bug = result.bug or error
        if result.run and not result.path:
            measuring.rescue(result.run)


def _code(result: Result) -> int:
    from kvmharness.analysis import exit_codes

    if result.lost:
        return result.lost.exit_code
    return exit_codes.of_run(result.run) if result.run else errors.EXIT_NOTHING_RAN
