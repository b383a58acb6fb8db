"""kvmharness run."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import click

from kvmharness import errors
from kvmharness.commands import completion
from kvmharness.commands.options import Number, Pin, Priority


@click.command()
@click.argument("pattern", nargs=-1, shell_complete=completion.cases)
@click.option(
    "--suite",
    "suite_name",
    metavar="NAME|FILE",
    shell_complete=completion.suites,
    help="Measure a suite's cases, as it says: controls, full, progress, quick, roles, "
    "scaling, wx or a TOML file.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the result file here.")
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
    from kvmharness import files
    from kvmharness.analysis import exit_codes
    from kvmharness.commands import measuring, options
    from kvmharness.measure.settings import QUICK, Wanted, settle
    from kvmharness.model import cases, runfile, suites
    from kvmharness.model.clocks import Defaults
    from kvmharness.render import curves

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
    target = files.Output(output) if output else None
    # A number of VMs that somebody chose is kept to; the usual one is a beginning.
    extend = vms is None and not quick and defaults.vms is None
    record, ended = measuring.measure(
        chosen, settings, target, extend=extend, suite=suite_name, apart=pin is None
    )
    unwritten = None
    if target:
        try:
            target.write(runfile.encode(record))
        except errors.UsageError as error:  # a full disk: the figures still go to stdout
            unwritten = error
    try:
        if as_json:
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
    if isinstance(ended, Exception) and not (target and unwritten is None):
        measuring.rescue(record)
    if unwritten:
        raise unwritten
    if isinstance(ended, Exception):
        raise ended
    sys.exit(errors.EXIT_INTERRUPTED if ended else exit_codes.of_run(record))
