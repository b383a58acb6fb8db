"""kvmharness explain."""

from __future__ import annotations

from pathlib import Path

import click

from kvmharness import errors
from kvmharness.commands import completion
from kvmharness.commands.options import Number


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
    samples: int,
    share: float,
    top: int,
    output: Path | None,
) -> None:
    """Show where every instruction of one op of CASE went, by function, with --lab.

    One KERNEL is explained; of two (or one in two variants) first what lies between them.

    Example: kvmharness explain long64/cr0_wp --lab linux-image-6.1.0-56-amd64 --variant tdp
    """
    from kvmharness.commands import explaining
    from kvmharness.lab import matrix
    from kvmharness.model import cases
    from kvmharness.render import explain_table, tables

    chosen = cases.select([case])
    if len(chosen) != 1:
        raise errors.UsageError(f"case {case!r}: names {len(chosen)} cases; name one")
    if not lab:
        raise errors.UsageError("explain: --lab is missing")
    if output:
        matrix.check_folder(output)
    found = explaining.explain(explaining.wanted(kernel, variants, modules), chosen[0], samples)
    explain_table.show(found, share / 100, top, tables.console())
    if output:
        for path in explaining.write(found, output):
            click.echo(f"written: {path}")
