"""Whether KVM shadows its guests' page tables here, for want of two-dimensional paging."""

from __future__ import annotations

from pathlib import Path

MODULES = Path("/sys/module")
# Two-dimensional paging by the vendor module that has it.
PARAMETERS = (("kvm_amd", "npt"), ("kvm_intel", "ept"))
ON = frozenset({"1", "Y"})


def in_use(modules: Path = MODULES) -> bool:
    """Tell whether KVM shadows page tables: unless a vendor module says that it need not."""
    for module, name in PARAMETERS:
        try:
            if (modules / module / "parameters" / name).read_text().strip() in ON:
                return False
        except OSError:  # another vendor's module
            continue
    return True
