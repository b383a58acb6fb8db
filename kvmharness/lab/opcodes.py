"""What QEMU saw a booted kernel execute in the samples of a run: lab/opcodes.c counts it."""

from __future__ import annotations

from pathlib import Path

from kvmharness.model import tracing
from kvmharness.model.counters import of
from kvmharness.model.run import CaseResult, Run

COUNTERS = of("opcode")
PLUGIN = Path(__file__).parents[1] / "blobs" / "opcodes.so"
# In a job's folder.
FILE = "opcodes"


def options(folder: Path, samples: int) -> list[str]:
    """Return QEMU's options to count `samples` samples of each VM into a job's folder.

    There are none for 0 samples, where the plugin was not built, or for a path with a comma, which
    QEMU takes for the end of a value.
    """
    if not samples or "," in f"{PLUGIN}{folder}" or not PLUGIN.is_file():
        return []
    return ["-plugin", f"{PLUGIN},out={folder / FILE},samples={samples}"]


def parse(text: str, samples: int) -> dict[int, list[int]]:
    """Return the counts of each label that has all of its samples in its last whole lines.

    A line is what was counted between two stops of the guest.  The first VM after a boot is
    measured under the labels of those that count, before them.
    """
    lines: dict[int, list[list[int]]] = {}
    for line in text.splitlines(keepends=True):
        label, *rest = map(int, line.split())
        if line.endswith("\n") and len(rest) == len(COUNTERS) + 1:
            lines.setdefault(label, []).append(rest)
    totals = ((label, _last(each, samples)) for label, each in lines.items())
    return {label: total for label, total in totals if total}


def _last(lines: list[list[int]], samples: int) -> list[int] | None:
    """Return the sum of the last lines that have so many samples together; None without them."""
    seen, total = 0, [0] * len(COUNTERS)
    for count, *counts in reversed(lines):
        seen += count
        total = [a + b for a, b in zip(total, counts, strict=True)]
        if seen >= samples:
            break
    return total if seen == samples else None


def _add(result: CaseResult, counted: list[list[int]]) -> None:
    ops = (result.iterations or 0) * len(result.samples)
    for counter, counts in zip(COUNTERS, zip(*counted, strict=True), strict=True):
        result.counters[counter.name] = sum(counts) / ops


def add(run: Run, folder: Path) -> None:
    """Add to a lab's run what was executed per op in its samples, or why that is not known."""
    emulator = run.host.lab.emulator.name if run.host.lab else "this machine"
    try:
        found = parse((folder / FILE).read_text(), run.settings.samples_per_vm)
        reason = f"{emulator} did not count the opcodes of all samples"
    except (OSError, ValueError):
        found, reason = {}, f"{emulator} counted no opcodes here"
    if run.host.lab and run.host.lab.below:
        reason = "which of two levels an opcode is of was not told apart"
    for number, result in enumerate(run.cases):
        if not result.samples:
            continue
        labels = [tracing.label(number, vm) for vm in dict.fromkeys(result.vms)]
        if all(label in found for label in labels):
            _add(result, [found[label] for label in labels])
            continue
        for counter in COUNTERS:
            result.counters[counter.name] = None
            result.absent[counter.name] = reason
