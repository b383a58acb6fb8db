"""What an op costs by kernel symbol: the model that every kind of profile fills; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class SymbolCost:
    """A symbol's cost per op in the clock's unit: of the case, and less that of `empty`."""

    symbol: str
    gross: float
    net: float


@dataclass(frozen=True)
class Profiled:
    """`rows` hottest net first; `unit` is "cycles" or "ns"; `ops` were sampled over.

    `baseline` is the case that was subtracted, None for `empty` itself.
    """

    rows: list[SymbolCost]
    unit: str
    ops: int
    baseline: str | None


def difference(
    case: Mapping[str, int], ops: int, empty: Mapping[str, int], empty_ops: int
) -> list[SymbolCost]:
    """Return a row a symbol, per op and net of `empty` (no ops: gross), hottest net first."""
    rows = []
    for symbol in case.keys() | empty.keys():
        gross = case.get(symbol, 0) / ops
        rows.append(SymbolCost(symbol, gross, gross - empty.get(symbol, 0) / max(empty_ops, 1)))
    return sorted(rows, key=lambda row: (-row.net, row.symbol))
