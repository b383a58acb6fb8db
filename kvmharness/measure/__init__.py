"""Measure cases on the kernel that runs: times, counts, and the record of the host."""
