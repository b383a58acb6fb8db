"""Whether samples climb within a VM, as they do where something is left behind; pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kvmharness.analysis.stats import Floats, by_vm
from kvmharness.model.run import CaseResult

# A VM with fewer samples may climb by chance; a climb by a smaller share does not matter.
FEWEST = 4
SHARE = 0.01
# The share of steps that must go up: not all, as a sample may hold a tick.
MOSTLY = 0.75


class Climb(NamedTuple):
    """What a VM's first and last samples cost per op, the median over the VMs."""

    first: float
    last: float


def _climbs(vm: Floats) -> bool:
    return bool(
        len(vm) >= FEWEST and vm[-1] > vm[0] * (1 + SHARE) and (np.diff(vm) > 0).mean() >= MOSTLY
    )


def climb(results: Sequence[CaseResult]) -> Climb | None:
    """Return how several runs' samples of one case climb; None unless they do in every VM."""
    vms = [vm for r in results if r.samples for vm in by_vm(r.samples, r.vms)]
    if not vms or not all(map(_climbs, vms)):
        return None
    first, last = (float(np.median([vm[at] for vm in vms])) for at in (0, -1))
    return Climb(first, last)
