"""A run: the types of the result file, described in docs/results.md."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import msgspec

from kvmharness.errors import UsageError
from kvmharness.model.cases import Case
from kvmharness.model.clocks import Clock
from kvmharness.model.host import Host

SCHEMA = "kvmharness.run/2"
# Nanoseconds: a day an op.  No figure is larger, and none of them overflows.
MOST_PER_OP = 86400e9
# Less than a tick over all the ops of the longest sample.  No figure but 0 is smaller, and no
# ratio of two of them overflows.
LEAST_PER_OP = 1e-12


class Interval(msgspec.Struct):
    """A median with its 95 % interval; `ci95` is null where one VM gave all samples."""

    median: float
    ci95: tuple[float, float] | None


class Net(Interval):
    """The median less the one of `empty`; `unclear` where the interval includes 0."""

    unclear: bool


class PerOp(Interval):
    """Per op in the case's unit, gross; `net` is null for `empty` and where it was not run."""

    net: Net | None = None


How = Literal["no-exit", "exit", "emulated", "unclear"]
Root = Literal["kept", "reloaded", "rebuilt", "kept-or-reloaded", "unclear"]


class CaseClass(msgspec.Struct, frozen=True):
    """The class of a case: how its op reached KVM, and what became of the page-table root."""

    how: How
    root: Root

    def __str__(self) -> str:
        return f"{self.how}/{self.root}"


class Disturbance(msgspec.Struct):
    """What came between the samples: null where this kernel does not say.

    `other_runs` is how many measured here at the same time, `same_cpu` whether on our CPU.
    """

    involuntary_switches: int = 0
    migrations: int | None = None
    steal_ms: float | None = None
    other_runs: int = 0
    same_cpu: bool = False


# In `absent`: why a case has no figure of the work that was deferred.
DEFERRED = "deferred"
# The same of what the W^X proof did not try: a path of `proof`, or a bit of CR4.
PROOF_PREFIX = "proof."
# What deferred work was read off: all that the one CPU did, or the kernel's threads.
DeferredBy = Literal["cpu", "threads"]


class CaseResult(msgspec.Struct):
    """One case: every sample, and what was made of them."""

    name: str
    mode: str
    op: str
    params: dict[str, int]
    iterations: int | None = None
    unit: str = "ns"
    tsc_khz: int | None = None
    samples: list[float] = []
    # The index of the VM that gave each sample, and of the vCPU where there are several.
    vms: list[int] = []
    vcpus: list[int] = []
    # Beside the samples: how often another task took the CPU during each.
    preempted: list[int] = []
    # One for each VM that gave samples: ticks of the TSC in which `cpu` did a fixed loop of ours.
    paces: list[float] = []
    per_op: PerOp | None = None
    # What the kernel did for an op later, in `unit`: each time that it was waited for, the VM
    # that it was waited for in, and what was read.
    deferred_samples: list[float] = []
    deferred_vms: list[int] = []
    deferred_by: DeferredBy | None = None
    deferred: Interval | None = None
    # Cost and deferred work together; null where the latter could not be had.
    total: Interval | None = None
    tsc: Interval | None = None
    counters: dict[str, float | None] = {}
    exit_reasons: dict[str, float] = {}
    # What an op queues to kworkers, by the function that is to run.
    work_items: dict[str, float] = {}
    class_: CaseClass | None = msgspec.field(default=None, name="class")
    class_evidence: dict[str, float] = {}
    # Why a counter, or with the key `kvm.*` all of a source's, is null.
    absent: dict[str, str] = {}
    disturbed: Disturbance = msgspec.field(default_factory=Disturbance)
    noisy: str | None = None
    # Accesses to a read-only page that the guest's proof tried and KVM got right, by path; null
    # where the guest does not page.
    proof: dict[str, int] | None = None
    skipped: str | None = None
    failed: str | None = None
    incorrect: str | None = None

    @property
    def case(self) -> Case:
        """The case that was measured."""
        return Case(self.mode, self.op, self.params)

    def discard(self, reason: str) -> None:
        """Note that KVM was incorrect here and drop the figures: a wrong KVM has no speed."""
        self.incorrect = reason
        self.samples, self.vms, self.vcpus, self.preempted = [], [], [], []
        self.paces = []
        self.deferred_samples, self.deferred_vms = [], []
        self.per_op = self.deferred = self.total = None
        self.tsc = self.noisy = self.class_ = None
        self.counters, self.exit_reasons, self.class_evidence = {}, {}, {}
        self.work_items = {}


