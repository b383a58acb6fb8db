"""What a timeline's folder holds, by the names of its files; notes of the jobs without a run."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from kvmharness import inputs

SCHEMA = "kvmharness.note/1"
# What follows a job's name: its run; why it has none, and a part of one; a run of the same job
# with other figures, which a number may follow.  What follows a step's: its explanation.
RUN, NOTE, PART, DIFFERING, EXPLAINED = ".json", ".note", ".part", ".differing", ".explained"

State = Literal["done", "skipped", "lost", "bug"]


class Note(msgspec.Struct, frozen=True):
    """Why a job has no run: skipped by the kernel itself, or lost; `console` is what it said."""

    state: State
    reason: str
    kernel: str
    variant: str
    machine: str
    tool: str
    console: str = ""
    schema: str = SCHEMA


def encode(note: Note) -> bytes:
    """Return the file's text: JSON, indented, with a final newline."""
    return msgspec.json.format(msgspec.json.encode(note), indent=1) + b"\n"


def read(path: Path) -> Note | None:
    """Return the note that a file holds, None where there is none that can be read."""
    with suppress(OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        note = msgspec.json.decode(inputs.read(path), type=Note)
        return note if note.schema == SCHEMA else None
    return None
