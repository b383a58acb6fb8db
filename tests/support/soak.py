"""The same tests long or short: `make soak` sets KVMHARNESS_SOAK to a file for their figures.

KVMHARNESS_SOAK_SHARE, 1 at most, is how much of a whole soak is done.
"""

from __future__ import annotations

import os
from pathlib import Path

SOAK = os.environ.get("KVMHARNESS_SOAK")
SHARE = float(os.environ.get("KVMHARNESS_SOAK_SHARE", "1"))


def times(few: int, many: int) -> int:
    """Return how often to do it: `many` times in a whole soak."""
    return max(few, round(many * SHARE)) if SOAK else few


def note(what: str, **figures: object) -> None:
    """Write down what was seen in a soak."""
    if SOAK:
        said = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items())
        with Path(SOAK).open("a") as file:
            file.write(f"{what}: {said}\n")
