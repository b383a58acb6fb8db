"""What every program that we start is given."""

from __future__ import annotations

import os


def environment(**changes: str) -> dict[str, str]:
    """Return our own environment for a child process, with `changes`.

    We read what children print, so they speak C: elsewhere perf writes a decimal comma, and apt
    its errors in the user's language.
    """
    return {**os.environ, "LC_ALL": "C", **changes}
