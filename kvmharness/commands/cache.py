"""kvmharness cache: what lies in the user's cache, and how it is emptied."""

from __future__ import annotations

from pathlib import Path

import click

from kvmharness.commands import completion

# Made by the experiments of bench/ and by the tests.
OTHERS = "made by experiments or tests"


def _kinds() -> dict[str, Path]:
    """Return the folders that are there, by kind."""
    from kvmharness import cache

    found = sorted(path for path in cache.folder().iterdir() if path.is_dir())
    return {path.name: path for path in found if path.name[0] != "."}


def _bytes(number: int) -> str:
    return f"{number / 1e6:,.1f} MB"


def _in_use() -> None:
    """Raise UsageError while labs run: what they are about to read must stay."""
    from kvmharness import errors
    from kvmharness.lab import workshop

    busy = workshop.busy()
    if busy:
        raise errors.UsageError(
            f"cache: in use by {busy} running lab{'s' if busy > 1 else ''}; wait for the end"
        )


def _clear(folder: Path) -> int:
    """Remove what is in a folder of the cache; return how many bytes that were."""
    from kvmharness import cache

    size = cache.size(folder)
    for path in sorted(folder.iterdir()):
        # What begins with a point is a lock, or about to become what is behind it.
        if path.is_dir() and path.name[0] != ".":
            with cache.locked(path.with_name(f".{path.name}.lock")):
                cache.remove(path)
        elif path.is_file() and path.suffix != ".lock":
            path.unlink(missing_ok=True)
    return size - cache.size(folder)


@click.group()
def cache() -> None:
    """List and empty the cache: kernels, capsules, snapshots of machines, builds.

    All of it is made or fetched anew when it is needed.

    Example: kvmharness cache list
    """


@cache.command("list")
def list_() -> None:
    """List what the cache holds: kind, entries, size, what it is.

    Example: kvmharness cache list
    """
    from kvmharness import cache

    total = 0
    for name, folder in _kinds().items():
        entries = sum(path.name[0] != "." for path in folder.iterdir())
        size = cache.size(folder)
        total += size
        click.echo(f"{name:12} {entries:6} {_bytes(size):>14}  {cache.KINDS.get(name, OTHERS)}")
    click.echo(f"{'total':12} {'':6} {_bytes(total):>14}  {cache.folder()}")


@cache.command()
@click.argument("kind", nargs=-1, required=True, shell_complete=completion.cached)
def clear(kind: tuple[str, ...]) -> None:
    """Remove what the cache holds of each KIND, as `cache list` names it.

    Example: kvmharness cache clear snapshots capsules
    """
    from kvmharness import cache, errors

    found = _kinds()
    unknown = [name for name in kind if name not in found and name not in cache.KINDS]
    if unknown:
        raise errors.UsageError(
            f"cache clear {unknown[0]}: unknown; there are: {', '.join(found) or 'none yet'}"
        )
    _in_use()
    for name in dict.fromkeys(kind):
        size = _clear(found[name]) if name in found else 0
        click.echo(f"{name}: {_bytes(size)} removed")


@cache.command()
def purge() -> None:
    """Remove all that the cache holds.

    Example: kvmharness cache purge
    """
    _in_use()
    total = sum(_clear(folder) for folder in _kinds().values())
    click.echo(f"all: {_bytes(total)} removed")
