"""The host records side by side: what is the same in all runs, and what differs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from kvmharness.model.run import Run
from kvmharness.text import printable


class RecordField(NamedTuple):
    """A field of the record, by its key in the file, and its text in each run."""

    key: str
    texts: list[str]

    @property
    def differs(self) -> bool:
        return len(set(self.texts)) > 1


def _text(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return printable(str(value))


def _leaves(node: Any, key: str = "") -> dict[str, str]:
    """Return every field's text by its dotted key."""
    if not isinstance(node, dict):
        return {key: _text(node)}
    found: dict[str, str] = {}
    for name, value in node.items():
        found |= _leaves(value, f"{key}.{printable(name)}".lstrip("."))
    return found


def rows(runs: Sequence[Run]) -> list[RecordField]:
    """Return one row per field, in the records' order, those that differ first."""
    records = [
        _leaves(msgspec.to_builtins({"host": r.host, "tool": r.tool, "settings": r.settings}))
        for r in runs
    ]
    keys = dict.fromkeys(key for record in records for key in record)
    found = [RecordField(key, [record.get(key, "-") for record in records]) for key in keys]
    return sorted(found, key=lambda row: not row.differs)
