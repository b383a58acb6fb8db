"""From what a user asked for to how it is measured."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import msgspec

from kvmharness.errors import UsageError
from kvmharness.guest.vm import MAX_SAMPLES
from kvmharness.model.clocks import (
    CLOCKS,
    LAB_PRECISION,
    LAB_TIMEOUT_S,
    USUAL,
    Clock,
    Defaults,
)
from kvmharness.model.run import Settings

# The value of `cpu` that leaves the thread alone.
ANY_CPU = -1


@dataclass(frozen=True)
class Wanted:
    """What somebody asked for; None where the defaults say.

    `samples` are of all VMs together; `cpu` None is the last one allowed; `precision` in %,
    `timeout_s` in seconds; `priority` None leaves the threads' as it is.
    """

    vms: int | None = None
    samples: int | None = None
    iterations: int | None = None
    cpu: int | None = None
    precision: float = 5.0
    timeout_s: float = 10.0
    priority: int | None = None


def settle(wanted: Wanted, defaults: Defaults) -> Settings:
    """Settle how to measure: what was asked for, else the defaults, else as usual.

    Raises UsageError where a VM cannot hold the samples, or the time limit would end them.
    """
    vms = wanted.vms or defaults.vms or USUAL.vms or 1
    samples = wanted.samples or defaults.samples or USUAL.samples or 1
    target_ms = defaults.target_ms or USUAL.target_ms or 1.0
    iterations = wanted.iterations or defaults.iterations
    per_vm = -(-samples // vms)
    if per_vm > MAX_SAMPLES:
        raise UsageError(
            f"--samples {samples}: a VM holds {MAX_SAMPLES} samples; "
            f"use --vms {-(-samples // MAX_SAMPLES)} or more"
        )
    longest_s = target_ms * per_vm * 2 / 1e3
    if iterations is None and longest_s > wanted.timeout_s:
        raise UsageError(
            f"--timeout {wanted.timeout_s:g}: {per_vm} samples of {target_ms:g} ms may take "
            f"longer; use --timeout {math.ceil(longest_s)} or more"
        )
    cpu = max(os.sched_getaffinity(0)) if wanted.cpu is None else wanted.cpu
    return Settings(
        vms=vms,
        samples_per_vm=per_vm,
        target_ms=target_ms,
        iterations=iterations,
        cpu=None if cpu == ANY_CPU else cpu,
        precision=wanted.precision / 100,
        timeout_s=wanted.timeout_s,
        priority=wanted.priority,
        samples_per_doorbell=defaults.samples_per_doorbell,
    )


def for_lab(
    clock: Clock,
    vms: int | None = None,
    samples: int | None = None,
    iterations: int | None = None,
    precision: float = LAB_PRECISION,
    timeout_s: float = LAB_TIMEOUT_S,
) -> Settings:
    """Settle how to measure inside a lab: by the instruction counter nothing is calibrated.

    `precision` is in %, `timeout_s` in seconds of the booted kernel's clock.
    """
    wanted = Wanted(vms, samples, iterations, 0, precision, timeout_s)
    settled = settle(wanted, CLOCKS[clock].lab)
    # The kernel under test is ours alone.
    return msgspec.structs.replace(settled, force_emulation=True)
