"""What is to be booted and measured, under which names, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kvmharness import files
from kvmharness.errors import LabLost, UsageError
from kvmharness.files import Output
from kvmharness.kernel.resolve import Kernel
from kvmharness.kernel.variants import Variant
from kvmharness.lab import trace
from kvmharness.lab.boot import LabMachine
from kvmharness.lab.capsule import Part
from kvmharness.model.cases import Case
from kvmharness.model.clocks import Clock
from kvmharness.model.run import Run, Settings

OnProgress = Callable[["Target", str], None]


@dataclass(frozen=True)
class LabPlan:
    """What to measure in every kernel, and how; `output` is where run files and logs go.

    `settings` are those of each clock that a target's machine has.  `traces` is where what
    tracing machines recorded is kept; `count` asks for the counting passes.  Without
    `snapshots` every machine is booted.  `capsule` is what measures inside, None: what is made
    here.
    """

    cases: Sequence[Case]
    settings: Mapping[Clock, Settings]
    suite: str | None
    kvm_modules: Path | None
    output: Path | None
    traces: Path | None = None
    count: bool = True
    snapshots: bool = True
    capsule: Sequence[Part] | None = None


@dataclass(frozen=True)
class Inner:
    """A kernel in a variant that is booted inside another one."""

    kernel: Kernel
    variant: Variant

    @property
    def label(self) -> str:
        """A name fit for files, e.g. 5.10.0-30-amd64-tdp."""
        return f"{self.kernel.label}-{self.variant.name.replace('=', '_')}"


@dataclass(frozen=True)
class Target:
    """One boot of a kernel in one variant in one machine; `tag` tells it from others.

    With `inner` it is L0, and the kernel inside is measured.
    """

    kernel: Kernel
    variant: Variant
    machine: LabMachine
    tag: str = ""
    boot: int = 1
    inner: Inner | None = None

    @property
    def label(self) -> str:
        """A name fit for files, e.g. 5.10.0-30-amd64-tdp, or with two levels A-tdp-in-B-tdp."""
        own = Inner(self.kernel, self.variant).label + self.tag
        return f"{self.inner.label}-in-{own}" if self.inner else own

    @property
    def innermost(self) -> Inner:
        """The kernel that is measured, and how."""
        return self.inner or Inner(self.kernel, self.variant)

    def parameters(self) -> dict[str, dict[str, str]]:
        """Return what to load L0's KVM with: nesting, where a kernel inside needs it."""
        found = self.variant.parameters(self.machine.vendor)
        if self.inner:
            found[self.machine.vendor]["nested"] = "1"
        return found


def targets(
    kernels: Sequence[Kernel],
    variants: Sequence[Variant],
    machines: Sequence[LabMachine],
    boots: int = 1,
    inner: Sequence[Inner | None] = (None,),
) -> list[Target]:
    """Return a target for each machine, kernel, variant, inner one and boot.

    Machines and boots are part of the label where there are several.  Raises UsageError for a
    machine in which no kernel can be booted inside another.
    """
    for machine in machines:
        if any(inner) and machine.inner is None:
            raise UsageError(f"--nested: not in --machine {machine.name}; use --machine tcg-svm")

    def tag(machine: LabMachine, boot: int) -> str:
        several = f"-{machine.name}" if len(machines) > 1 else ""
        return several + (f"-boot{boot}" if boots > 1 else "")

    return [
        Target(kernel, variant, machine, tag(machine, boot), boot, one)
        for machine in machines
        for kernel in kernels
        for variant in variants
        for one in inner
        for boot in range(1, boots + 1)
    ]


@dataclass
class Result:
    """What became of a target: a run, or why there is none; a lost one may have part of a run.

    `path` is where the run lies, `outputs` what was written for the user, `bug` an error of ours
    that nobody foresaw: the others are measured all the same.  `steps` is JobOutcome's.
    """

    target: Target
    run: Run | None = None
    skipped: str | None = None
    lost: LabLost | None = None
    bug: Exception | None = None
    path: Path | None = None
    outputs: list[Output] = field(default_factory=list)
    traced: trace.Kept | None = None
    steps: dict[str, int] = field(default_factory=dict)


def check_labels(targets: Sequence[Target]) -> None:
    """Raise UsageError where two targets would have the same name: one file would be lost."""
    seen: dict[str, Target] = {}
    for target in targets:
        other = seen.setdefault(target.label, target)
        if other is not target:
            raise UsageError(
                f"lab: {other.kernel.named} and {target.kernel.named} are both {target.label}; "
                "measure them by two calls with an --output each"
            )


def check_folder(output: Path, targets: Sequence[Target]) -> None:
    """Make the folder for run files, or raise UsageError before an hour of measuring."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"write {output}: {error.strerror}; name another folder") from None
    for target in targets:
        for name in file_names(target):
            files.check_writable(output / name)


def file_names(target: Target) -> list[str]:
    """Return what a target's run file is called, and the log of each kernel."""
    names = [f"{target.label}.json", f"{target.label}.log"]
    return [*names, f"{target.label}.inner.log"] if target.inner else names
