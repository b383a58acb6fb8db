"""Suites: TOML files that name cases, sweep parameters and say how long to measure.

    about = "toggles against mapped pages"
    [settings]
    vms = 6
    [[cases]]
    match = ["long64/empty", "long64/cr0_wp"]
    pages = [0, 16, 256, 4096]

The built-in ones lie in kvmharness/suites/.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib.resources import files
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from kvmharness import inputs
from kvmharness.errors import UsageError
from kvmharness.model.cases import MOST_CASES, PARAMS, Case, Param, select
from kvmharness.model.clocks import Defaults
from kvmharness.text import short

# More than a suite has, comments and all.
MOST_BYTES = 1 << 20
# The value of `vcpus` that stands for 1 to as many as there are CPUs.
HOST = "host"

_BARE = re.compile(r"[A-Za-z0-9_-]{1,40}")


@dataclass(frozen=True)
class Suite:
    """Cases in order, each once; `name` is the built-in's name or the path as given."""

    name: str
    about: str
    cases: list[Case]
    settings: Defaults = field(default_factory=Defaults)

    def within(self, patterns: Sequence[str]) -> list[Case]:
        """Return the cases, those that a pattern names where there are patterns.

        Raises UsageError for a pattern that names none.
        """
        for pattern in patterns:
            if not any(fnmatchcase(case.name, pattern) for case in self.cases):
                raise UsageError(
                    f"case {pattern!r}: matches nothing in suite {self.name}; add --list to see it"
                )
        return [
            case
            for case in self.cases
            if not patterns or any(fnmatchcase(case.name, p) for p in patterns)
        ]


# Key to least and most.  The same ranges as the command line's options.
_SETTINGS: dict[str, tuple[float, float]] = {
    "vms": (1, 1000),
    "samples": (1, 100_000),
    "target_ms": (0.01, 10_000),
    "iterations": (1, 2**32 - 1),
}


@dataclass(frozen=True)
class _Table:
    """A table of the file by its place in it, e.g. `cases[1].`, for errors to point at its keys."""

    file: str
    place: str = ""

    def wrong(self, key: str, what: str, step: str) -> UsageError:
        """Make the error that points at `key`."""
        named = key if _BARE.fullmatch(key) else _shown(key)
        return UsageError(f"suite {self.file}: {self.place}{named}: {what}; {step}")


