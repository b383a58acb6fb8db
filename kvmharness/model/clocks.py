"""What a sample's length is made of: the one table of clocks, with what follows from each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

# The guest's TSC, read as real time; its bare ticks, where KVM does not tell their frequency; or
# the instructions that an emulated machine executed.  Figures of different clocks are never
# compared.
Clock = Literal["tsc", "ticks", "insn"]


@dataclass(frozen=True)
class Defaults:
    """How to measure where nobody says; None where the next one to ask knows better.

    `samples` are of all VMs together, `samples_per_doorbell` those between two stops of the guest.
    """

    vms: int | None = None
    samples: int | None = None
    target_ms: float | None = None
    iterations: int | None = None
    samples_per_doorbell: int | None = None


# Samples that mostly fit between two ticks of the kernel's timer, of 1 ms or 4 ms.
USUAL = Defaults(vms=10, samples=100, target_ms=0.7)
# A first look.
QUICK = Defaults(vms=5, samples=30, target_ms=0.7)


@dataclass(frozen=True)
class ClockKind:
    """A clock: the unit of a cost, and what a comparison of costs by it allows for.

    `threshold` is the least change that matters, as a share of 1.  `boot_allowance` is by how
    much two boots of one kernel may differ where a side has a single one and cannot tell, with
    the TDP MMU `boot_allowance_tdp`; `lab` is how a lab measures by this clock, and `boots` how
    often it boots what is compared.
    """

    unit: str
    threshold: float
    boot_allowance: float
    boot_allowance_tdp: float
    lab: Defaults
    boots: int


CLOCKS: Mapping[Clock, ClockKind] = {
    "tsc": ClockKind("ns", 0.02, 0.003, 0.003, Defaults(5, 50, 0.7, None, 1), 1),
    "ticks": ClockKind("ticks", 0.02, 0.003, 0.003, Defaults(5, 50, 0.7, None, 1), 1),
    # The legacy and the shadow MMU vary more from boot to boot than the TDP MMU does.  Few ops a
    # sample, so that most samples hold no tick of the booted kernel's timer, and the median is
    # the op's own cost.  A lab's one CPU lets nobody work while the guest runs: it stops after
    # each sample, or the next one would carry what this one left.
    "insn": ClockKind("insn", 0.001, 0.01, 0.002, Defaults(5, 25, None, 100, 1), 3),
}
UNITS: Mapping[Clock, str] = {clock: kind.unit for clock, kind in CLOCKS.items()}

# In a lab: the interval wanted, in %, and the limit of a measurement, in seconds of its clock.
LAB_PRECISION, LAB_TIMEOUT_S = 5.0, 10.0
