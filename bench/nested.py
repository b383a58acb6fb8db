"""What one L2 toggle of CR0.WP costs: L0's kernels by L1's, and what it makes L0 do; and progress.

    python bench/nested.py [FOLDER [AGAIN]]     run files go there; default: nested

A pair whose run file is in FOLDER already is not measured again.  With AGAIN all pairs are measured
a second time, into that folder, and how far the figures of both lie apart is shown.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from kvmharness.analysis import progress
from kvmharness.kernel import resolve, variants
from kvmharness.lab import matrix, planning
from kvmharness.lab.machines import TCG_SVM
from kvmharness.lab.planning import Inner, LabPlan, Target
from kvmharness.model import runfile
from kvmharness.model.cases import select
from kvmharness.model.counters import BELOW
from kvmharness.model.run import CaseResult, Run, Settings
from kvmharness.render import progress_table, tables
from kvmharness.text import figure

OLD, CURED = "linux-image-5.10.0-30-amd64", "linux-image-6.1.0-56-amd64"
NEW = "linux-image-6.12.43+deb12-amd64"
L0 = ((OLD, "legacy"), (OLD, "tdp"), (CURED, "tdp"), (NEW, "tdp"))
L1 = ((OLD, "legacy"), (OLD, "tdp"), (CURED, "tdp"))
CASES = ("long64/empty", "long64/cr0_wp")
# Few ops, as the dearest toggle takes a million instructions.
SETTINGS = Settings(
    vms=2,
    samples_per_vm=5,
    target_ms=1.0,
    iterations=20,
    cpu=0,
    precision=5.0,
    timeout_s=10.0,
)
# Exits and MMU pages made, by KVM's own statistics in L0.
COUNTS = ("kvm.exits", "kvm.mmu_cache_miss")
# The first portion is 617 instructions of the guest's, about what Linux takes for getppid.
WORK = [
    f"long64/{op}@{params}"
    for params in ("work=122", "work=1000", "work=10000", "pages=16,work=122")
    for op in ("syscall", "protected_syscall")
]
# What makes progress on what: a guest on L0, then L2 in L1 on L0.
PROGRESS = (
    ((OLD, "tdp"), None),
    ((OLD, "legacy"), None),
    ((CURED, "tdp"), None),
    ((CURED, "tdp"), (OLD, "tdp")),
    ((CURED, "tdp"), (CURED, "tdp")),
)


def target(below: tuple[str, str], inside: tuple[str, str] | None) -> Target:
    inner = inside and Inner(resolve.resolve(inside[0]), variants.parse(inside[1]))
    kernel, variant = resolve.resolve(below[0]), variants.parse(below[1])
    return Target(kernel, variant, TCG_SVM, inner=inner)


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(
    wanted: Sequence[Target], cases: Sequence[str], output: Path, *, count: bool = True
) -> list[str]:
    """Measure what is not there yet, one at a time; return why some were lost."""
    planning.check_folder(output, wanted)
    plan = LabPlan(select(cases), {"insn": SETTINGS}, None, None, output, count=count)
    lost = []
    for one in wanted:
        if (output / f"{one.label}.json").is_file():
            continue
        begin, used = time.monotonic(), cpu_s()
        for result in matrix.measure([one], plan, 1, lambda _, line: None):
            if result.run is None or result.lost:
                lost.append(f"{one.label}: {result.lost or result.skipped}")
        took, used = time.monotonic() - begin, cpu_s() - used
        print(f"{one.label}: {took:.0f} s, {used:.1f} CPU s", file=sys.stderr, flush=True)
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


def apart(run: Run | None, again: Run | None) -> str:
    """Return by how much the second median lies from the first one, and the range of each."""
    if run is None or again is None:
        return "-"
    one, other = toggle(run), toggle(again)
    if not one.per_op or not other.per_op:
        return "-"
    share = other.per_op.median / one.per_op.median - 1
    ranges = (
        f"±{(max(c.samples) - min(c.samples)) / 2 / share_of:.1%}"
        for c, share_of in ((one, one.per_op.median), (other, other.per_op.median))
    )
    return f"{share:+.2%} ({', '.join(ranges)})"


def table(rows: dict[str, dict[str, str]]) -> Table:
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    drawn.add_column("L0 \\ L1", no_wrap=True)
    for label in dict.fromkeys(inner for row in rows.values() for inner in row):
        drawn.add_column(label, justify="right", no_wrap=True)
    for name, row in rows.items():
        drawn.add_row(Text(name), *map(Text, row.values()))
    return drawn


def read(output: Path, wanted: Target) -> Run | None:
    path = output / f"{wanted.label}.json"
    return runfile.read(path) if path.is_file() else None


def pairs() -> dict[str, dict[str, Target]]:
    """Return the targets by L0's name and L1's."""
    found: dict[str, dict[str, Target]] = {}
    for below in L0:
        for inside in L1:
            one = target(below, inside)
            row = found.setdefault(f"{one.kernel.label}-{one.variant.name}", {})
            row[one.innermost.label] = one
    return found


def show_progress(output: Path) -> None:
    out = tables.console()
    for pair in PROGRESS:
        one = target(*pair)
        run = read(output, one)
        out.print(Text(f"\n{one.label}"))
        if run is not None:
            progress_table.show(run, *progress.of(run), out)


def main() -> None:
    """Measure what is not there yet, then print the tables."""
    folders = [Path(name) for name in sys.argv[1:3]] or [Path("nested")]
    wanted = pairs()
    flat = [one for row in wanted.values() for one in row.values()]
    lost = [line for folder in folders for line in measure(flat, CASES, folder)]
    working = folders[0] / "progress"
    lost += measure([target(*pair) for pair in PROGRESS], WORK, working, count=False)
    out = tables.console()
    out.print(Text("per L2 toggle: instructions of all levels / L0's exits / L0's MMU pages made"))
    out.print(
        table({n: {i: cell(read(folders[0], t)) for i, t in r.items()} for n, r in wanted.items()})
    )
    out.print(Text(tables.INSTRUCTIONS), soft_wrap=True)
    if len(folders) == 2:
        first, second = folders
        out.print(Text("\nthe second time, and half the range of all samples each time:"))
        out.print(
            table(
                {
                    n: {i: apart(read(first, t), read(second, t)) for i, t in r.items()}
                    for n, r in wanted.items()
                }
            )
        )
    show_progress(working)
    for line in lost:
        out.print(tables.plain(f"lost: {line}"), soft_wrap=True)
    sys.exit(4 if lost else 0)


if __name__ == "__main__":
    main()
