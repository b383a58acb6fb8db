"""Control groups that a test makes for itself."""

from __future__ import annotations

import time
from pathlib import Path


def remove(group: Path) -> None:
    """Remove a group once the kernel has seen its last process end."""
    for _ in range(50):
        try:
            group.rmdir()
            break
        except OSError:
            time.sleep(0.1)
