"""The files of a job: what to load, what to do, and with two levels the kernel to boot inside."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec

from kvmharness.kernel import image, modules, resolve, roles
from kvmharness.kernel.resolve import Kernel
from kvmharness.kernel.variants import Module, Variant
from kvmharness.lab import capsule, vmm
from kvmharness.lab.boot import Monitor
from kvmharness.lab.capsule import Part
from kvmharness.lab.job import JOB, Job
from kvmharness.lab.job import Inner as InnerJob
from kvmharness.lab.planning import LabPlan, Target
from kvmharness.model.clocks import Clock
from kvmharness.model.host import Roles

Loaded = tuple[Module, Path]
# No sign of life for so long from the kernel inside, by the clock there, is a hang: longer than
# a kernel takes to boot.
SILENT_INSIDE_S = 10.0


@functools.cache
def roles_of(kernel: Kernel, overlay: Path | None) -> Roles:
    """Tell the MMU-role code by the kernel's files: inside it would take seconds."""
    own = kernel.modules / modules.PLACE if kernel.modules else None
    place = overlay or own
    files = sorted(place.glob("kvm.ko*"))[:1] if place else []
    return roles.roles_of(image.read_files([*files, kernel.image], kernel.named))


def _packed(job: Job, loaded: Sequence[Loaded]) -> dict[str, bytes]:
    """Return the files of a job: what to load and what to do."""
    contents = {module.file: path.read_bytes() for module, path in loaded}
    return {**contents, JOB: msgspec.json.encode(job)}


@dataclass(frozen=True)
class Measured:
    """A kernel to measure in, with what its machine has: a vendor's module, a clock."""

    kernel: Kernel
    variant: Variant
    vendor: str
    clock: Clock
    boot: int = 1

    def parameters(self) -> dict[str, dict[str, str]]:
        """Return what to load its KVM with."""
        return self.variant.parameters(self.vendor)


def _job(measured: Measured, plan: LabPlan, loaded: Sequence[Loaded], overlay: Path | None) -> Job:
    return Job(
        [module for module, _ in loaded],
        measured.parameters(),
        roles_of(measured.kernel, overlay),
        list(plan.cases),
        plan.settings[measured.clock],
        measured.clock,
        plan.suite,
        symbols=int(plan.traces is not None),
        count=int(plan.count),
        boot=measured.boot,
    )


def _booted(target: Target) -> Measured:
    machine = target.machine
    return Measured(target.kernel, target.variant, machine.vendor, machine.clock, target.boot)


def single(target: Target, plan: LabPlan) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return the files of a job that measures in the booted kernel, and its modules' sha256."""
    loaded, hashes = modules.prepare(target.kernel, target.parameters(), plan.kvm_modules)
    job = _job(_booted(target), plan, loaded, plan.kvm_modules)
    return _packed(job, loaded), hashes


class Inside(NamedTuple):
    """A kernel to boot inside, the files that takes, and the sha256 of its KVM's modules."""

    job: InnerJob
    files: dict[str, bytes]
    hashes: dict[str, str]


def inside(
    measured: Measured, monitor: Monitor, plan: LabPlan, parts: Sequence[Part], folder: Path
) -> Inside:
    """Pack a kernel that the monitor boots and that measures; `folder` is for what is made.

    Raises UsageError for a kernel that cannot be entered.
    """
    loaded, hashes = modules.prepare(measured.kernel, measured.parameters(), plan.kvm_modules)
    job = _job(measured, plan, loaded, plan.kvm_modules)
    # Its symbols would take it minutes to send: each byte is two exits.
    job = msgspec.structs.replace(job, below=True, symbols=0)
    archive = folder / "inner.cpio"
    capsule.job(archive, _packed(job, loaded))
    linux, files = vmm.pack(
        resolve.bootable(measured.kernel),
        [*(part.path for part in parts), archive],
        monitor.command_line(measured.variant.command_line(measured.vendor)),
        monitor.memory_mib,
    )
    # A guest that hangs is given up inside first.
    return Inside(InnerJob(linux, job.settings.timeout_s + SILENT_INSIDE_S), files, hashes)


def double(
    target: Target, plan: LabPlan, parts: Sequence[Part], folder: Path
) -> tuple[dict[str, bytes], dict[str, str], dict[str, str]]:
    """Return the files of a job that boots another kernel inside, which measures.

    After them the sha256 of L0's modules, then of L1's.
    """
    monitor, one = target.machine.inner, target.inner
    assert one
    assert monitor
    measured = dataclasses.replace(_booted(target), kernel=one.kernel, variant=one.variant)
    packed = inside(measured, monitor, plan, parts, folder)
    loaded, hashes = modules.prepare(target.kernel, target.parameters(), None)
    job = _job(_booted(target), plan, loaded, None)
    outer = msgspec.structs.replace(job, wanted=target.parameters(), inner=packed.job)
    return {**packed.files, **_packed(outer, loaded)}, hashes, packed.hashes