class Slope(msgspec.Struct):
    """Cases that differ in one parameter, and the line through their medians.

    `points` are [value of `param`, per-op median], `slope` is in `unit` per op and one more
    of `param`, `intercept` in `unit` per op; `ci95` is null where a case has a single VM.
    `net_slope` is the slope less that of `empty`, null for `empty` and where it was not run.
    """

    # The case's name without `param`.
    case: str
    param: str
    unit: str
    points: list[tuple[float, float]]
    slope: float
    ci95: tuple[float, float] | None
    intercept: float
    net_slope: float | None = None
    net_ci95: tuple[float, float] | None = None


class Sampled(NamedTuple):
    """What a sampling profiler saw of a case: units of its clock by symbol, over `ops` ops."""

    case: str
    counts: Mapping[str, int]
    ops: int


class Tool(msgspec.Struct):
    """What measured: version, and the sha256 of each guest's blob."""

    version: str
    guests: dict[str, str]


class Settings(msgspec.Struct, frozen=True):
    """How it was measured; `iterations` null means calibrated to `target_ms` a sample.

    After `samples_per_doorbell` samples (null: all of a VM's) the guest stopped, until the kernel
    had done what they left for later.  `force_emulation` let the W^X proof set KVM's parameter of
    that name for its own time.  `priority` is the real-time priority that the vCPUs' threads had
    while they were timed, null: none of ours.
    """

    vms: int
    samples_per_vm: int
    target_ms: float
    iterations: int | None
    cpu: int | None
    precision: float
    timeout_s: float
    samples_per_doorbell: int | None = None
    force_emulation: bool = False
    priority: int | None = None


class Run(msgspec.Struct):
    """All cases measured on one kernel at one time; `finished` is null in a cut-short file."""

    schema: str
    started: str
    tool: Tool
    host: Host
    settings: Settings
    # The suite's name, or its path as given; null where patterns named the cases.
    suite: str | None = None
    clock: Clock = "tsc"
    finished: str | None = None
    cases: list[CaseResult] = []
    slopes: list[Slope] = []

    def frame(self) -> Any:
        """Return the samples as a pandas DataFrame, a row each, for a notebook.

        Columns: case, mode, op, class, vm (its number), per_op (in `unit`), and one for each
        parameter that some case has, 0 where a case has not.  Raises UsageError without pandas.
        """
        try:
            import pandas  # noqa: PLC0415 - heavy, and no part of what is installed
        except ImportError:
            raise UsageError("frame: pandas is not installed; pip install pandas") from None
        params = sorted({name for case in self.cases for name in case.params})
        rows = [
            {
                "case": case.name,
                "mode": case.mode,
                "op": case.op,
                "class": str(case.class_) if case.class_ else None,
                "vm": vm,
                "per_op": sample,
                "unit": case.unit,
                **{name: case.params.get(name, 0) for name in params},
            }
            for case in self.cases
            for vm, sample in zip(case.vms, case.samples, strict=True)
        ]
        names = ["case", "mode", "op", "class", "vm", "per_op", "unit", *params]
        return pandas.DataFrame(rows, columns=names)


def timestamp() -> str:
    """Return the time now, UTC, to the second, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def per_op(counts: Mapping[str, int], ops: int) -> dict[str, float]:
    """Divide counts by the number of ops they were taken over."""
    return {name: count / ops for name, count in counts.items()}
