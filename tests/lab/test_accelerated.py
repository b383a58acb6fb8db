"""The machine `kvm`: this package's own QEMU command with KVM, where no host at hand nests.

So the host is made: an emulated L0 whose kvm_amd nests, with QEMU in its capsule.  What QEMU boots
there is the capsule and the job of a lab of machine `kvm`, unchanged.
"""

from __future__ import annotations

import dataclasses
import shlex
import shutil
from pathlib import Path

import pytest

from kvmharness.kernel import modules, resolve, variants
from kvmharness.lab import capsule, engine, packing, qemu
from kvmharness.lab.boot import CONSOLE, RESULTS, Boot, LabMachine
from kvmharness.lab.capsule import Item
from kvmharness.lab.job import OUTCOME, RUN
from kvmharness.lab.machines import ACCELERATED, TCG_SVM
from kvmharness.lab.planning import LabPlan, Target
from kvmharness.measure.settings import for_lab
from kvmharness.model import runfile
from kvmharness.model.cases import select
from tests.support.kernels import CURED, need_lab, newest

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(3000)]
TDP = variants.parse("tdp")
# L0 holds L1's memory, and QEMU; nothing comes out of it while L1 boots.
L0_MIB, L1_MIB, SILENT_S = 2048, 384, 1500.0
ROMS = (
    "qemu/kvmvapic.bin",
    "qemu/linuxboot.bin",
    "qemu/linuxboot_dma.bin",
    "qemu/multiboot.bin",
    "qemu/pvh.bin",
    "seabios/bios-256k.bin",
)
PLACE = Path("/job")


def with_qemu() -> list[Item]:
    """Return what QEMU needs to run in L0."""
    binary = shutil.which(qemu.BINARY) or qemu.BINARY
    roms = [Item(f"usr/share/{name}", f"/usr/share/{name}") for name in ROMS]
    return [Item(f"usr/bin/{qemu.BINARY}", binary, "strip"), *capsule.libraries([binary]), *roms]


def job_of_l1(kernel: resolve.Kernel, folder: Path) -> tuple[list[str], dict[str, bytes]]:
    """Return the command that boots L1 in L0's PLACE, and the files that it reads there."""
    emulator = dataclasses.replace(qemu.KVM, memory_mib=L1_MIB)
    machine = LabMachine(ACCELERATED, emulator, "host", "kvm_amd", "tsc")
    settings = for_lab("tsc", vms=2, samples=6)
    cases = select(["long64/empty", "long64/cr0_wp"])
    plan = LabPlan(cases, {"tsc": settings}, None, None, None)
    packed = packing.single(Target(kernel, TDP, machine), plan, stops=False)
    archive = folder / "job.cpio"
    capsule.job(archive, packed.files)
    options = TDP.command_line("kvm_amd")
    boot = Boot(kernel, machine, [capsule.base().path, archive], options, folder, SILENT_S)
    image = resolve.bootable(kernel)
    there = {str(image): str(PLACE / "l1-kernel")}
    command = [
        there.get(word, word).replace(str(folder), str(PLACE)) for word in emulator.command(boot)
    ]
    return command, {"l1-kernel": image.read_bytes(), "initrd": boot.joined().read_bytes()}


def test_a_lab_of_machine_kvm_runs_in_a_host_that_nests(tmp_path: Path) -> None:
    need_lab(CURED)
    kernel = resolve.resolve(newest(CURED))
    inner, outer = tmp_path / "inner", tmp_path / "outer"
    inner.mkdir()
    outer.mkdir()
    command, files = job_of_l1(kernel, inner)
    wanted = {"kvm": {}, "kvm_amd": {"nested": "1"}}
    loaded, _ = modules.prepare(kernel, wanted, None)
    steps = [f"insmod {PLACE}/{m.file} {'nested=1' * (m.name == 'kvm_amd')}" for m, _ in loaded]
    steps += [shlex.join(command), f"cat {PLACE}/{CONSOLE}", f"cat {PLACE}/{RESULTS} > /dev/ttyS1"]
    files |= {module.file: path.read_bytes() for module, path in loaded}
    capsule.job(outer / "job.cpio", files, "\n".join(["echo progress in > /dev/ttyS1", *steps]))
    emulator = dataclasses.replace(qemu.TCG, memory_mib=L0_MIB, counts_opcodes=False)
    parts = [capsule.base(), capsule.part("qemu", " ".join([qemu.BINARY, *ROMS]), with_qemu)]
    boot = Boot(
        kernel,
        dataclasses.replace(TCG_SVM, emulator=emulator),
        [*(part.path for part in parts), outer / "job.cpio"],
        (),
        outer,
        SILENT_S,
    )
    left = engine.Runner().run(boot, lambda line: None)
    assert left.lost is None
    assert b'"done"' in left.files[OUTCOME]
    run = runfile.decode(left.files[RUN], RUN)
    toggle = next(case for case in run.cases if case.op == "cr0_wp")
    assert toggle.incorrect is None
    assert len(toggle.samples) == 6
    assert run.host.hypervisor == "KVMKVMKVM"
