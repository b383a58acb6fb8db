"""From options to what is to be measured, and how."""

from __future__ import annotations

import math
import os
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from kvmharness import errors

if TYPE_CHECKING:
    from kvmharness.model.cases import Case
    from kvmharness.model.run import Run, Settings
    from kvmharness.model.suites import Defaults, Suite


def settings(
    vms: int | None,
    samples: int | None,
    iterations: int | None,
    pin: int | None,
    quick: bool,
    precision: float,
    timeout: float,
    suite: Defaults | None,
) -> Settings:
    """Settle how to measure: an option given, else --quick, else the suite, else as usual."""
    from kvmharness.guest.vm import MAX_SAMPLES
    from kvmharness.model.run import Settings
    from kvmharness.model.suites import Defaults

    usual = Defaults(5, 30, 1.0) if quick else suite or Defaults()
    chosen_vms = vms or usual.vms or 10
    chosen_samples = samples or usual.samples or 100
    per_vm = -(-chosen_samples // chosen_vms)
    if per_vm > MAX_SAMPLES:
        raise errors.UsageError(
            f"--samples {chosen_samples}: a VM holds {MAX_SAMPLES} samples; "
            f"use --vms {-(-chosen_samples // MAX_SAMPLES)} or more"
        )
    target_ms = usual.target_ms or 3.0
    if iterations is None and usual.iterations is None and target_ms * per_vm * 2 > timeout * 1e3:
        raise errors.UsageError(
            f"--timeout {timeout:g}: {per_vm} samples of {target_ms:g} ms may take longer; "
            f"use --timeout {math.ceil(target_ms * per_vm * 2 / 1e3)} or more"
        )
    cpu = max(os.sched_getaffinity(0)) if pin is None else pin
    return Settings(
        vms=chosen_vms,
        samples_per_vm=per_vm,
        target_ms=target_ms,
        iterations=iterations or usual.iterations,
        cpu=None if cpu < 0 else cpu,
        precision=precision / 100,
        timeout_s=timeout,
    )


def within(suite: Suite, patterns: tuple[str, ...]) -> list[Case]:
    """Return the suite's cases, those that a pattern names where there are patterns."""
    for pattern in patterns:
        if not any(fnmatchcase(case.name, pattern) for case in suite.cases):
            raise errors.UsageError(
                f"case {pattern!r}: matches nothing in suite {suite.name}; add --list to see it"
            )
    return [
        case
        for case in suite.cases
        if not patterns or any(fnmatchcase(case.name, p) for p in patterns)
    ]


def verdict(record: Run) -> int:
    """Return the exit code that a run deserves."""
    if any(case.incorrect for case in record.cases):
        return errors.EXIT_REGRESSION
    if any(case.failed for case in record.cases):
        return errors.EXIT_LOST
    if not any(case.samples for case in record.cases):
        return errors.EXIT_NOTHING_RAN
    if any(case.noisy for case in record.cases):
        return errors.EXIT_UNCLEAR
    return errors.EXIT_OK


def worst(codes: list[int]) -> int:
    """Return the exit code for several runs: what is worst of what any of them says."""
    order = (
        errors.EXIT_REGRESSION,
        errors.EXIT_LOST,
        errors.EXIT_UNCLEAR,
        errors.EXIT_OK,
        errors.EXIT_NOTHING_RAN,
    )
    return min(codes, key=order.index)
