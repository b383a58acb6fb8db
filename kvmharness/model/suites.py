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

from kvmharness.errors import UsageError
from kvmharness.model.cases import PARAMS, Case, Param, select
from kvmharness.model.clocks import Defaults

# Past this a sweep is a slip: at a third of a second a case it would count for an hour.
MOST_CASES = 10_000
# The value of `vcpus` that stands for 1 to as many as there are CPUs.
HOST = "host"

_HEADER = re.compile(r"""\s*\[{1,2}\s*["']?([\w.-]+)["']?\s*\]{1,2}\s*(#.*)?$""")
_BARE = re.compile(r"[A-Za-z0-9_-]{1,40}")
_AT_LINE = re.compile(r"at line (\d+)")


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
class _Part:
    """A table of the file: its lines are those from `first` up to `end`, counted from 0."""

    file: str
    lines: list[str]
    first: int
    end: int

    def wrong(self, key: str, what: str, step: str, value: str = "") -> UsageError:
        """Make the error that points at `key`, or at `value` in a list over many lines."""
        line = self._find(key, value) + 1
        named = key if _BARE.fullmatch(key) else _shown(key)
        return UsageError(f"suite {self.file}:{line}: {named}: {what}; {step}")

    def _find(self, key: str, value: str) -> int:
        # tomllib keeps no positions, so the text is searched: first for the key where a
        # line begins, then for one in an inline table or a header.
        name = rf"""["']?{re.escape(key)}["']?\s*[=.\]]"""
        for before in (r"\s*(?:[\w-]+\s*\.\s*)?", r"[^#]*?[\[{,]\s*"):
            pattern = re.compile(before + name)
            keyed = [n for n in range(self.first, self.end) if pattern.match(self.lines[n])]
            if keyed:
                here = [n for n in keyed if value in self.lines[n]]
                later = [n for n in range(keyed[0], self.end) if value in self.lines[n]]
                return (here or later or keyed)[0]
        return self.first


class _Text:
    """A suite's text, cut into the parts that errors point into."""

    def __init__(self, file: str, text: str) -> None:
        self._file = file
        # Only what ends a line in TOML: splitlines() would count form feeds too.
        self._lines = text.split("\n")
        matches = [_HEADER.match(line) for line in self._lines]
        self._headers = [(n, match[1]) for n, match in enumerate(matches) if match]

    def part(self, table: str | None = None, number: int = 0) -> _Part:
        """Return the `number`-th table of that name; None or one not found: the whole file."""
        starts = [n for n, name in self._headers if name == table]
        if number >= len(starts):
            return _Part(self._file, self._lines, 0, len(self._lines))
        first = starts[number]
        end = next((n for n, _ in self._headers if n > first), len(self._lines))
        return _Part(self._file, self._lines, first, end)


