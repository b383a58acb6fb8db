"""How a trace names the VMs whose samples it holds."""

from __future__ import annotations

VM_BITS = 16
# Of samples of a single op, which are held against those of many.
SINGLE = 1 << 31


def label(case: int, vm: int) -> int:
    """Return the label of a VM's samples; `case` is the case's place in the run."""
    return case << VM_BITS | vm


def case_and_vm(label: int) -> tuple[int, int]:
    """Return the case's place in the run and the VM's number."""
    return (label & ~SINGLE) >> VM_BITS, label & (1 << VM_BITS) - 1


def is_single(label: int) -> bool:
    """Tell whether a label is that of samples of a single op."""
    return bool(label & SINGLE)
