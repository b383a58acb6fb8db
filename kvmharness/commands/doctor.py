"""kvmharness doctor."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kvmharness import errors

if TYPE_CHECKING:
    from kvmharness.measure.doctor import Check


@click.command()
@click.option(
    "--kernel",
    type=click.Path(path_type=Path),
    help="Say which MMU-role code a kernel that is not running has: a .deb, kvm.ko, vmlinuz or "
    "build tree.",
)
@click.option(
    "--self-test",
    is_flag=True,
    help="Say by hostile guests, the W^X proof and known answers what figures can be trusted for.",
)
def doctor(kernel: Path | None, self_test: bool) -> None:
    """Say what this host can measure, what it cannot, and what would mend it.

    Exit codes: 0 ok; with --self-test 1 KVM is incorrect, 3 something cannot be trusted.

    Example: kvmharness doctor --kernel linux-image-6.1.0-49-amd64.deb
    """
    from kvmharness.kernel import roles
    from kvmharness.measure import doctor as examination

    if kernel:
        for line in examination.describe(roles.of_path(kernel)):
            click.echo(line)
        return
    if self_test:
        sys.exit(_self_test())
    checks = list(examination.examine())
    for check in [*checks, *_labs()]:
        click.echo(f"{'ok  ' if check.ok else 'lack'}  {check.name}: {check.seen}")
        if check.mend:
            click.echo(f"      mend: {check.mend}")
    if not checks[0].ok:
        sys.exit(errors.EXIT_NOTHING_RAN)


def _self_test() -> int:
    """Test this host, a line a test; return the exit code."""
    from kvmharness.kvm.fds import System
    from kvmharness.measure import selftest
    from kvmharness.text import printable

    found = []
    with System() as system:
        for tested in selftest.run(system):
            found.append(tested)
            click.echo(
                f"{'ok  ' if tested.ok else 'FAIL'}  {tested.vouches}: {printable(tested.seen)}"
            )
    good = ", ".join(tested.vouches for tested in found if tested.ok)
    bad = ", ".join(tested.vouches for tested in found if not tested.ok)
    click.echo(f"this host's figures can be trusted for: {good or 'nothing'}")
    if bad:
        click.echo(f"not for: {bad}")
    if any(tested.incorrect for tested in found):
        return errors.EXIT_REGRESSION
    return errors.EXIT_UNCLEAR if bad else errors.EXIT_OK


def _labs() -> Iterator[Check]:
    """Look at what the emulated machines of the lab need, whatever this host's CPU is."""
    from kvmharness.lab import machines
    from kvmharness.measure.doctor import Check

    for name, machine in machines.EMULATED.items():
        lacking = machines.missing([machine])
        if lacking:
            seen = f"not installed: {', '.join(lacking)}"
            yield Check(f"lab {name}", False, seen, machines.install(lacking))
        else:
            emulator = machine.emulator
            yield Check(f"lab {name}", True, f"{emulator.name} {emulator.version()}")
