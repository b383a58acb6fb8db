"""Which kernels make a history: of Debian's packages, or of a tree's tags."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from kvmharness.errors import UsageError
from kvmharness.kernel import debian, trees
from kvmharness.kernel.debian import Offer
from kvmharness.model.version import Place, place_of


def since(version: str) -> Place:
    """Return the place from which on kernels are wanted.  Raises UsageError."""
    found = place_of(version.removeprefix("v"))
    if found is None:
        raise UsageError(f"--since {version}: no version; name one as 6.1 or 6.1.29")
    # Whatever is called so, its candidates too where one of them is not named.
    return found if "-rc" in version else Place(found.series, found.patch, 0)


def ends(offers: Iterable[Offer], first: Place | None = None) -> list[str]:
    """Return the names of each series' oldest and newest kernel, `first` or younger, in order."""
    of_series: dict[tuple[int, int], list[tuple[Place, str]]] = {}
    for offer in offers:
        place = place_of(offer.version)
        if place and (first is None or place >= first):
            of_series.setdefault(place.series, []).append((place, offer.name))
    found = [end for _, held in sorted(of_series.items()) for end in (min(held), max(held))]
    return list(dict.fromkeys(name for _, name in found))


def of_debian(first: Place | None = None) -> list[str]:
    """Return the packages to measure of those that apt's mirror offers.  Raises UsageError."""
    found = ends(debian.offers(), first)
    if not found:
        raise UsageError("--debian: apt's mirror offers no such kernel; see `kernels list`")
    return found


def matching(tags: Iterable[str], patterns: Sequence[str], first: Place | None = None) -> list[str]:
    """Return the tags that a pattern names and whose version is `first` or younger, in order."""
    found = []
    for tag in tags:
        place = place_of(tag.removeprefix("v"))
        wanted = any(fnmatchcase(tag, pattern) for pattern in patterns)
        if wanted and place and (first is None or place >= first):
            found.append((place, tag))
    return [tag for _, tag in sorted(found)]


def of_tree(tree: Path, patterns: Sequence[str], first: Place | None = None) -> list[str]:
    """Return TREE@TAG for each tag of a git tree that a pattern names.  Raises UsageError."""
    if not trees.is_source(tree):
        raise UsageError(f"--git {tree}: no kernel's source; name the tree")
    tags = trees.git(tree, "tag", "--list").splitlines()
    found = matching(tags, patterns, first)
    if not found:
        raise UsageError(
            f"--git {tree}: no tag of a version is called {' or '.join(patterns)}; fetch the tags"
        )
    return [f"{tree}@{tag}" for tag in found]
