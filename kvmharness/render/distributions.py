"""What a case's samples look like: a line for all of them, a line for the VMs' medians."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.text import Text

from kvmharness.analysis import stats, totals
from kvmharness.model.run import CaseResult, Run
from kvmharness.render import tables
from kvmharness.text import figure

# The same on every terminal, so that two runs can be laid side by side.
BINS = 60
HEIGHTS = " ▁▂▃▄▅▆▇█"
HEAD = (
    "each case's samples from the least to the greatest, and how many VMs' medians (1 to 9, + for "
    "more) fall where; every line is scaled by itself"
)


def _bins(values: Sequence[float], low: float, high: float) -> list[int]:
    """Count values in BINS equal bins from `low` to `high`."""
    counts, _ = np.histogram(values, bins=BINS, range=(low, high))
    return [int(count) for count in counts]


def histogram(values: Sequence[float], low: float, high: float) -> str:
    """Return a line of blocks whose heights are the numbers of values; one is always seen."""
    counts = _bins(values, low, high)
    most = max(counts)
    steps = len(HEIGHTS) - 1
    return "".join(HEIGHTS[-(-count * steps // most)] for count in counts)


def marks(values: Sequence[float], low: float, high: float) -> str:
    """Return a line with the number of values at each place."""
    digits = " 123456789+"
    return "".join(digits[min(count, 10)] for count in _bins(values, low, high))


def _later(result: CaseResult) -> list[tuple[str, str]]:
    """Return a line for what was left for later, where there is any that matters."""
    late = totals.material(result)
    if not late or result.total is None:
        return []
    return [("", f"and {figure(late)} deferred: {tables.with_interval(result.total)} in all")]


def _lines(result: CaseResult) -> list[tuple[str, str]]:
    """Return what stands beside a case's name and its lines."""
    vms = stats.by_vm(result.samples, result.vms)
    low, high = min(result.samples), max(result.samples)
    if not high - low > 1e-9 * high:
        return [("", f"all {len(result.samples)} samples are {figure(low)}"), *_later(result)]
    middles = [stats.median([vm]) for vm in vms]
    return [
        (figure(low), f"{histogram(result.samples, low, high)} {figure(high)}"),
        ("", marks(middles, low, high).rstrip()),
        *_later(result),
    ]


def show_samples(run: Run, out: Console) -> None:
    """Print how the samples of every case that has some are spread."""
    drawn = [(case, _lines(case)) for case in run.cases if case.samples]
    if not drawn:
        return
    out.print(Text(f"\n{HEAD}"))
    if run.clock == "insn":
        out.print(Text(tables.INSTRUCTIONS), soft_wrap=True)
    name = max(len(case.name) for case, _ in drawn)
    least = max(len(low) for _, lines in drawn for low, _ in lines)
    for case, lines in drawn:
        label = f"{case.name:{name}} {case.unit}/op"
        for low, line in lines:
            out.print(tables.plain(f"{label} {low:>{least}} {line}"), soft_wrap=True)
            label = " " * len(label)
