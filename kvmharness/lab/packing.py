"""The files of a job: what to load, what to do, and with two levels the kernel to boot inside."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec

from kvmharness import cache, files
from kvmharness.errors import UsageError
from kvmharness.kernel import btf, image, modules, resolve, roles, versions
from kvmharness.kernel.resolve import Kernel
from kvmharness.kernel.variants import Module, Variant
from kvmharness.lab import capsule, vmm
from kvmharness.lab.boot import Monitor
from kvmharness.lab.capsule import Part
from kvmharness.lab.job import JOB, SETUP, Job, Setup
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
    """Tell the MMU-role code by the kernel's files: inside it would take seconds.

    It takes most of a second here too, so what was found is kept in the cache, by the content of
    the files and of the code that reads them.
    """
    own = kernel.modules / modules.PLACE if kernel.modules else None
    place = overlay or own
    paths = [*(sorted(place.glob("kvm.ko*"))[:1] if place else []), kernel.image]
    code = [Path(str(module.__file__)) for module in (btf, image, roles, versions)]
    named = "".join([kernel.named, *map(cache.digest, [*paths, *code])])
    kept = cache.folder("roles") / f"{hashlib.sha256(named.encode()).hexdigest()[:32]}.json"
    with suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(kept.read_bytes(), type=Roles)
    found = roles.roles_of(image.read_files(paths, kernel.named))
    with suppress(UsageError):  # a full disk
        files.write_whole(kept, msgspec.json.encode(found))
    return found


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


def _packed(setup: Setup, loaded: Sequence[Loaded]) -> dict[str, bytes]:
    """Return the files of what is done before anything is measured."""
    contents = {module.file: path.read_bytes() for module, path in loaded}
    return {**contents, SETUP: msgspec.json.encode(setup)}


def _job(measured: Measured, plan: LabPlan, overlay: Path | None) -> Job:
    return Job(
        roles_of(measured.kernel, overlay),
        list(plan.cases),
        plan.settings[measured.clock],
        measured.clock,
        plan.suite,
        symbols=int(plan.traces is not None),
        count=int(plan.count),
    )


def _booted(target: Target) -> Measured:
    machine = target.machine
    return Measured(target.kernel, target.variant, machine.vendor, machine.clock, target.boot)


def _modules(loaded: Sequence[Loaded]) -> list[Module]:
    return [module for module, _ in loaded]


@dataclass(frozen=True)
class Packed:
    """What goes into one machine: the files of its archive, and the job, where that is apart.

    `hashes` are the sha256 of KVM's modules, with two levels `inner_hashes` those of L1's.
    """

    files: dict[str, bytes]
    hashes: dict[str, str]
    job: bytes | None = None
    inner_hashes: dict[str, str] = field(default_factory=dict)


def single(target: Target, plan: LabPlan, stops: bool) -> Packed:
    """Pack what measures in the booted kernel; its job apart where the machine `stops` for it."""
    loaded, hashes = modules.prepare(target.kernel, target.parameters(), plan.kvm_modules)
    setup = Setup(_modules(loaded), target.parameters(), target.boot, int(stops))
    contents = _packed(setup, loaded)
    job = msgspec.json.encode(_job(_booted(target), plan, plan.kvm_modules))
    return Packed(contents, hashes, job) if stops else Packed({**contents, JOB: job}, hashes)


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
    setup = Setup(_modules(loaded), measured.parameters(), measured.boot, posts=1)
    # Nobody asks which of its functions ran.
    job = msgspec.structs.replace(_job(measured, plan, plan.kvm_modules), below=True, symbols=0)
    archive = folder / "inner.cpio"
    capsule.job(archive, {**_packed(setup, loaded), JOB: msgspec.json.encode(job)})
    linux, contents = vmm.pack(
        resolve.bootable(measured.kernel),
        [*(part.path for part in parts), archive],
        monitor.command_line(measured.variant.command_line(measured.vendor)),
        monitor.memory_mib,
    )
    # A guest that hangs is given up inside first.
    return Inside(InnerJob(linux, job.settings.timeout_s + SILENT_INSIDE_S), contents, hashes)


def double(target: Target, plan: LabPlan, parts: Sequence[Part], folder: Path) -> Packed:
    """Pack what boots another kernel inside, which measures."""
    monitor, one = target.machine.inner, target.inner
    assert one
    assert monitor
    measured = dataclasses.replace(_booted(target), kernel=one.kernel, variant=one.variant)
    packed = inside(measured, monitor, plan, parts, folder)
    loaded, hashes = modules.prepare(target.kernel, target.parameters(), None)
    # Asked first, it would emulate what the proof has the other's KVM emulate.
    setup = Setup(_modules(loaded), target.parameters(), target.boot, proves=0)
    outer = msgspec.structs.replace(_job(_booted(target), plan, None), inner=packed.job)
    contents = {**packed.files, **_packed(setup, loaded), JOB: msgspec.json.encode(outer)}
    return Packed(contents, hashes, inner_hashes=packed.hashes)
