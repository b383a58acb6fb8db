"""The kinds of machine that a kernel is booted in."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from kvmharness.errors import Unavailable, UsageError
from kvmharness.kernel import resolve
from kvmharness.measure import host
from kvmharness.model.clocks import Clock

QEMU = "qemu-system-x86_64"
# SMEP, SMAP and PKU must be asked for, or KVM inside cannot offer them to its guests.
SVM_CPU = "EPYC,+svm,+npt,+smep,+smap,+pku"


@dataclass(frozen=True)
class MachineKind:
    """How QEMU runs: its CPU, the vendor module that suits it, and the clock inside.

    `options` go to QEMU, `virtme` to virtme-ng.
    """

    name: str
    cpu: str
    vendor: str
    clock: Clock
    options: tuple[str, ...]
    virtme: tuple[str, ...] = ()


# An instruction is a nanosecond: the same kernel gives the same figure, however busy this
# machine is.  A CPU that idles waits in real time (sleep=on), or every time limit inside would
# pass at once while it waits for a file.
TCG_SVM = MachineKind(
    "tcg-svm", SVM_CPU, "kvm_amd", "insn", ("-icount", "shift=0,sleep=on"), ("--disable-kvm",)
)


def _nested_vendor(root: Path = host.SYS) -> str | None:
    """Return the vendor module here that lets its guests have a KVM of their own."""
    for vendor in ("kvm_intel", "kvm_amd"):
        nested = host.read_text(root / "module" / vendor / "parameters" / "nested")
        if nested in ("Y", "1"):
            return vendor
    return None


def _accelerated() -> MachineKind | str:
    """Return the accelerated kind, or why it cannot be had here."""
    vendor = _nested_vendor()
    if vendor is None:
        return "no kvm_intel or kvm_amd here with nested=1"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "/dev/kvm is not open to this user"
    return MachineKind("kvm", "host", vendor, "tsc", ())


def choose(name: str | None) -> MachineKind:
    """Return the kind asked for, or the best that works here.  Raises Unavailable."""
    accelerated = _accelerated()
    if name == "kvm" and isinstance(accelerated, str):
        raise Unavailable(f"--machine kvm: {accelerated}; use --machine tcg-svm")
    if name == "tcg-svm" or isinstance(accelerated, str):
        return TCG_SVM
    return accelerated


@functools.cache
def qemu_version() -> str:
    """Return QEMU's version line.  Raises UsageError where it is not installed."""
    try:
        done = subprocess.run([QEMU, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        raise UsageError(f"lab: no {QEMU}; apt-get install qemu-system-x86") from None
    return done.stdout.partition("\n")[0].removeprefix("QEMU emulator version ")


def _busybox_will_do() -> bool:
    """Tell whether busybox is the static one, which has the applets that a root needs."""
    done = subprocess.run(["busybox", "--list"], capture_output=True, text=True, check=False)
    return {"insmod", "su"} <= set(done.stdout.split())


def check_tools() -> None:
    """Raise UsageError, naming Debian's packages, where a tool of the lab's is missing."""
    path = resolve.search_path()
    needed = {
        QEMU: "qemu-system-x86",
        "busybox": "busybox-static",
        "depmod": "kmod",
        "setpriv": "util-linux",
        "strings": "binutils",
        "file": "file",
    }
    missing = [package for tool, package in needed.items() if not shutil.which(tool, path=path)]
    if "busybox-static" not in missing and not _busybox_will_do():
        missing.append("busybox-static")
    if missing:
        raise UsageError(
            f"lab: tools are missing; apt-get install --no-install-recommends {' '.join(missing)}"
        )
