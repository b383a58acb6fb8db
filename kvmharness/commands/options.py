"""What the commands' options take."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kvmharness.commands import completion

if TYPE_CHECKING:
    from kvmharness.files import Output
    from kvmharness.kernel.build import Recipe
    from kvmharness.kernel.resolve import Kernel

F = TypeVar("F", bound=Callable[..., Any])

if TYPE_CHECKING:

    class IntType(click.ParamType[int]):
        """What becomes a number; click before 8.2 cannot say so while it runs."""
else:
    IntType = click.ParamType


boots = click.option(
    "--boots",
    type=click.IntRange(1, 100),
    help="With --lab: boots of each kernel, of different memory layouts. [3 by the clock insn, "
    "else 1]",
)


snapshots = click.option(
    "--no-snapshot",
    "snapshots",
    is_flag=True,
    flag_value=False,
    default=True,
    help="Boot each machine: go on with none that was saved when KVM was loaded. The figures are "
    "the same.",
)


machines_at_once = click.option(
    "-j", "--jobs", type=click.IntRange(1, 64), help="Machines at once. [one a CPU]"
)


def cases(suite: str) -> Callable[[F], F]:
    """Add --case and --suite; `suite` is the one whose cases are measured without either."""

    def add(command: F) -> F:
        named = click.option(
            "--suite",
            "suite_name",
            metavar="NAME|FILE",
            shell_complete=completion.suites,
            help=f"A suite's cases. [{suite}]",
        )
        single = click.option(
            "--case",
            "patterns",
            multiple=True,
            shell_complete=completion.cases,
            help="Cases as `run` takes them; repeatable.",
        )
        return single(named(command))

    return add


def amounts(samples: int) -> Callable[[F], F]:
    """Add --vms and --samples; `samples` are taken of a case where nobody says."""

    def add(command: F) -> F:
        vms = click.option(
            "--vms", type=click.IntRange(1, 1000), help="Fresh VMs for each case. [5]"
        )
        each = click.option(
            "--samples",
            type=click.IntRange(1, 100_000),
            help=f"Samples of each case. [{samples}]",
        )
        return vms(each(command))

    return add


def tell_kept(output: Output | None) -> None:
    """Say, on stderr, where the file that a result replaced is now."""
    if output and output.kept:
        click.echo(f"kvmharness: what {output.path} held is now {output.kept}", err=True)


class Number(click.FloatRange):
    """A range of numbers; NaN, which no bound excludes, is outside of it."""

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail("not a number", param, ctx)
        return number


class Pin(IntType):
    name = "CPU|none"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        if value == "none":
            return -1
        if isinstance(value, int):
            return value
        if value.isascii() and value.isdecimal() and len(value) < 7:
            return int(value)
        return self.fail(f"{value!r} is neither a CPU's number nor 'none'", param, ctx)


def configured(command: F) -> F:
    """Add --config, of kernels that are built."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="Build sources with this .config and what the lab needs. [the lab's own]",
    )(command)


def built(command: F) -> F:
    """Add --config and --reuse, of kernels that are named by their source."""
    reuse = click.option(
        "--reuse", is_flag=True, help="Take the build that a source tree holds, as it is."
    )
    return configured(reuse(command))


def kernels(named: Sequence[str], recipe: Recipe) -> list[Kernel]:
    """Return the kernels that are named, built where they must be, which stderr shows."""
    from kvmharness.commands import watching
    from kvmharness.kernel import resolve

    found = []
    for name in named:
        with watching.building(name) as heard:
            found.append(resolve.resolve(name, recipe, heard))
    return found


class Priority(IntType):
    name = "N|none"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        if value == "none":
            return 0
        if isinstance(value, int):
            return value
        if value.isascii() and value.isdecimal() and 1 <= int(value[:3]) <= 99:
            return int(value)
        return self.fail(f"{value!r} is neither a priority from 1 to 99 nor 'none'", param, ctx)
