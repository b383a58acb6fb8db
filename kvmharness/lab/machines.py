"""The table of lab machines, and which of them works here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from kvmharness import child
from kvmharness.errors import Unavailable, UsageError
from kvmharness.kernel import resolve
from kvmharness.lab import bochs, qemu
from kvmharness.lab.boot import LabMachine, Monitor
from kvmharness.measure import host

# SMEP, SMAP and PKU must be asked for, or KVM inside cannot offer them to its guests, and so must
# the constant TSC that a real-time kernel's KVM wants.
SVM_CPU = "EPYC,+svm,+npt,+smep,+smap,+pku,+invtsc"
# QEMU's SVM (7.2) intercepts no XSETBV: KVM never hears of XCR0, and tells a size of XSAVE's area
# that a 5.10 inside takes at its word.  So the inner kernel goes without.
TCG_SVM = LabMachine("tcg-svm", qemu.TCG, SVM_CPU, "kvm_amd", "insn", Monitor(extra=("noxsave",)))
# Of Bochs' CPUs with EPT the newest one whose XSAVE has the size that Linux computes.
BOCHS_VMX = LabMachine(
    "bochs-vmx", bochs.BOCHS, "broadwell_ult", "kvm_intel", "insn", Monitor(memory_mib=256)
)
# By name: those that need nothing of this machine's CPU.
EMULATED = {machine.name: machine for machine in (TCG_SVM, BOCHS_VMX)}
ACCELERATED = "kvm"
NO_NESTING = "no kvm_intel or kvm_amd here with nested=1"
# Tools of the capsule's, and the Debian packages that have them.
TOOLS = {
    "busybox": "busybox-static",
    "depmod": "kmod",
    "ldd": "libc-bin",
    "setpriv": "util-linux",
    "strip": "binutils",
}


def nested_vendor(root: Path = host.SYS) -> str | None:
    """Return the vendor module here that lets its guests have a KVM of their own."""
    for vendor in ("kvm_intel", "kvm_amd"):
        nested = host.read_text(root / "module" / vendor / "parameters" / "nested")
        if nested in ("Y", "1"):
            return vendor
    return None


def _accelerated() -> LabMachine | str:
    """Return the accelerated machine, or why it cannot be had here."""
    vendor = nested_vendor()
    if vendor is None:
        return NO_NESTING
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "/dev/kvm is not open to this user"
    return LabMachine(ACCELERATED, qemu.KVM, "host", vendor, "tsc")


def names() -> list[str]:
    """Return the names that choose() knows."""
    return [ACCELERATED, *EMULATED]


def choose(name: str | None) -> LabMachine:
    """Return the machine asked for, or the best that works here.

    Raises Unavailable where it cannot be had here, UsageError for an unknown name.
    """
    if name is not None and name not in names():
        raise UsageError(f"--machine {name}: unknown; there are: {', '.join(names())}")
    if name in EMULATED:
        return EMULATED[name]
    accelerated = _accelerated()
    if not isinstance(accelerated, str):
        return accelerated
    if name == ACCELERATED:
        raise Unavailable(f"--machine kvm: {accelerated}; use --machine {TCG_SVM.name}")
    return TCG_SVM


def choose_all(text: str | None) -> list[LabMachine]:
    """Return the machines that `NAME[,NAME]...` asks for, the best one here for None."""
    chosen = [choose(name) for name in text.split(",")] if text else [choose(None)]
    return list(dict.fromkeys(chosen))


def _busybox_will_do() -> bool:
    """Tell whether busybox is the static one, which has the applets that init needs."""
    done = child.run(["busybox", "--list"])
    return "insmod" in done.stdout.split()


def install(packages: Sequence[str]) -> str:
    """Return the command that installs Debian's packages."""
    return f"apt-get install --no-install-recommends {' '.join(packages)}"


def missing(machines: Sequence[LabMachine]) -> list[str]:
    """Return Debian's packages of the tools that the machines need and that are not here."""
    path = resolve.search_path()
    lacking = [package for tool, package in TOOLS.items() if not shutil.which(tool, path=path)]
    if "busybox-static" not in lacking and not _busybox_will_do():
        lacking.append("busybox-static")
    for machine in machines:
        lacking += machine.emulator.missing()
    return list(dict.fromkeys(lacking))


def check_tools(machines: Sequence[LabMachine]) -> None:
    """Raise UsageError, naming Debian's packages, where a tool of the lab's is missing."""
    lacking = missing(machines)
    if lacking:
        raise UsageError(f"lab: tools are missing; {install(lacking)}")
