"""kvmharness check."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kvmharness import errors
from kvmharness.commands import options
from kvmharness.text import printable

if TYPE_CHECKING:
    from kvmharness.analysis.expectations import Answer, Answered, Expectation
    from kvmharness.commands.booting import Asked
    from kvmharness.kernel.build import Recipe
    from kvmharness.model.run import Run

WIDTH = len("incorrect")
# From the answer that weighs most.
ORDER = ("FAIL", "incorrect", "unclear", "ok")


@contextmanager
def _ending_with(code: int | None) -> Iterator[None]:
    """End with `code` where there is one, since `git bisect run` takes our 2 for a bad commit."""
    try:
        yield
    except errors.HarnessError as error:
        if code is None:
            raise
        click.echo(f"kvmharness: {printable(str(error))}", err=True)
        sys.exit(errors.EXIT_BISECT_ABORT if isinstance(error, errors.LabBug) else code)


def _asked(
    recipe: Recipe,
    variant: str,
    machine: str | None,
    boots: int | None,
    snapshots: bool,
    expected: list[Expectation],
) -> Asked:
    """Settle how a kernel is booted to measure what is expected, and each case's `empty`."""
    from kvmharness.commands import booting
    from kvmharness.model import cases

    chosen = cases.with_empties(cases.select([e.pattern for e in expected]))
    kinds = booting.kinds(machine)
    if len(kinds) > 1:
        raise errors.UsageError(f"--machine {machine}: check boots one machine; name one")
    return booting.ask(recipe, variant, chosen, kinds[0], boots, snapshots=snapshots)


def _booted(kernel: str, asked: Asked, bisect: bool) -> list[Run]:
    """Boot a kernel and measure it; what is wrong with one that is there is the commit's fault."""
    from kvmharness.commands import booting
    from kvmharness.kernel import resolve

    fault = errors.EXIT_BISECT_SKIP if resolve.is_local(kernel) else errors.EXIT_BISECT_ABORT
    with _ending_with(fault if bisect else None):
        (runs,) = booting.runs_of([kernel], asked)
        return runs


def _worst(expected: Expectation, runs: list[Run]) -> list[Answered]:
    """Return what came of an expectation, for each case as in the run that meets it least."""
    from kvmharness.analysis import expectations

    worst: dict[str, Answered] = {}
    for run in runs:
        for found in expectations.check(expected, run):
            so_far = worst.setdefault(found.case, found)
            if ORDER.index(found.answer) < ORDER.index(so_far.answer):
                worst[found.case] = found
    return list(worst.values())


def exit_code(answers: set[Answer], bisect: bool) -> int:
    """Return what the answers of all expectations end a command with."""
    if "FAIL" in answers or ("incorrect" in answers and not bisect):
        return errors.EXIT_REGRESSION
    if answers == {"ok"}:
        return errors.EXIT_OK
    # A KVM that is incorrect has no cost: whoever looks for a cost cannot test it.
    return errors.EXIT_BISECT_SKIP if bisect else errors.EXIT_UNCLEAR


def _show(outcomes: Sequence[tuple[str, Answered]], several: bool) -> None:
    """Print what came of every expectation, under the file's name where there are several."""
    from kvmharness.commands import annotations
    from kvmharness.render import tables

    widest = max((len(name) for name, _ in outcomes), default=0)
    out = tables.console()
    for name, found in outcomes:
        where = f"{name:{widest}}  " if several else ""
        said = f"{found.case} {found.expected}: {found.seen}"
        out.print(tables.plain(f"{found.answer:{WIDTH}}  {where}{said}"), soft_wrap=True)
        if found.answer != "ok" and annotations.wanted():
            annotations.annotate(found.answer == "unclear", f"check {name}", said)


@click.command()
@click.argument("file", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--expect",
    "texts",
    metavar="EXPR",
    multiple=True,
    required=True,
    help="CASE [net] < NUMBER ns|insn|ticks, CASE class GLOB, or CASE COUNTER < NUMBER (per op). "
    "CASE is a pattern; <=, > and >= work too.",
)
@click.option(
    "--bisect",
    is_flag=True,
    help="Exit as `git bisect run` wants it: 0 good, 1 bad, 125 this one cannot tell, 128 no "
    "commit could.",
)
@click.option("--lab", is_flag=True, help="FILE is a kernel: boot it and measure what is expected.")
@click.option(
    "--variant", default="default", show_default=True, help="With --lab: as `lab --variant`."
)
@click.option("--machine", metavar="NAME", help="With --lab: as `lab --machine`, but one.")
@options.boots
@options.snapshots
@options.built
def check(
    file: tuple[Path, ...],
    texts: tuple[str, ...],
    bisect: bool,
    lab: bool,
    variant: str,
    machine: str | None,
    boots: int | None,
    snapshots: bool,
    config: Path | None,
    reuse: bool,
) -> None:
    """Say whether each result file is as expected, a line an expectation and case.

    FILE may be a folder, which stands for its *.json, in sub-folders too. With --lab it is a
    kernel as `kvmharness lab` takes it, and every boot must be as expected.

    A cost is decided on its 95 % interval: all of it must lie within the bound.

    Where GITHUB_ACTIONS is true, what is not as expected is annotated too.

    Exit codes: 0 all is as expected, 1 something is not, 3 unclear.

    Example: kvmharness check 6.1.json --expect '*/cr0_wp class */kept'
    """
    from kvmharness.analysis import expectations, load
    from kvmharness.kernel.build import Recipe

    recipe = Recipe(config, reuse=reuse)

    # What is wrong with the question, or with a file, no commit can mend.
    with _ending_with(errors.EXIT_BISECT_ABORT if bisect else None):
        expected = expectations.parse_all(texts)
        if lab:
            asked = _asked(recipe, variant, machine, boots, snapshots, expected)
            named = {str(kernel): _booted(str(kernel), asked, bisect) for kernel in file}
            checked = list(named.items())
        else:
            checked = [(found.name, [found.run]) for found in load.summarised(file)]
        outcomes = [
            (name, outcome)
            for name, runs in checked
            for e in expected
            for outcome in _worst(e, runs)
        ]
    _show(outcomes, len(checked) > 1)
    sys.exit(exit_code({found.answer for _, found in outcomes}, bisect))