def _shown(value: object) -> str:
    """Return a value as one short line."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer too long for Python to print
        return f"a huge {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _known(part: _Part, given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in given:
        if key not in known:
            raise part.wrong(key, "no such key here", f"there are: {', '.join(known)}")


def _defaults(part: _Part, given: object) -> Defaults:
    if not isinstance(given, dict):
        raise part.wrong("settings", f"{_shown(given)} is no table", "write [settings]")
    _known(part, given, tuple(_SETTINGS))
    for key, value in given.items():
        least, most = _SETTINGS[key]
        kind = "a number" if key == "target_ms" else "an integer"
        fits = _is_integer(value) or (key == "target_ms" and isinstance(value, float))
        if not fits or not least <= value <= most:
            raise part.wrong(
                key, f"takes {kind}, not {_shown(value)}", f"give {least:g} to {most:,g}"
            )
    return Defaults(**given)


def _up_to_host(param: Param) -> list[int]:
    """Return 1, 2, 4, ... and the number of CPUs that this process may use."""
    most = min(len(os.sched_getaffinity(0)), param.values[-1])
    return [*(1 << n for n in range(most.bit_length()) if 1 << n < most), most]


def _values(part: _Part, param: Param, given: object) -> list[int]:
    """Return what a parameter is swept over, each value once."""
    if param.name == "vcpus" and given == HOST:
        return _up_to_host(param)
    values = given if isinstance(given, list) else [given]
    if not values:
        raise part.wrong(param.name, "an empty list", f"give {param.takes}")
    for value in values:
        if not _is_integer(value) or value not in param.values:
            or_host = f" or {HOST!r}" if param.name == "vcpus" else ""
            what = f"takes {param.takes}{or_host}, not {_shown(value)}"
            step = "give an integer or a list of them"
            raise part.wrong(param.name, what, step, _shown(value))
    return list(dict.fromkeys(values))


def _patterns(part: _Part, given: Mapping[str, Any]) -> list[str]:
    example = 'write match = "long64/cr0_wp" or a list of such'
    if "match" not in given:
        raise part.wrong("match", "missing", example)
    patterns = given["match"] if isinstance(given["match"], list) else [given["match"]]
    if not patterns:
        raise part.wrong("match", "an empty list", example)
    for pattern in patterns:
        if not isinstance(pattern, str) or not pattern:
            shown = _shown(pattern)
            raise part.wrong("match", f"takes patterns, not {shown}", example, shown)
    return patterns


def _select(part: _Part, pattern: str, sweeps: Mapping[str, list[int]]) -> list[Case]:
    """Return the cases of one pattern, at every combination of the swept values."""
    names, _, text = pattern.partition("@")
    fixed = text.split(",") if text else []
    for key in {item.partition("=")[0] for item in fixed} & set(sweeps):
        raise part.wrong(key, f"given in match {_shown(pattern)} as well", "give it once")
    found = []
    for values in product(*sweeps.values()):
        params = [*fixed, *(f"{k}={v}" for k, v in zip(sweeps, values, strict=True))]
        try:
            found += select([f"{names}@{','.join(params)}" if params else names])
        except UsageError as error:
            what, _, step = str(error).partition("; ")
            step = step or "`kvmharness run --list` shows what there is"
            raise part.wrong("match", what, step, pattern) from None
    return found


def _cases(text: _Text, given: object) -> list[Case]:
    if not isinstance(given, list) or not given:
        raise text.part().wrong(
            "cases", "missing, or no list of tables", "write [[cases]] and a match"
        )
    found: dict[str, Case] = {}
    combinations = 0
    for number, entry in enumerate(given):
        part = text.part("cases", number)
        if not isinstance(entry, dict):
            raise part.wrong("cases", f"{_shown(entry)} is no table", "write [[cases]]")
        _known(part, entry, ("match", *(p.name for p in PARAMS)))
        patterns = _patterns(part, entry)
        sweeps = {p.name: _values(part, p, entry[p.name]) for p in PARAMS if p.name in entry}
        combinations += len(patterns) * prod(map(len, sweeps.values()))
        if combinations > MOST_CASES:
            largest = max(sweeps, key=lambda name: len(sweeps[name]), default="match")
            raise part.wrong(largest, f"over {MOST_CASES:,} cases", "sweep fewer values")
        for pattern in patterns:
            found.update((case.name, case) for case in _select(part, pattern, sweeps))
    return list(found.values())


def parse(name: str, file: str, data: bytes) -> Suite:
    """Return the suite that `data` holds.  Raises UsageError naming `file`, line and key."""
    step = "mend the line; docs/suites.md has an example"
    try:
        raw = data.decode().replace("\r\n", "\n")
        tree = tomllib.loads(raw)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UsageError(f"suite {file}:{line}: not UTF-8; save the file as UTF-8") from None
    except (ValueError, RecursionError) as error:  # ValueError: an integer of 5,000 digits
        at = _AT_LINE.search(str(error))
        line = int(at[1]) if at else max(len(raw.rstrip("\n").split("\n")), 1)
        raise UsageError(f"suite {file}:{line}: not TOML: {_shown(str(error))}; {step}") from None
    text = _Text(file, raw)
    top = text.part()
    _known(top, tree, ("about", "settings", "cases"))
    about = tree.get("about")
    if not isinstance(about, str) or not about.strip():
        raise top.wrong("about", "missing, or no text", "say in a line what the suite is for")
    settings = _defaults(text.part("settings"), tree.get("settings", {}))
    return Suite(name, about, _cases(text, tree.get("cases")), settings)


def built_in() -> dict[str, Path]:
    """Return the suites that the package brings, by name."""
    folder = Path(str(files("kvmharness") / "suites"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load(name_or_path: str) -> Suite:
    """Return a built-in suite or the one in a file.  Raises UsageError for anything else."""
    known = built_in()
    path = known.get(name_or_path, Path(name_or_path))
    try:
        data = path.read_bytes()
    except OSError as error:
        names = ", ".join(known) or "none: build the package again"
        raise UsageError(
            f"suite {name_or_path}: {error.strerror}; name a TOML file or a built-in suite: {names}"
        ) from None
    return parse(name_or_path, str(path), data)
