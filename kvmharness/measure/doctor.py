"""What this host can measure, what it cannot, and the command that would mend it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec

from kvmharness.counters import perf, perfstat
from kvmharness.counters.functions import Probes
from kvmharness.counters.kvmstats import DEBUGFS
from kvmharness.errors import KvmError, Unavailable
from kvmharness.kvm.fds import System
from kvmharness.measure import host
from kvmharness.model.host import Finding, Host, Kvm, Roles


class Check(msgspec.Struct, frozen=True):
    """One thing looked at; `mend` is what to type where it is not as it could be."""

    name: str
    ok: bool
    seen: str
    mend: str | None = None


def _statistics(system: System) -> Check:
    if system.check_extension("BINARY_STATS_FD"):
        return Check("KVM statistics", True, "KVM_GET_STATS_FD")
    if os.access(DEBUGFS, os.R_OK | os.X_OK):
        return Check("KVM statistics", True, f"{DEBUGFS} (per VM; this kernel is before 5.14)")
    return Check(
        "KVM statistics",
        False,
        "no KVM_GET_STATS_FD (before Linux 5.14) and no debugfs",
        "mount -t debugfs none /sys/kernel/debug  # and run as root",
    )


def _clock() -> Check:
    why = host.tsc_unstable()
    if why:
        return Check("TSC", False, why, "dmesg | grep -i tsc  # says what the kernel saw")
    return Check("TSC", True, f"constant, nonstop; clocksource {host.clocksource() or 'unknown'}")


def _frequency(record: Host) -> Check:
    khz = record.tsc_khz
    if khz is None:
        return Check("TSC frequency", False, "KVM does not tell it: figures are ticks, not ns")
    return Check("TSC frequency", True, f"{khz:,} kHz")


def _governor(cpu: int) -> Check:
    governor = host.governor(cpu)
    if governor in (None, "performance"):
        return Check("frequency governor", True, governor or "none: the frequency is not ours")
    return Check(
        "frequency governor",
        False,
        f"{governor} on CPU {cpu}, which `run` takes: figures follow the frequency",
        f"kvmharness tune  # or cpupower -c {cpu} frequency-set -g performance",
    )


def _turbo(record: Host) -> Check:
    turbo = record.cpu.turbo
    if not turbo:
        return Check("turbo", True, "none seen" if turbo is None else "off")
    seen = "on: the frequency depends on heat and on what the other CPUs do"
    return Check("turbo", False, seen, "kvmharness tune")


def _questions(found: Roles | Kvm) -> dict[str, Finding]:
    return {"role layout": found.role_layout, "CR0.WP cure": found.wp_cure}


def describe(found: Roles) -> list[str]:
    """Return a line for each of the two questions, with what the answer rests on."""
    return [f"{question}: {_answer(finding)}" for question, finding in _questions(found).items()]


def _answer(finding: Finding) -> str:
    return finding.told("yes", "no", in_full=True)


def _roles(record: Host) -> Iterator[Check]:
    for question, finding in _questions(record.kvm).items():
        yield Check(question, finding.value is not None, _answer(finding))


def _perf() -> Iterator[Check]:
    try:
        perf.probe()
    except perf.PerfError as error:
        seen, _, mend = str(error).rpartition(": ")
        yield Check("perf", False, seen or mend, mend if seen else None)
        return
    yield Check("perf", True, "counts KVM's tracepoints")
    with Probes() as probes:
        if not probes.events:
            yield Check("KVM's functions", False, next(iter(probes.absent.values())))
            return
        stat = perfstat.tried(probes.events)
        how = "ftrace" if probes.events[0].filter else "kprobes"
        if stat.failure:
            mend = "nothing to type: a kernel with CONFIG_KPROBES lets them be counted"
            yield Check("KVM's functions", False, f"{how}: {stat.failure}", mend)
        else:
            yield Check("KVM's functions", True, f"counted by {how}")


def examine(device: str = "/dev/kvm") -> Iterator[Check]:
    """Look at everything a run needs, most needed first."""
    try:
        system = System(device)
    except Unavailable as error:
        seen, _, mend = str(error).partition("; ")
        yield Check("/dev/kvm", False, seen, mend or None)
        yield _clock()
        return
    with system:
        try:
            record = host.record(system)
        except KvmError as error:
            yield Check("/dev/kvm", False, str(error), "see the kernel's log: dmesg | tail")
            return
        yield Check("/dev/kvm", True, f"API version {record.kvm.api_version}")
        module = record.kvm.module
        yield Check(
            "vendor module",
            module is not None,
            module or "none found",
            None if module else "modprobe kvm_intel  # or kvm_amd",
        )
        yield from _roles(record)
        yield _statistics(system)
        yield from _perf()
        yield _clock()
        yield _frequency(record)
        yield _governor(max(os.sched_getaffinity(0)))
        yield _turbo(record)
        seen = f"under {record.hypervisor}: runs are labelled nested" if record.nested else "no"
        yield Check("nested", True, seen)
