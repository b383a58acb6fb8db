"""kvmharness run."""

from __future__ import annotations

import errno
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from kvmharness import errors
from kvmharness.commands import completion
from kvmharness.commands.options import Number, Pin, Priority

if TYPE_CHECKING:
    from kvmharness.model.cases import Case
    from kvmharness.model.run import Settings


@click.command()
@click.argument("pattern", nargs=-1, shell_complete=completion.cases)
@click.option(
    "--suite",
    "suite_name",
    metavar="NAME|FILE",
    shell_complete=completion.suites,
    help="Measure a suite's cases, as it says: controls, full, progress, quick, roles, "
    "scaling, timeline, wx or a TOML file.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the result file here.")
@click.option(
    "--runs",
    type=click.IntRange(1, 1000),
    help="Measure all so many times, a file each in the folder -o: run-1.json and so on.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result file, not the table.")
@click.option("--list", "only_list", is_flag=True, help="List the cases and measure nothing.")
@click.option("--quick", is_flag=True, help="5 VMs, 30 samples: a first look.")
@click.option("--vms", type=click.IntRange(1, 1000), help="Fresh VMs for each case. [10]")
@click.option("--samples", type=click.IntRange(1, 100_000), help="Samples of each case. [100]")
@click.option(
    "--iterations", type=click.IntRange(1, 2**32 - 1), help="Ops a sample. [calibrated to 0.7 ms]"
)
@click.option("--pin", type=Pin(), help="CPU for the vCPU thread. [the last one allowed]")
@click.option(
    "--priority",
    type=Priority(),
    help="Real-time priority (SCHED_FIFO) while timing. [50 where allowed]",
)
@click.option(
    "--precision",
    type=Number(0.01, 100),
    default=5.0,
    show_default=True,
    help="Interval wanted, in % of the median to each side; exit 3 where it was not reached.",
)
@click.option(
    "--timeout",
    type=Number(0.01, 86400),
    default=10.0,
    show_default=True,
    help="Seconds that one measurement may take before its guest is stopped.",
)
def run(
    pattern: tuple[str, ...],
    suite_name: str | None,
    output: Path | None,
    runs: int | None,
    as_json: bool,
    only_list: bool,
    quick: bool,
    vms: int | None,
    samples: int | None,
    iterations: int | None,
    pin: int | None,
    priority: int | None,
    precision: float,
    timeout: float,
) -> None:
    """Measure the cases that PATTERN names on this kernel.

    Without one: empty, cr0_wp, cpuid and pio of real16 and long64; all with '*'.

    With --suite, PATTERN picks among the suite's cases by their whole names.

    Example: kvmharness run 'long64/*' '*/cr0_wp@irqchip=0' -o here.json
    """
    from kvmharness.commands import measuring
    from kvmharness.measure.settings import Wanted, settle
    from kvmharness.model import cases, suites
    from kvmharness.model.clocks import QUICK, Defaults

    suite = suites.load(suite_name) if suite_name is not None else None
    chosen = suite.within(pattern) if suite else cases.select(pattern)
    if only_list:
        for case in chosen:
            click.echo(f"{case.name:24} {next(o.about for o in cases.OPS if o.name == case.op)}")
        return
    defaults = suite.settings if suite else Defaults()
    wanted = Wanted(
        vms, samples, iterations, pin, precision, timeout, measuring.allowed_priority(priority)
    )
    settings = settle(wanted, QUICK if quick else defaults)
    asked = Asked(
        chosen,
        settings,
        # A number of VMs that somebody chose is kept to; the usual one is a beginning.
        extend=vms is None and not quick and defaults.vms is None,
        suite=suite_name,
        apart=pin is None,
        as_json=as_json,
    )
    if runs is None:
        sys.exit(_measure(asked, output))
    sys.exit(_several(asked, runs, output))


class Asked(NamedTuple):
    """What every run measures, and how; what to print of it."""

    chosen: Sequence[Case]
    settings: Settings
    extend: bool
    suite: str | None
    apart: bool
    as_json: bool


def _several(asked: Asked, runs: int, folder: Path | None) -> int:
    """Measure several times, a file each, beside those that the folder holds; return the code."""
    from kvmharness.analysis import exit_codes

    if folder is None or asked.as_json:
        raise errors.UsageError(
            "run --runs: writes a file a run; leave --json out, and name their folder: -o FOLDER"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.UsageError(f"make {folder}: {error.strerror}; name another folder") from None
    free = (f for n in itertools.count(1) if not (f := folder / f"run-{n}.json").exists())
    codes: list[int] = []
    for number in range(1, runs + 1):
        path = next(free)
        click.echo(f"{chr(10) if codes else ''}run {number} of {runs}, {path}:")
        codes.append(_measure(asked, path))
        if codes[-1] == errors.EXIT_INTERRUPTED:
            return errors.EXIT_INTERRUPTED
    return exit_codes.worst(codes)


def _measure(asked: Asked, output: Path | None) -> int:
    """Measure once, write and show it; return the exit code."""
    from kvmharness import files
    from kvmharness.analysis import exit_codes
    from kvmharness.commands import measuring, options
    from kvmharness.model import runfile
    from kvmharness.render import curves

    target = files.Output(output) if output else None
    record, ended = measuring.measure(
        asked.chosen,
        asked.settings,
        target,
        extend=asked.extend,
        suite=asked.suite,
        apart=asked.apart,
    )
    unwritten = None
    if target:
        try:
            target.write(runfile.encode(record))
        except errors.UsageError as error:  # a full disk: the figures still go to stdout
            unwritten = error
    try:
        if asked.as_json:
            click.echo(runfile.encode(record), nl=False)
        else:
            curves.print_run(record)
        sys.stdout.flush()
    except errors.StdoutLost as lost:
        if lost.errno == errno.EPIPE:  # whoever reads has seen enough
            raise
        ended = lost
    except Exception as error:
        ended = ended or error
    options.tell_kept(target)
    if unwritten or (isinstance(ended, Exception) and not target):
        measuring.rescue(record)
    if unwritten:
        raise unwritten
    if isinstance(ended, Exception):
        raise ended
    return errors.EXIT_INTERRUPTED if ended else exit_codes.of_run(record)
