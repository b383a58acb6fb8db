"""Measure what a guest's MMU-role changes cost under Linux KVM."""

try:
    from kvmharness._version import __version__
except ImportError:  # nothing has been built here yet
    __version__ = "unknown"

__all__ = ["__version__"]
