"""kvmharness kernels: what can be fetched, what was, and what it is."""

from __future__ import annotations

from pathlib import Path

import click

from kvmharness.commands.options import configured


@click.group()
def kernels() -> None:
    """List, fetch, build and show kernels for the lab.

    Example: kvmharness kernels fetch linux-image-6.1.0-56-amd64
    """


@kernels.command("list")
@click.argument("text", required=False, default="")
def list_(text: str) -> None:
    """List Debian's kernel packages that apt's mirror offers (those with TEXT in their names).

    Example: kvmharness kernels list 6.12
    """
    from kvmharness.kernel import debian

    here = set(debian.fetched())
    for offer in debian.offers():
        if text in offer.name:
            mark = "fetched" if offer.name in here else ""
            click.echo(f"{offer.name:36} {offer.version:24} {offer.suite:20} {mark}".rstrip())


@kernels.command()
@click.argument("name", nargs=-1, required=True)
def fetch(name: tuple[str, ...]) -> None:
    """Fetch and unpack Debian kernel packages into the cache, verified by apt.

    Example: kvmharness kernels fetch linux-image-6.1.0-56-amd64
    """
    from kvmharness import errors
    from kvmharness.kernel import debian
    from kvmharness.kernel import resolve as known

    for one in name:
        if not debian.is_kernel_package(one):
            raise errors.UsageError(
                f"kernel {one}: no kernel package's name; `kvmharness kernels list` shows them"
            )
        click.echo(debian.fetch(one, known.unpack))


@kernels.command()
@click.argument("source", nargs=-1, required=True)
@configured
@click.option("-j", "--jobs", type=click.IntRange(1, 1024), help="make's. [one a CPU]")
def build(source: tuple[str, ...], config: Path | None, jobs: int | None) -> None:
    """Build kernels ahead of time; SOURCE is TREE, TREE@REVISION or linux-source-VERSION.

    The compiler is gcc, or what CC in the environment says, by ccache where that is installed.

    Example: kvmharness kernels build linux@v5.18 linux@v5.19
    """
    from kvmharness import errors
    from kvmharness.commands import watching
    from kvmharness.kernel import build as building
    from kvmharness.kernel import trees

    for name in source:
        found = trees.find(name)
        if found is None:
            raise errors.UsageError(
                f"build {name}: no kernel's source; name TREE, TREE@REVISION or "
                "linux-source-VERSION"
            )
        with watching.building(name) as heard:
            made = building.build(found, building.Recipe(config, jobs), heard)
        click.echo(made)


@kernels.command()
@click.argument("kernel")
def show(kernel: str) -> None:
    """Show what KERNEL is to the lab: image, modules, and which MMU-role code it has.

    Example: kvmharness kernels show linux-image-6.1.0-56-amd64
    """
    from kvmharness.commands import options
    from kvmharness.kernel import build, roles
    from kvmharness.measure import doctor

    (found,) = options.kernels([kernel], build.AS_USUAL)
    click.echo(f"release: {found.release}")
    click.echo(f"image: {found.image}")
    click.echo(f"modules: {found.modules or 'none found'}")
    for line in doctor.describe(roles.of_path(found.modules or found.image)):
        click.echo(line)
