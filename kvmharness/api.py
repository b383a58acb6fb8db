"""kvmharness for programs: all that `from kvmharness import ...` gives.  See docs/api.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from kvmharness.analysis import compare as comparing
from kvmharness.analysis import load, summary
from kvmharness.analysis.compare import CaseComparison, Comparison
from kvmharness.errors import HarnessError
from kvmharness.guest.vm import GuestVm
from kvmharness.kvm.fds import System, Vcpu, Vm
from kvmharness.measure.collect import Plan, Step, collect
from kvmharness.measure.settings import Wanted, settle
from kvmharness.model import runfile
from kvmharness.model.cases import Case, select
from kvmharness.model.clocks import QUICK, Defaults
from kvmharness.model.run import CaseResult, Run
from kvmharness.render.compare_table import sentence

__all__ = [
    "Case",
    "CaseComparison",
    "CaseResult",
    "Comparison",
    "GuestVm",
    "HarnessError",
    "Run",
    "Step",
    "System",
    "Vcpu",
    "Vm",
    "compare",
    "measure_cases",
    "read",
    "select",
    "sentence",
    "write",
]


def _hear_nothing(run: Run, step: Step) -> None:
    pass


def measure_cases(
    *patterns: str,
    quick: bool = False,
    vms: int | None = None,
    samples: int | None = None,
    iterations: int | None = None,
    cpu: int | None = None,
    timeout_s: float = 10.0,
    count: bool = True,
    on_step: Callable[[Run, Step], None] = _hear_nothing,
) -> Run:
    """Measure the cases that shell-style patterns name on this kernel, and return the run.

    It is what `kvmharness run PATTERN...` does, each option as there: `samples` are of all VMs
    together, `cpu` is the one to run on (the last one allowed), `timeout_s` the seconds that one
    measurement may take.  Without `count` only KVM's own statistics are counted.  `on_step` hears
    where it stands.  Raises HarnessError.
    """
    wanted = Wanted(vms, samples, iterations, cpu, timeout_s=timeout_s)
    settings = settle(wanted, QUICK if quick else Defaults())
    with System() as system:
        run = collect(system, Plan(select(patterns), settings, None, count=count), on_step)
    summary.summarise(run)
    return run


def read(path: str | Path) -> Run:
    """Read a result file and compute its figures from the samples.  Raises HarnessError."""
    return load.one(Path(path)).run


def write(path: str | Path, run: Run) -> None:
    """Write a result file whole or not at all, in place of what is there.  Raises HarnessError."""
    runfile.write(Path(path), run)


def compare(
    base: Run | Sequence[Run], new: Run | Sequence[Run], threshold: float | None = None
) -> Comparison:
    """Compare two kernels by a run of each, or by several boots' runs of each.

    `threshold` is the least change that matters, as a share of 1 (None: the clock's).  Raises
    HarnessError where a side holds runs of several kernels.
    """
    sides = []
    for name, given in (("BASE", base), ("NEW", new)):
        runs = [given] if isinstance(given, Run) else list(given)
        for run in runs:
            summary.classify_cases(run)
        sides.append(comparing.side(name, runs))
    return comparing.compare(sides[0], sides[1], threshold)
