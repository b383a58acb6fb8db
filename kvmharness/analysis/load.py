"""Result files as a user names them: single ones, or folders of them.

A folder stands for its *.json, in sub-folders too, in the order of their names.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from kvmharness.analysis import summary
from kvmharness.errors import UsageError
from kvmharness.model import explanation, note, runfile
from kvmharness.model.explanation import File as Explained
from kvmharness.model.note import Note
from kvmharness.model.run import Run
from kvmharness.text import printable


class RunFile(NamedTuple):
    """A run under the name of its file, without folder and suffix."""

    name: str
    run: Run


def _files(paths: Iterable[Path]) -> list[Path]:
    """Return the files in order, each once: a folder's first one may be named before it."""
    found: dict[str, Path] = {}
    for path in paths:
        inside = sorted(path.rglob("*.json")) if path.is_dir() else [path]
        if not inside:
            raise UsageError(f"read {path}: no *.json in this folder; name result files")
        for file in inside:
            found.setdefault(os.path.realpath(file), file)
    return list(found.values())


def apart(paths: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Return the files of runs and those of explanations.  Raises UsageError."""
    runs: list[Path] = []
    explanations: list[Path] = []
    for file in _files(paths):
        (explanations if explanation.is_one(file) else runs).append(file)
    return runs, explanations


def _read(paths: Sequence[Path]) -> list[RunFile]:
    return [RunFile(printable(path.stem), runfile.read(path)) for path in _files(paths)]


def classified(paths: Sequence[Path]) -> list[RunFile]:
    """Read the runs and class their cases afresh: a killed run's classes may be older.

    Raises UsageError for anything that is no result file.
    """
    runs = _read(paths)
    for found in runs:
        summary.classify_cases(found.run)
    return runs


def summarised(paths: Sequence[Path]) -> list[RunFile]:
    """Read the runs and compute their figures, classes too, from the samples afresh.

    Raises UsageError for anything that is no result file.
    """
    runs = _read(paths)
    for found in runs:
        summary.summarise(found.run)
    return runs


def one(path: Path) -> RunFile:
    """Read the one run that a path names, summarised.  Raises UsageError for several."""
    found = _files([path])
    if len(found) != 1:
        raise UsageError(f"read {path}: holds {len(found)} result files; name one")
    return summarised(found)[0]


class Folder(NamedTuple):
    """A timeline's folder: its runs, classed afresh, its notes, and what else it holds.

    `differing` names the files whose figures are not those of the same job's run, `explained` are
    the steps that were, `left_out` is what is neither, with the reason; all by their names without
    folder and suffix.
    """

    runs: list[RunFile]
    notes: dict[str, Note]
    differing: list[str]
    left_out: dict[str, str]
    explained: dict[str, Explained]


def _by_age(folder: Path) -> list[str]:
    """Return the names in a folder, the oldest files first.  Raises OSError."""
    ages = []
    for entry in os.scandir(folder):
        with suppress(FileNotFoundError):  # somebody else's, who has renamed it meanwhile
            ages.append((entry.stat(follow_symlinks=False).st_mtime_ns, entry.name))
    return [name for _, name in sorted(ages)]


def _explanation(path: Path, into: Folder) -> None:
    try:
        into.explained[path.stem] = explanation.read(path)
    except UsageError as error:
        into.left_out[printable(path.stem)] = str(error)


def _run(path: Path, into: Folder) -> None:
    try:
        run = runfile.read(path)
    except UsageError as error:
        into.left_out[printable(path.stem)] = str(error)
        return
    if any(case.samples and not case.per_op for case in run.cases):  # cut short
        summary.summarise(run)
    summary.classify_cases(run)
    into.runs.append(RunFile(printable(path.stem), run))


def folder(path: Path) -> Folder:
    """Read what a timeline's folder holds, the oldest files first, whatever else may lie there.

    Raises UsageError for what is no folder that can be read.
    """
    try:
        names = _by_age(path)
    except OSError as error:
        raise UsageError(f"read {path}: {error.strerror}; name a timeline's folder") from None
    found = Folder([], {}, [], {}, {})
    for name in names:
        stem, suffix = os.path.splitext(name)
        if suffix == note.NOTE:
            why = note.read(path / name)
            if why:
                found.notes[printable(stem)] = why
        elif suffix == note.RUN and note.DIFFERING in stem:
            found.differing.append(printable(stem))
        elif suffix not in (note.RUN, note.EXPLAINED):
            continue
        elif not (path / name).is_file():
            found.left_out[printable(stem)] = "it is no regular file"  # a FIFO would block
        elif suffix == note.EXPLAINED:
            _explanation(path / name, found)
        else:
            _run(path / name, found)
    return found
