"""What the harness adds: the same blob run by bench/bare.c and by kvmharness, in turn.

Prints the ratio of the per-op medians, and of the time to create, load and destroy a VM.
Ratios are taken round by round, because the machine's speed drifts; each round's first VM
is left out on both sides, because one of them has a fresh process to warm up.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path

from kvmharness.guest import state
from kvmharness.guest.vm import GuestVm
from kvmharness.kvm.fds import System
from kvmharness.measure.take import calibrate, pinned
from kvmharness.model.cases import Case

HERE = Path(__file__).parent
ROUNDS = 60
VMS = 3
SAMPLES = 10
TARGET_MS = 1.0


def bare(program: Path, case: Case, cpu: int, iterations: int) -> tuple[list[int], list[int]]:
    """Run the C program; return the nanoseconds a VM cost, and all samples in ticks."""
    blob = Path(str(files("kvmharness"))) / "blobs" / f"{case.mode}.bin"
    entry = state.blob(case.mode).symbols[f"op_{case.op}"]
    numbers = (entry, case.mode, cpu, iterations, SAMPLES, VMS)
    done = subprocess.run(
        [program, blob, *map(str, numbers)], capture_output=True, text=True, check=True
    )
    rows = [[int(x) for x in line.split()] for line in done.stdout.splitlines()][1:]
    return [row[0] + row[1] for row in rows], [x for row in rows for x in row[2:]]


def without_proof(name: str) -> state.Blob:
    """Return the guest's blob as bare.c runs it: straight into the op, with no proof before."""
    blob = state.blob(name)
    kept = {s: at for s, at in blob.symbols.items() if not s.startswith("prove_")}
    return dataclasses.replace(blob, symbols=kept)


def harness(system: System, case: Case, cpu: int, iterations: int) -> tuple[list[int], list[int]]:
    """Do the same with the harness."""
    costs, ticks = [], []
    blob = without_proof(case.mode)
    with pinned(cpu):
        for _ in range(VMS):
            begin = time.monotonic_ns()
            guest = GuestVm(system, case, blob=blob)
            created = time.monotonic_ns() - begin
            guest.measure(iterations, 1)
            ticks += guest.measure(iterations, SAMPLES).ticks
            begin = time.monotonic_ns()
            guest.close()
            costs.append(created + time.monotonic_ns() - begin)
    return costs[1:], ticks[SAMPLES:]


def compare(system: System, program: Path, case: Case, cpu: int) -> tuple[float, float]:
    """Return the medians over ROUNDS of harness / bare: per op, and per VM."""
    with pinned(cpu), GuestVm(system, case) as guest:
        iterations = calibrate(guest, TARGET_MS)
    per_op, per_vm = [], []
    for turn in range(ROUNDS):
        if turn % 2:
            ours = harness(system, case, cpu, iterations)
            theirs = bare(program, case, cpu, iterations)
        else:
            theirs = bare(program, case, cpu, iterations)
            ours = harness(system, case, cpu, iterations)
        per_vm.append(statistics.median(ours[0]) / statistics.median(theirs[0]))
        per_op.append(statistics.median(ours[1]) / statistics.median(theirs[1]))
    print(
        f"{case.name:16} per op {statistics.median(per_op):.4f} "
        f"{spread(per_op)}  per VM {statistics.median(per_vm):.3f} "
        f"{spread(per_vm)}"
    )
    return statistics.median(per_op), statistics.median(per_vm)


def spread(values: list[float]) -> str:
    """Format the 95 % interval of the median, by the binomial order statistics."""
    ordered = sorted(values)
    reach = 0.98 * len(ordered) ** 0.5
    low = ordered[max(0, int(len(ordered) / 2 - reach))]
    high = ordered[min(len(ordered) - 1, int(len(ordered) / 2 + reach))]
    return f"[{low:.4f}, {high:.4f}]"


def main() -> int:
    """Compare two cases; return 1 where a goal was missed."""
    cpu = max(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as scratch, System() as system:
        program = Path(scratch, "bare")
        subprocess.run(["cc", "-O2", "-o", program, HERE / "bare.c"], check=True)
        print(f"harness / bare C, {ROUNDS} rounds of {VMS - 1} VMs x {SAMPLES} samples, in turn")
        ratios = [
            compare(system, program, Case(name, "cr0_wp"), cpu) for name in ("real16", "long64")
        ]
    met = all(op <= 1.005 and vm <= 1.2 for op, vm in ratios)
    print("goals (per op 1.005, per VM 1.2):", "met" if met else "missed")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
