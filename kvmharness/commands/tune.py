"""kvmharness tune."""

from __future__ import annotations

import click

from kvmharness import errors


@click.command()
@click.option("--revert", is_flag=True, help="Set back what was set since this machine was booted.")
@click.option("--dry-run", is_flag=True, help="Say what would be set, and why; set nothing.")
def tune(revert: bool, dry_run: bool) -> None:
    """Set this machine as doctor advises for measuring, until --revert or the next boot.

    That is the CPUs' governor, their turbo, and who may count with perf. Needs root. What is no
    setting, a module to load or a package to install, is left to you: see doctor.

    Example: kvmharness tune --dry-run
    """
    from kvmharness.measure import tuning

    if revert and dry_run:
        raise errors.UsageError("tune: --dry-run says what would be set; leave --revert out")
    if revert:
        _revert()
        return
    said = False
    if dry_run:
        for setting, change in tuning.planned():
            said = True
            click.echo(f"would set {change} ({setting.name}: {setting.why})")
    else:
        for made in tuning.apply():
            said = True
            click.echo(f"set {made}")
    if not said:
        click.echo("nothing to set: what there is here is as it should be")
    elif not dry_run:
        click.echo("set back by: kvmharness tune --revert")


def _revert() -> None:
    from kvmharness.measure import tuning

    said = False
    for change, why_not in tuning.revert():
        said = True
        if why_not:
            click.echo(f"left /{change.path} alone: {why_not}")
        else:
            click.echo(f"set back {change}")
    if not said:
        click.echo("nothing to set back: nothing was set since this machine was booted")
