"""Run the command line again and again in one process, with another ioctl failing each time.

Started with failing_ioctl.c preloaded; prints a line of JSON for each failure that was asked for.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import json
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from click.testing import CliRunner

from kvmharness import cli
from kvmharness.kvm.raw import REQUESTS

SOURCE = Path(__file__).with_suffix(".c")
ERRORS = ("EINTR", "EAGAIN", "ENOMEM", "EBUSY", "EINVAL", "EIO")
NAMES = {number: name for name, number in REQUESTS.items()}
# One op a sample, so that nothing is waited for.
FEW = ["--vms", "1", "--samples", "2", "--iterations", "1", "--precision", "100", "--json"]


def places(shim: ctypes.CDLL, command: list[str]) -> list[str]:
    """Return the names of the ioctls of a run in which none fails."""
    shim.fail_next(-1, 0)
    CliRunner().invoke(cli.main, command)
    seen = ctypes.c_long.in_dll(shim, "fail_seen").value
    requests = (ctypes.c_ulong * seen).in_dll(shim, "fail_requests")
    return [NAMES[request] for request in requests]


def measured_by(names: list[str]) -> int:
    """Return the place from which on ioctls are not the case's any more: of its last VM."""
    return max(at for at, name in enumerate(names) if name == "KVM_CREATE_VM")


def chosen(names: list[str], share: float) -> Iterator[tuple[int, str]]:
    """Choose a share of all errors at all places; with 0 two at the first place of each ioctl."""
    if share:
        everything = [(at, error) for at in range(len(names)) for error in ERRORS]
        yield from random.Random(16).sample(everything, round(share * len(everything)))
        return
    others = itertools.cycle(ERRORS[1:])
    for at, name in enumerate(names):
        if name not in names[:at]:
            yield from ((at, "EINTR"), (at, next(others)))


def main() -> None:
    """Fail as the arguments say: what share of all places and errors, then the cases."""
    share, *cases = sys.argv[1:]
    shim = ctypes.CDLL(os.environ["LD_PRELOAD"])
    command = ["run", *cases, *FEW]
    names = places(shim, command)
    measured = measured_by(names)
    for at, error in chosen(names, float(share)):
        shim.fail_next(at, getattr(errno, error))
        done = CliRunner().invoke(cli.main, command)
        told = {"code": done.exit_code, "out": done.stdout, "said": done.stderr}
        row = {"at": at, "measured": measured, "ioctl": names[at], "error": error}
        print(json.dumps(row | told), flush=True)


if __name__ == "__main__":
    main()
