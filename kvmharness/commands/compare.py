"""kvmharness compare."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kvmharness import errors
from kvmharness.commands import completion, options
from kvmharness.commands.options import Number

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kvmharness.analysis.compare import Comparison, Side
    from kvmharness.kernel.build import Recipe
    from kvmharness.lab.boot import LabMachine


def _names(paths: tuple[Path, ...]) -> list[str]:
    """Return what to call each side: its last part where that tells them apart."""
    names = [Path(os.path.realpath(path)).name.removesuffix(".json") for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _booted(
    paths: tuple[Path, ...],
    recipe: Recipe,
    variant: str,
    kind: LabMachine,
    boots: int | None,
    snapshots: bool,
) -> list[Side]:
    """Boot what the paths name as kernels; each is a side that has one run per boot."""
    from kvmharness.analysis import compare
    from kvmharness.commands import booting
    from kvmharness.model import suites

    named = [str(path) for path in paths]
    quick = suites.load("quick").cases
    asked = booting.ask(recipe, variant, quick, kind, boots, snapshots=snapshots)
    sides = zip(_names(paths), booting.runs_of(named, asked), strict=True)
    return [compare.side(name, runs) for name, runs in sides]


def _side(path: Path, name: str) -> Side:
    """Read a run file, or a folder of them."""
    from kvmharness.analysis import compare, load

    return compare.side(name, [found.run for found in load.classified([path])])


@click.command()
@click.argument("base", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--threshold",
    type=Number(0, 1000),
    metavar="PCT",
    help="The least change that matters, in %. [2; 0.1 by the clock insn]",
)
@click.option("--lab", is_flag=True, help="BASE and NEW are kernels: boot and measure them first.")
@click.option(
    "--variant", default="default", show_default=True, help="With --lab: as `lab --variant`."
)
@click.option(
    "--machine",
    metavar="NAME[,NAME]",
    help="With --lab: as `lab --machine`; a table for each. [kvm where it works]",
)
@options.boots
@options.snapshots
@click.option(
    "--explain",
    metavar="CASE",
    shell_complete=completion.cases,
    help="With --lab: where this case's difference lies, by kernel function (as `explain`).",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "markdown", "json"]),
    default="table",
    show_default=True,
    help="markdown: for a pull request; json: for a program.",
)
@click.option("--json", "form", flag_value="json", help="The same as --format json.")
@options.built
def compare(
    base: Path,
    new: tuple[Path, ...],
    threshold: float | None,
    lab: bool,
    variant: str,
    machine: str | None,
    boots: int | None,
    snapshots: bool,
    explain: str | None,
    form: str,
    config: Path | None,
    reuse: bool,
) -> None:
    """Say which cases are faster or slower in NEW than in BASE, and what KVM did otherwise.

    BASE and NEW are run files, or folders whose *.json, in sub-folders too, are several runs
    of one kernel; with --lab, kernels as `kvmharness lab` takes them, for the suite quick.

    Exit codes: 0 nothing is slower, 1 something is slower, incorrect or worse in class, 3 unclear.

    Example: kvmharness compare 5.10.json 6.1.json
    """
    from kvmharness.analysis import compare as comparing
    from kvmharness.kernel.build import Recipe
    from kvmharness.render import compare_formats

    if explain and not lab:
        raise errors.UsageError("compare --explain: only a lab can be followed; add --lab")
    if explain and form != "table":
        raise errors.UsageError(f"compare --explain: prints tables; leave --format {form} out")
    paths = (base, *new)
    recipe = Recipe(config, reuse=reuse) if lab else None
    share = None if threshold is None else threshold / 100
    found: list[tuple[str | None, Comparison]] = []
    for title, sides in _tables(paths, recipe, variant, machine, boots, snapshots):
        compared = [(title, comparing.compare(sides[0], side, share)) for side in sides[1:]]
        if form == "table":  # as soon as it is there
            _show(compared, first=not found)
        found += compared
    if form != "table":
        write = compare_formats.as_json if form == "json" else compare_formats.as_markdown
        click.echo(write(found).rstrip("\n"))
    if explain and recipe:
        _explain(paths, recipe, variant, explain)
    codes = {comparison.exit_code for _, comparison in found}
    sys.exit(next(c for c in (errors.EXIT_REGRESSION, errors.EXIT_UNCLEAR, 0) if c in codes))


def _explain(paths: tuple[Path, ...], recipe: Recipe, variant: str, case: str) -> None:
    """Boot base and each new kernel once more, and show where the case's difference lies."""
    from kvmharness.commands import explaining

    chosen = explaining.case(case)
    for path in paths[1:]:
        click.echo()
        explaining.show_difference([str(paths[0]), str(path)], recipe, variant, chosen)


def _tables(
    paths: tuple[Path, ...],
    recipe: Recipe | None,
    variant: str,
    machine: str | None,
    boots: int | None,
    snapshots: bool,
) -> Iterator[tuple[str | None, list[Side]]]:
    """Yield what is compared in a table of its own: what to call it, if need be, and its sides."""
    from kvmharness.commands import booting

    if recipe is None:
        yield None, [_side(path, name) for path, name in zip(paths, _names(paths), strict=True)]
        return
    kinds = booting.kinds(machine)
    for kind in kinds:
        title = f"{kind.name}, {kind.vendor}" if len(kinds) > 1 else None
        yield title, _booted(paths, recipe, variant, kind, boots, snapshots)


def _show(found: Sequence[tuple[str | None, Comparison]], *, first: bool) -> None:
    """Print comparisons of one machine, under its name where there are several."""
    from kvmharness.render import compare_table, fitting, tables

    out = tables.console()
    for number, (title, comparison) in enumerate(found):
        if number or not first:
            out.print()
        if title and not number:
            out.print(tables.plain(f"{title}:"))
        compare_table.show_comparison(comparison, out, fitting.room())
