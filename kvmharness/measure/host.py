"""The host record: everything about this machine that could explain a figure."""

from __future__ import annotations

import os
import platform
import struct
from pathlib import Path

from kvmharness.kernel import roles
from kvmharness.kvm import raw
from kvmharness.kvm.fds import System
from kvmharness.model.host import Cpu, Host, KernelRecord, Kvm, Roles

SYS = Path("/sys")
PROC = Path("/proc")
VENDOR_MODULES = {
    "GenuineIntel": "kvm_intel",
    "AuthenticAMD": "kvm_amd",
    "HygonGenuine": "kvm_amd",
}
CLOCKSOURCE = Path("devices/system/clocksource/clocksource0")
# No kernel takes these that trusts its TSC.
SLOW_CLOCKSOURCES = frozenset({"acpi_pm", "hpet", "jiffies", "pit", "refined-jiffies"})
HYPERVISOR_BIT = 1 << 31  # CPUID leaf 1, ecx: set by hypervisors only (Intel SDM, AMD APM)
HYPERVISOR_LEAF = 0x40000000


def read_text(path: Path) -> str | None:
    """Return a file's stripped text, None where it is not there or not readable."""
    try:
        return path.read_text(errors="replace").strip().strip("\0")
    except OSError:
        return None


def read_folder(folder: Path) -> dict[str, str]:
    """Return name to text of the readable files of a folder, {} where there is none."""
    if not folder.is_dir():
        return {}
    texts = {path.name: read_text(path) for path in sorted(folder.iterdir())}
    return {name: text for name, text in texts.items() if text is not None}


def vendor_module(root: Path = SYS) -> str | None:
    """Return the name of KVM's vendor module, e.g. kvm_amd, built in or loaded.

    A kernel may have both vendors' built in: then the one for this CPU.
    """
    names = sorted(path.name for path in (root / "module").glob("kvm_*"))
    known = [name for name in names if (root / "module" / name / "parameters").is_dir()]
    own = VENDOR_MODULES.get(parse_cpuinfo(read_text(PROC / "cpuinfo") or "").get("vendor_id", ""))
    return own if own in known else known[0] if known else None


def hypervisor() -> str | None:
    """Return the signature of the hypervisor under this kernel, None on bare metal."""
    if not raw.cpuid(1)[2] & HYPERVISOR_BIT:
        return None
    _, ebx, ecx, edx = raw.cpuid(HYPERVISOR_LEAF)
    signature = struct.pack("<III", ebx, ecx, edx).rstrip(b"\0")
    return signature.decode("ascii", errors="backslashreplace") or "unnamed"


def _kvm(system: System, found: Roles) -> Kvm:
    module = vendor_module()
    names = ["kvm", module] if module else ["kvm"]
    parameters = {name: read_folder(SYS / "module" / name / "parameters") for name in names}
    return Kvm(system.get_api_version(), module, parameters, found.role_layout, found.wp_cure)


def _turbo(cpus: Path) -> bool | None:
    no_turbo = read_text(cpus / "intel_pstate" / "no_turbo")
    if no_turbo is not None:
        return no_turbo == "0"
    boost = read_text(cpus / "cpufreq" / "boost")
    return None if boost is None else boost == "1"


def parse_cpuinfo(text: str) -> dict[str, str]:
    """Return the fields of the first CPU in /proc/cpuinfo's text."""
    first = text.split("\n\n", maxsplit=1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def kernel() -> KernelRecord:
    """Return the record of the kernel that runs."""
    name = os.uname()
    return KernelRecord(name.release, name.version, name.machine, read_text(PROC / "cmdline"))


def governor(cpu: int | None = None, root: Path = SYS) -> str | None:
    """Return what sets the frequency of `cpu` (None: of all CPUs, several where they differ)."""
    folder = root / "devices/system/cpu"
    name = "cpu[0-9]*" if cpu is None else f"cpu{cpu}"
    found = (read_text(path) for path in folder.glob(f"{name}/cpufreq/scaling_governor"))
    return ", ".join(sorted({text for text in found if text})) or None


def clocksource(root: Path = SYS) -> str | None:
    """Return what the kernel tells time by."""
    return read_text(root / CLOCKSOURCE / "current_clocksource")


def tsc_unstable(root: Path = SYS, proc: Path = PROC) -> str | None:
    """Say why the TSC does not stand for time here, None where nothing says so.

    A kernel that has found its TSC out takes it off the clocksources, or never put it there.
    """
    cpuinfo = read_text(proc / "cpuinfo")
    if cpuinfo is None:
        return f"{proc / 'cpuinfo'} cannot be read, so nobody knows whether a tick is a fixed time"
    flags = parse_cpuinfo(cpuinfo).get("flags", "").split()
    missing = [flag for flag in ("constant_tsc", "nonstop_tsc") if flag not in flags]
    if missing:
        return f"the CPU lacks {' and '.join(missing)}, so a tick is no fixed time"
    available = (read_text(root / CLOCKSOURCE / "available_clocksource") or "").split()
    current = clocksource(root)
    # Until it is known exactly the TSC is called tsc-early.
    if available and not {"tsc", "tsc-early"} & set(available):
        return f"the kernel has taken the TSC off its clocksources and tells time by {current}"
    if current in SLOW_CLOCKSOURCES:
        return f"the kernel tells time by {current}, not by the TSC"
    return None


def cpu(pinned: int | None = None) -> Cpu:
    """Return the record of the CPU as the kernel describes it.

    The governor is of the CPU that is `pinned` to, of all where none is.
    """
    info = parse_cpuinfo(read_text(PROC / "cpuinfo") or "")
    cpus = SYS / "devices/system/cpu"
    smt = read_text(cpus / "smt/active")

    def number(field: str) -> int | None:
        text = info.get(field, "")
        return int(text) if text.isdigit() else None

    return Cpu(
        vendor=info.get("vendor_id"),
        model_name=info.get("model name"),
        family=number("cpu family"),
        model=number("model"),
        stepping=number("stepping"),
        microcode=info.get("microcode"),
        online=os.cpu_count() or 1,
        smt_active=None if smt is None else smt == "1",
        governor=governor(pinned),
        turbo=_turbo(cpus),
        mitigations=read_folder(cpus / "vulnerabilities"),
    )


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def record(system: System, found: Roles | None = None, pinned: int | None = None) -> Host:
    """Return the record of the machine that `system` belongs to.

    `found` is its MMU-role code where that is known already, `pinned` the CPU that is measured
    on.
    """
    signature = hypervisor()
    with system.create_vm() as vm, vm.create_vcpu(0) as vcpu:
        tsc_khz = vcpu.get_tsc_khz()
    return Host(
        name=platform.node(),
        kernel=kernel(),
        kvm=_kvm(system, found or roles.running()),
        cpu=cpu(pinned),
        clocksource=clocksource(),
        tsc_unstable=tsc_unstable(),
        boot_id=read_text(PROC / "sys/kernel/random/boot_id"),
        tsc_khz=tsc_khz,
        memory_bytes=_memory_bytes(),
        nested=signature is not None,
        hypervisor=signature,
    )
