"""The files of a job: what to load, what to do, and with two levels the kernel to boot inside."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import msgspec

from kvmharness.kernel import image, modules, resolve, roles
from kvmharness.kernel.resolve import Kernel
from kvmharness.kernel.variants import Module
from kvmharness.lab import capsule, vmm
from kvmharness.lab.capsule import Part
from kvmharness.lab.job import JOB, Job
from kvmharness.lab.job import Inner as InnerJob
from kvmharness.lab.planning import LabPlan, Target
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


def _job(target: Target, plan: LabPlan, loaded: Sequence[Loaded], overlay: Path | None) -> Job:
    machine = target.machine
    return Job(
        [module for module, _ in loaded],
        target.parameters(),
        roles_of(target.kernel, overlay),
        list(plan.cases),
        plan.settings[machine.clock],
        machine.clock,
        plan.suite,
        symbols=int(plan.traces is not None),
        count=int(plan.count),
        boot=target.boot,
    )


def single(target: Target, plan: LabPlan) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return the files of a job that measures in the booted kernel, and its modules' sha256."""
    loaded, hashes = modules.prepare(target.kernel, target.parameters(), plan.kvm_modules)
    return _packed(_job(target, plan, loaded, plan.kvm_modules), loaded), hashes


def double(
    target: Target, plan: LabPlan, parts: Sequence[Part], folder: Path
) -> tuple[dict[str, bytes], dict[str, str], dict[str, str]]:
    """Return the files of a job that boots another kernel inside, which measures.

    After them the sha256 of L0's modules, then of L1's.
    """
    monitor, vendor = target.machine.inner, target.machine.vendor
    assert target.inner
    assert monitor
    one = target.inner
    inside = Target(one.kernel, one.variant, target.machine, boot=target.boot)
    loaded, inner_hashes = modules.prepare(inside.kernel, inside.parameters(), plan.kvm_modules)
    job = msgspec.structs.replace(_job(inside, plan, loaded, plan.kvm_modules), below=True)
    archive = folder / "inner.cpio"
    capsule.job(archive, _packed(job, loaded))
    linux, files = vmm.pack(
        resolve.bootable(inside.kernel),
        [*(part.path for part in parts), archive],
        monitor.command_line(inside.variant.command_line(vendor)),
        monitor.memory_mib,
    )
    loaded, hashes = modules.prepare(target.kernel, target.parameters(), None)
    # A guest that hangs is given up inside first.
    inner = InnerJob(linux, job.settings.timeout_s + SILENT_INSIDE_S)
    outer = msgspec.structs.replace(_job(target, plan, loaded, None), inner=inner)
    return {**files, **_packed(outer, loaded)}, hashes, inner_hashes
