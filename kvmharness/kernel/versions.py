"""What a kernel's version says of its MMU-role code: the weakest evidence."""

from __future__ import annotations

import re
from typing import NamedTuple

# From which release on; seen in Debian's 7.2.13 and 7.3.4.  Nothing is said below 5.0.
LAYOUT_SINCE = (((7, 3), "pagewalk"), ((5, 19), "split"), ((5, 0), "unified"))
CURE_SINCE = (6, 4)
# Stable series: the patch level that brought it.  For 5.15 it was refused.
CURE_STABLE = {(6, 1): 29, (6, 2): 16, (6, 3): 3}


class Version(NamedTuple):
    """A kernel's version; `patch` is None where the release does not tell it."""

    major: int
    minor: int
    patch: int | None
    text: str


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


def layout_of_version(version: Version) -> str | None:
    """Return the layout of that release."""
    return next((layout for since, layout in LAYOUT_SINCE if version[:2] >= since), None)


def cure_of_version(version: Version) -> bool | None:
    """Tell whether that release has the cure; None where its unknown patch level decides."""
    if version[:2] in CURE_STABLE:
        return None if version.patch is None else version.patch >= CURE_STABLE[version[:2]]
    return version[:2] >= CURE_SINCE
