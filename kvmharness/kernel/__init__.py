"""Kernels that are not running: found, fetched, read, and asked to run in a variant."""
