"""Measure what a guest's MMU-role changes cost under Linux KVM.

`from kvmharness import measure_cases, read, compare` and the other names of kvmharness.api work:
they are loaded when they are asked for, since the command line and what runs inside of a lab must
stay light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    from kvmharness._version import __version__ as __version__
except ImportError:  # nothing has been built here yet
    __version__ = "unknown"

if TYPE_CHECKING:
    from kvmharness.api import *  # noqa: F403 - the names below, for whoever checks types


# Asked for anything else, e.g. a module below, Python looks elsewhere.
_API = frozenset(
    "Case CaseComparison CaseResult Comparison GuestVm HarnessError Run Step System Vcpu Vm "
    "compare measure_cases read select sentence write".split()
)


def __getattr__(name: str) -> Any:
    if name not in _API:
        raise AttributeError(f"module 'kvmharness' has no attribute {name!r}")
    import importlib  # noqa: PLC0415 - nothing else here needs it

    return getattr(importlib.import_module("kvmharness.api"), name)
