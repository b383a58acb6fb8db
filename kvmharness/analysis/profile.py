"""What an op costs by kernel symbol: the model that every kind of profile fills; pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

from kvmharness.model.run import Sampled


@dataclass(frozen=True)
class SymbolCost:
    """A symbol's cost per op in the clock's unit: of the case, and less that of `empty`.

    Where the calls were followed, `inclusive` has what it called as well, `calls` is how often
    it was called per op, and `callers` are named, the dearest first; else null.
    """

    symbol: str
    gross: float
    net: float
    inclusive: float | None = None
    calls: float | None = None
    callers: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Profiled:
    """`rows` hottest net first; `unit` is "cycles", "ns" or "insn"; `ops` is how many there were.

    `baseline` is the case that was subtracted, None for `empty` itself and where nothing was.
    `sampled` figures are estimates; the others account for every instruction.
    """

    rows: list[SymbolCost]
    unit: str
    ops: int
    baseline: str | None
    sampled: bool = True


def profiled(unit: str, case: Sampled, empty: Sampled | None) -> Profiled:
    """Return a case's costs per op by symbol, net of `empty`'s (None: gross), hottest first."""
    rows = []
    spent = empty.counts if empty else {}
    for symbol in case.counts.keys() | spent.keys():
        gross = case.counts.get(symbol, 0) / case.ops
        of_empty = spent.get(symbol, 0) / empty.ops if empty else 0.0
        rows.append(SymbolCost(symbol, gross, gross - of_empty))
    rows.sort(key=lambda row: (-row.net, row.symbol))
    return Profiled(rows, unit, case.ops, empty.case if empty else None)


def with_calls(found: Profiled, calls: Mapping[tuple[str, str], int], ops: int) -> Profiled:
    """Return costs with how often each function was called per op, and by whom.

    `calls` counts by function and caller over `ops` ops; a function that no sample fell into
    comes last.
    """
    callers: dict[str, dict[str, int]] = defaultdict(dict)
    for (function, caller), count in calls.items():
        callers[function][caller] = count
    symbols = {row.symbol for row in found.rows}
    rows = [*found.rows, *(SymbolCost(name, 0.0, 0.0) for name in callers if name not in symbols)]
    rows = [
        replace(
            row,
            calls=sum(callers[row.symbol].values()) / ops,
            callers=tuple(sorted(callers[row.symbol], key=lambda c: -callers[row.symbol][c])),
        )
        if row.symbol in callers
        else row
        for row in rows
    ]
    rows.sort(key=lambda row: (-row.net, -(row.calls or 0.0), row.symbol))
    return replace(found, rows=rows)
