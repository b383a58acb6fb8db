"""kvmharness doctor."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from kvmharness import errors


@click.command()
@click.option(
    "--kernel",
    type=click.Path(path_type=Path),
    help="Say which MMU-role code a kernel that is not running has: a .deb, kvm.ko, vmlinuz or "
    "build tree.",
)
def doctor(kernel: Path | None) -> None:
    """Say what this host can measure, what it cannot, and what would mend it.

    Example: kvmharness doctor --kernel linux-image-6.1.0-49-amd64.deb
    """
    from kvmharness.kernel import roles
    from kvmharness.measure import doctor as examination

    if kernel:
        for line in examination.describe(roles.of_path(kernel)):
            click.echo(line)
        return
    checks = list(examination.examine())
    for check in checks:
        click.echo(f"{'ok  ' if check.ok else 'lack'}  {check.name}: {check.seen}")
        if check.mend:
            click.echo(f"      mend: {check.mend}")
    if not checks[0].ok:
        sys.exit(errors.EXIT_NOTHING_RAN)
