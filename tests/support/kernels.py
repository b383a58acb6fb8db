"""Which of Debian's kernels the lab's tests boot, and why they cannot where they cannot."""

from __future__ import annotations

import functools
import os
import re

import pytest

from kvmharness.errors import UsageError
from kvmharness.kernel import debian, resolve
from kvmharness.lab import machines

# The last of the series with one mmu_role, and the first one packaged with the split and the cure.
UNCURED, CURED = "5.10", "6.1"
REQUIRE = "KVMHARNESS_REQUIRE_LAB"


@functools.cache
def newest(series: str) -> str:
    """Return the newest kernel package of a series: of those fetched, else of those on offer."""
    prefix = f"linux-image-{series}."
    found = [name for name in debian.fetched() if name.startswith(prefix) and debian.is_plain(name)]
    found = found or [o.name for o in debian.offers() if o.name.startswith(prefix)]
    if not found:
        raise UsageError(f"kernel {series}: apt's mirror offers none; try kernels list")
    return max(found, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])


@functools.cache
def why_no_lab(*needed: str) -> str | None:
    """Return why no lab can be booted here, None if it can; fetch the kernels on the way."""
    try:
        machines.check_tools([machines.TCG_SVM])
        for series in needed:
            resolve.resolve(newest(series))
    except UsageError as error:
        return str(error)
    return None


def need_lab(*needed: str) -> None:
    """Skip the test that calls it where no lab can be booted, or fail if it must be."""
    reason = why_no_lab(*(needed or (UNCURED, CURED)))
    if reason is None:
        return
    if os.environ.get(REQUIRE) == "1":
        pytest.fail(f"{REQUIRE}=1 but {reason}")
    pytest.skip(reason)
