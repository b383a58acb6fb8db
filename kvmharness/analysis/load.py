"""Result files as a user names them: single ones, or folders of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from kvmharness.analysis import summary
from kvmharness.errors import UsageError
from kvmharness.model import runfile
from kvmharness.model.run import Run
from kvmharness.text import printable


class RunFile(NamedTuple):
    """A run under the name of its file, without folder and suffix."""

    name: str
    run: Run


def _files(paths: Iterable[Path]) -> list[Path]:
    """Return the files in order, each once: a folder's first one may be named before it."""
    found: dict[Path, Path] = {}
    for path in paths:
        inside = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not inside:
            raise UsageError(f"read {path}: the folder holds no *.json; name result files")
        for file in inside:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def read(paths: Sequence[Path]) -> list[RunFile]:
    """Read the runs, a folder's by name, and compute their figures from the samples afresh.

    A killed run's figures may be older than its samples.  Raises UsageError for anything that
    is no result file.
    """
    runs = []
    for path in _files(paths):
        run = runfile.read(path)
        summary.summarise(run)
        runs.append(RunFile(printable(path.stem), run))
    return runs
