"""kvmharness perf."""

from __future__ import annotations

import os
from pathlib import Path

import click

from kvmharness import errors
from kvmharness.commands import completion
from kvmharness.commands.options import Number


@click.command()
@click.argument("case", shell_complete=completion.cases)
@click.option(
    "--seconds",
    type=Number(0.01, 600),
    default=1.0,
    show_default=True,
    help="How long to sample the case, and as long its `empty`.",
)
@click.option("--top", type=click.IntRange(1), default=20, show_default=True, help="Symbols shown.")
@click.option("--kvm-stat", is_flag=True, help="Print perf's own `kvm stat` report instead.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Keep perf.data here.")
def perf(case: str, seconds: float, top: int, kvm_stat: bool, output: Path | None) -> None:
    """Show the kernel symbols that one op of CASE spends its time in, net of `empty`.

    Example: kvmharness perf long64/cr0_wp --output perf.data
    """
    from kvmharness import files
    from kvmharness.analysis.profile import profiled
    from kvmharness.commands import options
    from kvmharness.kvm import fds
    from kvmharness.measure import feasible, host, profile
    from kvmharness.model import cases
    from kvmharness.render import tables

    chosen = cases.select([case])
    if len(chosen) != 1:
        raise errors.UsageError(f"case {case!r}: names {len(chosen)} cases; name one")
    if kvm_stat and output:
        raise errors.UsageError("perf --kvm-stat: perf prints a report; leave --output out")
    target = files.Output(output) if output else None
    wanted = profile.settings(seconds, max(os.sched_getaffinity(0)))
    module = host.vendor_module()
    with fds.System() as system:
        reason = feasible.why_infeasible(chosen[0], feasible.limits(system, module))
        if reason:
            raise errors.Unavailable(f"perf {chosen[0].name}: {reason}")
        if kvm_stat:
            report = profile.kvm_stat(system, chosen[0], module, wanted)
            click.echo(report, nl=False)
            return
        sampled, data = profile.profile(system, chosen[0], wanted)
    tables.show_profile(profiled(*sampled), chosen[0].name, top, tables.console())
    if target:
        target.write(data)
        options.tell_kept(target)
