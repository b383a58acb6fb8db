"""What a kernel's version says of its MMU-role code: the weakest evidence."""

from __future__ import annotations

from kvmharness.model.version import Version

# From which release on; seen in Debian's 7.2.13 and 7.3.4.  Nothing is said below 5.0.
LAYOUT_SINCE = (((7, 3), "pagewalk"), ((5, 19), "split"), ((5, 0), "unified"))
CURE_SINCE = (6, 4)
# Stable series: the patch level that brought it.  For 5.15 it was refused.
CURE_STABLE = {(6, 1): 29, (6, 2): 16, (6, 3): 3}


def layout_of_version(version: Version) -> str | None:
    """Return the layout of that release."""
    return next((layout for since, layout in LAYOUT_SINCE if version[:2] >= since), None)


def cure_of_version(version: Version) -> bool | None:
    """Tell whether that release has the cure; None where its unknown patch level decides."""
    if version[:2] in CURE_STABLE:
        return None if version.patch is None else version.patch >= CURE_STABLE[version[:2]]
    return version[:2] >= CURE_SINCE
