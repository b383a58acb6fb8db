"""JSON into our types, where each key stands once: of two, nobody knows which one was meant."""

from __future__ import annotations

import json
from typing import TypeVar

import msgspec

from kvmharness.text import short

T = TypeVar("T")


def _once(pairs: list[tuple[str, object]]) -> None:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise msgspec.ValidationError(f"the key {short(key, 60)!r} comes twice")
        seen.add(key)


def decode(data: bytes, kind: type[T]) -> T:
    """Return JSON as a value of a type.

    Raises msgspec.DecodeError (ValidationError where it is JSON of something else),
    UnicodeDecodeError or RecursionError.
    """
    value = msgspec.json.decode(data, type=kind)
    text = data.decode()
    try:
        # msgspec takes the last of two.
        json.loads(text, object_pairs_hook=_once, parse_int=float, strict=False)
    except json.JSONDecodeError as error:
        raise msgspec.DecodeError(str(error)) from None
    return value
