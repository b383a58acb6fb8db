"""The same tests long or short: `make soak` sets KVMHARNESS_SOAK to a file for their figures."""

from __future__ import annotations

import os
from pathlib import Path

SOAK = os.environ.get("KVMHARNESS_SOAK")


def times(few: int, many: int) -> int:
    """Return how often to do it: `many` times in a soak."""
    return many if SOAK else few


def note(what: str, **figures: object) -> None:
    """Write down what was seen in a soak."""
    if SOAK:
        said = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items())
        with Path(SOAK).open("a") as file:
            file.write(f"{what}: {said}\n")
