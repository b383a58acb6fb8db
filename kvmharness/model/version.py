"""A kernel's version, and the order in which kernels were made."""

from __future__ import annotations

import re
from typing import NamedTuple

# A release comes after all of its candidates.
RELEASED = 1 << 20


class Version(NamedTuple):
    """A kernel's version; `patch` is None where the release does not tell it."""

    major: int
    minor: int
    patch: int | None
    text: str


class Place(NamedTuple):
    """Where a kernel stands among others: by series, patch level, candidate, then its numbers.

    `series` is what one stable branch has in common, e.g. (6, 1).
    """

    series: tuple[int, int]
    patch: int
    candidate: int = RELEASED
    numbers: tuple[int, ...] = ()


def version_of(release: str | None, build: str | None) -> Version | None:
    """Return the upstream version of a kernel from `uname -r` and its banner.

    Debian and Ubuntu hide the patch level in the release (6.1.0-56-amd64 is 6.1.192) and tell
    it in the banner or the version signature.  Red Hat's numbers say nothing of what was
    backported: None.
    """
    match = re.match(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,5}))?(-\d)?", release or "")
    if match is None or re.search(r"\.el\d", release or ""):
        return None
    major, minor = int(match[1]), int(match[2])
    patch = None if match[4] and match[3] == "0" else int(match[3] or 0)
    told = re.search(r"(?:Debian|Ubuntu \d\S*) (\d{1,4})\.(\d{1,4})\.(\d{1,5})", build or "")
    if told and (int(told[1]), int(told[2])) == (major, minor):
        patch = int(told[3])
    text = f"{major}.{minor}" + ("" if patch is None else f".{patch}")
    return Version(major, minor, patch, text)


def place_of(release: str, build: str | None = None) -> Place | None:
    """Return where a kernel stands, by `uname -r` and its banner, or by a version alone.

    A patch level that nothing tells counts as 0.  None for what tells no upstream version.
    """
    version = version_of(release, build)
    if version is None:
        return None
    candidate = re.match(r"[\d.]+-rc(\d{1,3})", release)
    own = re.sub(r"-[a-z]\w*$", "", release)  # without -amd64
    return Place(
        (version.major, version.minor),
        version.patch or 0,
        int(candidate[1]) if candidate else RELEASED,
        tuple(int(number) for number in re.findall(r"\d{1,9}", own)),
    )
