"""Measure what a guest's MMU-role changes cost under Linux KVM."""

__version__ = "0.1.0"