def _shown(value: object) -> str:
    """Return a value as one short line."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer too long for Python to print
        return f"a huge {type(value).__name__}"
    return short(text, 60)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _known(table: _Table, given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in given:
        if key not in known:
            raise table.wrong(key, "no such key here", f"there are: {', '.join(known)}")


def _defaults(table: _Table, given: dict[str, Any]) -> Defaults:
    _known(table, given, tuple(_SETTINGS))
    for key, value in given.items():
        least, most = _SETTINGS[key]
        kind = "a number" if key == "target_ms" else "an integer"
        fits = _is_integer(value) or (key == "target_ms" and isinstance(value, float))
        if not fits or not least <= value <= most:
            raise table.wrong(
                key, f"takes {kind}, not {_shown(value)}", f"give {least:g} to {most:,g}"
            )
    return Defaults(**given)


def _up_to_host(param: Param) -> list[int]:
    """Return 1, 2, 4, ... and the number of CPUs that this process may use."""
    most = min(len(os.sched_getaffinity(0)), param.values[-1])
    return [*(1 << n for n in range(most.bit_length()) if 1 << n < most), most]


def _values(table: _Table, param: Param, given: object) -> list[int]:
    """Return what a parameter is swept over, each value once."""
    if param.name == "vcpus" and given == HOST:
        return _up_to_host(param)
    values = given if isinstance(given, list) else [given]
    if not values:
        raise table.wrong(param.name, "an empty list", f"give {param.takes}")
    for value in values:
        if not _is_integer(value) or value not in param.values:
            or_host = f" or {HOST!r}" if param.name == "vcpus" else ""
            what = f"takes {param.takes}{or_host}, not {_shown(value)}"
            step = "give an integer or a list of them"
            raise table.wrong(param.name, what, step)
    return list(dict.fromkeys(values))


def _patterns(table: _Table, given: Mapping[str, Any]) -> list[str]:
    example = 'write match = "long64/cr0_wp" or a list of such'
    if "match" not in given:
        raise table.wrong("match", "missing", example)
    patterns = given["match"] if isinstance(given["match"], list) else [given["match"]]
    if not patterns:
        raise table.wrong("match", "an empty list", example)
    for pattern in patterns:
        if not isinstance(pattern, str) or not pattern:
            raise table.wrong("match", f"takes patterns, not {_shown(pattern)}", example)
    return patterns


def _select(table: _Table, pattern: str, sweeps: Mapping[str, list[int]]) -> list[Case]:
    """Return the cases of one pattern, at every combination of the swept values."""
    names, _, text = pattern.partition("@")
    fixed = text.split(",") if text else []
    for key in {item.partition("=")[0] for item in fixed} & set(sweeps):
        raise table.wrong(key, f"given in match {_shown(pattern)} as well", "give it once")
    found = []
    for values in product(*sweeps.values()):
        params = [*fixed, *(f"{k}={v}" for k, v in zip(sweeps, values, strict=True))]
        try:
            found += select([f"{names}@{','.join(params)}" if params else names])
        except UsageError as error:
            what, _, step = str(error).partition("; ")
            step = step or "`kvmharness run --list '*'` shows what there is"
            raise table.wrong("match", what, step) from None
    return found


def _cases(top: _Table, given: object) -> list[Case]:
    if not isinstance(given, list) or not given:
        raise top.wrong("cases", "missing, or no list of tables", "write [[cases]] and a match")
    found: dict[str, Case] = {}
    combinations = 0
    for number, entry in enumerate(given):
        if not isinstance(entry, dict):
            raise top.wrong("cases", f"{_shown(entry)} is no table", "write [[cases]]")
        table = _Table(top.file, f"cases[{number}].")
        _known(table, entry, ("match", *(p.name for p in PARAMS)))
        patterns = _patterns(table, entry)
        sweeps = {p.name: _values(table, p, entry[p.name]) for p in PARAMS if p.name in entry}
        combinations += len(patterns) * prod(map(len, sweeps.values()))
        if combinations > MOST_CASES:
            largest = max(sweeps, key=lambda name: len(sweeps[name]), default="match")
            raise table.wrong(largest, f"over {MOST_CASES:,} cases", "sweep fewer values")
        for pattern in patterns:
            found.update((case.name, case) for case in _select(table, pattern, sweeps))
            if len(found) > MOST_CASES:
                raise table.wrong("match", f"over {MOST_CASES:,} cases", "name fewer")
    return list(found.values())


def parse(name: str, file: str, data: bytes) -> Suite:
    """Return the suite that `data` holds.  Raises UsageError naming `file` and key."""
    step = "mend it; docs/suites.md has an example"
    try:
        tree = tomllib.loads(data.decode().replace("\r\n", "\n"))
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UsageError(f"suite {file}: not UTF-8 at line {line}; save it as UTF-8") from None
    except (ValueError, RecursionError) as error:  # ValueError: an integer of 5,000 digits
        raise UsageError(f"suite {file}: not TOML: {short(str(error), 120)}; {step}") from None
    top = _Table(file)
    _known(top, tree, ("about", "settings", "cases"))
    about = tree.get("about")
    if not isinstance(about, str) or not about.strip():
        raise top.wrong("about", "missing, or no text", "say in a line what the suite is for")
    settings = tree.get("settings", {})
    if not isinstance(settings, dict):
        raise top.wrong("settings", f"{_shown(settings)} is no table", "write [settings]")
    defaults = _defaults(_Table(file, "settings."), settings)
    return Suite(name, about, _cases(top, tree.get("cases")), defaults)


def built_in() -> dict[str, Path]:
    """Return the suites that the package brings, by name."""
    folder = Path(str(files("kvmharness") / "suites"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def chosen(
    patterns: Sequence[str], suite: str | None, otherwise: str
) -> tuple[list[Case], str | None]:
    """Return the cases that patterns pick, in a suite where one is named, and its name.

    Without either they are the suite's that is named `otherwise`.  Raises UsageError.
    """
    name = suite or (None if patterns else otherwise)
    return (load(name).within(patterns) if name else select(patterns)), name


def load(name_or_path: str) -> Suite:
    """Return a built-in suite or the one in a file.  Raises UsageError for anything else."""
    known = built_in()
    path = known.get(name_or_path, Path(name_or_path))
    try:
        data = inputs.read(path, MOST_BYTES)
    except OSError as error:
        names = ", ".join(known) or "none: build the package again"
        raise UsageError(
            f"suite {name_or_path}: {error.strerror}; name a TOML file or a built-in suite: {names}"
        ) from None
    return parse(name_or_path, str(path), data)
