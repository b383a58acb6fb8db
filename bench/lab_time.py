"""How long a lab takes, from command to table, and what it executes in that time.

The quick suite with counting on each machine; tcg-svm booted, and gone on with from a snapshot;
then ten kernels and variants on it.  Beside the time on the wall stands the CPU time of all that
was started, which a busy machine moves less.  Where the time goes is told in instructions of the
booted kernel, which nothing moves.

    python bench/lab_time.py [KERNEL]
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from kvmharness.kernel import debian, resolve, variants
from kvmharness.lab import machines, matrix, planning
from kvmharness.lab.planning import LabPlan, Target
from kvmharness.measure.settings import for_lab
from kvmharness.model import suites

KERNEL = "linux-image-6.1.0-56-amd64"
# So many boots at once, of all kernels that were fetched and all variants that make ten.
TEN = 10
VARIANTS = ("tdp", "legacy", "shadow")
# What is done from one step to the next (lab.inside).
STEPS = {
    "imported": "boot to Python's imports",
    "loaded": "KVM is loaded",
    "quiet": "the kernel falls quiet",
    "begun": "the first VM of each case",
    "measured": "measuring",
    "counted": "counting",
    "sent": "sending",
}


@dataclass(frozen=True)
class Spent:
    """Seconds on the wall, and of CPU time."""

    wall: float
    cpu: float


def timed(arguments: Sequence[str]) -> Spent:
    """Run `kvmharness lab` to its table, and return what that took.  Exits where it fails."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [sys.executable, "-m", "kvmharness", "lab", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wall, after = time.monotonic() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr}")
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return Spent(wall, cpu)


def steps(kernel: str) -> dict[str, int]:
    """Return what the booted kernel had executed when each step was done."""
    (target,) = planning.targets(
        [resolve.resolve(kernel)], [variants.parse("tdp")], [machines.TCG_SVM]
    )
    plan = LabPlan(suites.load("quick").cases, {"insn": for_lab("insn")}, "quick", None, None)

    def nothing(of: Target, line: str) -> None:
        del of, line

    (result,) = matrix.measure([target], plan, 1, nothing)
    return result.steps


def ten() -> list[str]:
    """Return the arguments that boot about ten kernels and variants: those that are fetched."""
    kernels = debian.fetched()
    chosen = VARIANTS[: max(1, -(-TEN // max(len(kernels), 1)))]
    return [*kernels, *(f"--variant={variant}" for variant in chosen)]


def report(title: str, spent: Spent) -> None:
    print(f"{title:44} {spent.wall:7.1f} s {spent.cpu:7.1f} CPU s", flush=True)


def main() -> None:
    """Measure and print."""
    kernel = sys.argv[1] if len(sys.argv) > 1 else KERNEL
    load = os.getloadavg()[0]
    print(f"{len(os.sched_getaffinity(0))} CPUs, load {load:.1f}: at more than 1 believe CPU time")
    quick = [kernel, "--variant=tdp"]
    tcg = [*quick, "--machine=tcg-svm"]
    timed(tcg)  # capsule, unpacked kernel and snapshot are there
    report("tcg-svm, booted", timed([*tcg, "--no-snapshot"]))
    report("tcg-svm, from a snapshot", timed(tcg))
    report("bochs-vmx", timed([*quick, "--machine=bochs-vmx"]))
    many = ten()
    report(f"tcg-svm, {' '.join(many)}", timed([*many, "--machine=tcg-svm"]))
    before = 0
    for name, at in steps(kernel).items():
        if name in STEPS:
            print(f"{STEPS[name]:44} {(at - before) / 1e9:7.2f} G instructions")
            before = at


if __name__ == "__main__":
    main()
