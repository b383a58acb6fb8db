"""How we start every program: what it is given, and how what it says is read."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


def environment(**changes: str) -> dict[str, str]:
    """Return our own environment for a child process, with `changes`.

    We read what children print, so they speak C: elsewhere perf writes a decimal comma, and apt
    its errors in the user's language.
    """
    return {**os.environ, "LC_ALL": "C", **changes}


def run(
    command: Sequence[str],
    *,
    check: bool = False,
    input: str | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and return what it said, in our environment if `env` is None.

    Raises OSError where it is not here; CalledProcessError if `check`, and TimeoutExpired after
    `timeout` seconds.
    """
    return subprocess.run(
        command,
        check=check,
        input=input,
        cwd=cwd,
        env=environment() if env is None else env,
        timeout=timeout,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
