"""What came between the samples of a thread: context switches, migrations, stolen time."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from kvmharness.model.run import Disturbance


def _migrations() -> int | None:
    try:
        text = Path("/proc/thread-self/sched").read_text()
    except OSError:  # a kernel without CONFIG_SCHED_DEBUG
        return None
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "se.nr_migrations":
            return int(value)
    return None


def _steal_ms(cpu: int | None) -> float | None:
    """Milliseconds that the hypervisor under us took from `cpu` (None: from any CPU)."""
    name = "cpu" if cpu is None else f"cpu{cpu}"
    try:
        text = Path("/proc/stat").read_text()
    except OSError:
        return None
    for line in text.splitlines():
        fields = line.split()
        if fields[0] == name and len(fields) > 8:
            return int(fields[8]) * 1000 / os.sysconf("SC_CLK_TCK")
    return None


def so_far(cpu: int | None) -> Disturbance:
    """Return what disturbed this thread since it began, and `cpu` since the kernel booted."""
    switches = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
    return Disturbance(switches, _migrations(), _steal_ms(cpu))


def between(before: Disturbance, after: Disturbance) -> Disturbance:
    """Return what came between two so_far()."""
    migrations, steal_ms = None, None
    if before.migrations is not None and after.migrations is not None:
        migrations = after.migrations - before.migrations
    if before.steal_ms is not None and after.steal_ms is not None:
        steal_ms = after.steal_ms - before.steal_ms
    switches = after.involuntary_switches - before.involuntary_switches
    return Disturbance(switches, migrations, steal_ms)


def total(one: Disturbance, other: Disturbance) -> Disturbance:
    """Add two up; what this kernel does not say of one of them stays unknown."""
    return Disturbance(
        one.involuntary_switches + other.involuntary_switches,
        None if other.migrations is None else (one.migrations or 0) + other.migrations,
        None if other.steal_ms is None else (one.steal_ms or 0) + other.steal_ms,
        max(one.other_runs, other.other_runs),
        one.same_cpu or other.same_cpu,
    )
