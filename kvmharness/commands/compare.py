"""kvmharness compare."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kvmharness import errors
from kvmharness.commands.options import Number

if TYPE_CHECKING:
    from kvmharness.analysis.compare import Side


def _names(paths: tuple[Path, ...]) -> list[str]:
    """Return what to call each side: its last part where that tells them apart."""
    names = [path.resolve().name.removesuffix(".json") for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _booted(paths: tuple[Path, ...], variant: str) -> list[Side]:
    """Boot what the paths name as kernels; each is a side of one run."""
    from kvmharness.analysis import compare
    from kvmharness.commands import booting
    from kvmharness.model import suites

    named = [str(path) for path in paths]
    runs = booting.runs_of(named, variant, suites.load("quick").cases)
    return [compare.side(name, [run]) for name, run in zip(_names(paths), runs, strict=True)]


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
def compare(
    base: Path, new: tuple[Path, ...], threshold: float | None, lab: bool, variant: str
) -> None:
    """Say which cases are faster or slower in NEW than in BASE, and what KVM did otherwise.

    BASE and NEW are run files, or folders whose *.json, in sub-folders too, are several runs
    of one kernel; with --lab, kernels as `kvmharness lab` takes them, for the suite quick.

    Exit codes: 0 nothing is slower, 1 something is slower or incorrect, 3 unclear.

    Example: kvmharness compare 5.10.json 6.1.json
    """
    from kvmharness.analysis import compare as comparing
    from kvmharness.render import compare_table, tables

    paths = (base, *new)
    if lab:
        sides = _booted(paths, variant)
    else:
        sides = [_side(path, name) for path, name in zip(paths, _names(paths), strict=True)]
    share = None if threshold is None else threshold / 100
    out = tables.console()
    codes = set()
    for number, side in enumerate(sides[1:]):
        comparison = comparing.compare(sides[0], side, share)
        if number:
            out.print()
        compare_table.show(comparison, out)
        codes.add(comparison.exit_code)
    sys.exit(next(c for c in (errors.EXIT_REGRESSION, errors.EXIT_UNCLEAR, 0) if c in codes))
