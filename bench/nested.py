"""What one L2 toggle of CR0.WP costs: L0's kernels by L1's, and what it makes L0 do.

    python bench/nested.py [FOLDER]     run files go there; default: nested

A pair whose run file is in FOLDER already is not measured again.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from rich.table import Table
from rich.text import Text

from kvmharness.kernel import resolve, variants
from kvmharness.lab import matrix, planning
from kvmharness.lab.machines import TCG_SVM
from kvmharness.lab.planning import Inner, LabPlan, Target
from kvmharness.model import runfile
from kvmharness.model.cases import select
from kvmharness.model.counters import BELOW
from kvmharness.model.run import CaseResult, Run, Settings
from kvmharness.render import tables
from kvmharness.text import figure

OLD, CURED = "linux-image-5.10.0-30-amd64", "linux-image-6.1.0-56-amd64"
NEW = "linux-image-6.12.118+deb13-amd64"
L0 = ((OLD, "legacy"), (OLD, "tdp"), (CURED, "tdp"), (NEW, "tdp"))
L1 = ((OLD, "legacy"), (OLD, "tdp"), (CURED, "tdp"))
CASES = ("long64/empty", "long64/cr0_wp")
# Few ops, as the dearest toggle takes a million instructions.
SETTINGS = Settings(
    vms=2,
    samples_per_vm=5,
    target_ms=1.0,
    iterations=50,
    cpu=0,
    precision=5.0,
    timeout_s=10.0,
)
# Exits and MMU pages made, by KVM's own statistics in L0.
COUNTS = ("kvm.exits", "kvm.mmu_cache_miss")


def targets() -> list[Target]:
    inner = [Inner(resolve.resolve(name), variants.parse(variant)) for name, variant in L1]
    return [
        target
        for name, variant in L0
        for target in planning.targets(
            [resolve.resolve(name)], [variants.parse(variant)], [TCG_SVM], inner=inner
        )
    ]


def measure(wanted: list[Target], output: Path) -> list[str]:
    """Measure each pair, one at a time; return why some were lost."""
    plan = LabPlan(select(CASES), {"insn": SETTINGS}, None, None, output, perf=False)
    lost = []
    for target in wanted:
        begin = time.monotonic()
        for result in matrix.measure([target], plan, 1, lambda _, line: None):
            if result.run is None or result.lost:
                lost.append(f"{target.label}: {result.lost or result.skipped}")
        print(f"{target.label}: {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    return lost


def toggle(run: Run) -> CaseResult:
    return next(case for case in run.cases if case.op == "cr0_wp")


def cell(run: Run | None) -> str:
    """Return instructions / L0's exits / pages made, per L2 toggle."""
    if run is None:
        return "-"
    case = toggle(run)
    cost = figure(case.per_op.median) if case.per_op else "-"
    counts = [case.counters.get(f"{BELOW}{name}") for name in COUNTS]
    return " / ".join([cost, *("-" if n is None else f"{n:.1f}" for n in counts)])


def table(runs: dict[str, Run], wanted: list[Target]) -> Table:
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    drawn.add_column("L0 \\ L1", no_wrap=True)
    inner = list(dict.fromkeys(target.innermost.label for target in wanted))
    for label in inner:
        drawn.add_column(label, justify="right", no_wrap=True)
    for name in dict.fromkeys(f"{t.kernel.label}-{t.variant.name}" for t in wanted):
        cells = [cell(runs.get(f"{label}-in-{name}")) for label in inner]
        drawn.add_row(Text(name), *map(Text, cells))
    return drawn


def main() -> None:
    """Measure what is not there yet, then print the table."""
    output = Path(sys.argv[1] if len(sys.argv) > 1 else "nested")
    wanted = targets()
    planning.check_folder(output, wanted)
    lost = measure([t for t in wanted if not (output / f"{t.label}.json").is_file()], output)
    files = {target.label: output / f"{target.label}.json" for target in wanted}
    runs = {label: runfile.read(path) for label, path in files.items() if path.is_file()}
    out = tables.console()
    out.print(Text("per L2 toggle: instructions of all levels / L0's exits / L0's MMU pages made"))
    out.print(table(runs, wanted))
    out.print(Text(tables.INSTRUCTIONS), soft_wrap=True)
    for line in lost:
        out.print(tables.plain(f"lost: {line}"), soft_wrap=True)
    sys.exit(4 if lost else 0)


if __name__ == "__main__":
    main()
