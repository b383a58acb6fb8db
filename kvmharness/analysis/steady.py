"""Which samples carry a figure: those that nobody preempted; pure."""

from __future__ import annotations

from kvmharness.analysis.stats import Floats, by_vm
from kvmharness.model.run import CaseResult

# A figure over fewer VMs than this has no interval.
FEWEST_VMS = 2


def _undisturbed(result: CaseResult) -> list[int]:
    """Return the indices of the samples that were not preempted: all where nobody noted it."""
    noted = len(result.preempted) == len(result.samples)
    return [n for n in range(len(result.samples)) if not (noted and result.preempted[n])]


def chosen(result: CaseResult) -> tuple[list[float], list[int]]:
    """Return the samples that carry the case's figure, and the VM of each.

    All samples carry it where too few VMs have undisturbed ones; mostly_disturbed() says so then.
    """
    kept = _undisturbed(result)
    vms = [result.vms[n] for n in kept]
    if len(set(vms)) < min(FEWEST_VMS, len(set(result.vms))):
        return result.samples, result.vms
    return [result.samples[n] for n in kept], vms


def groups(result: CaseResult) -> list[Floats]:
    """Return the samples that carry the case's figure, grouped by VM."""
    return by_vm(*chosen(result))


def mostly_disturbed(result: CaseResult) -> str | None:
    """Say that most samples were preempted, None where they were not.

    The others were then measured in the gaps of what the machine had to do.
    """
    lost = len(result.samples) - len(_undisturbed(result))
    if lost * 2 <= len(result.samples):
        return None
    return f"{lost} of {len(result.samples)} samples were preempted"
