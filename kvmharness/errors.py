"""The exceptions a user may meet: each one line, `operation: cause; next step`."""

from __future__ import annotations

import errno as errno_names
import os
from pathlib import Path

EXIT_OK = 0
EXIT_REGRESSION = 1
EXIT_USAGE = 2
EXIT_UNCLEAR = 3
EXIT_LOST = 4
EXIT_BUG = 70  # EX_SOFTWARE of <sysexits.h>
EXIT_NOTHING_RAN = 77
# What `git bisect run` understands: skip this commit; anything from 128 on ends the bisection.
EXIT_BISECT_SKIP = 125
EXIT_BISECT_ABORT = 128
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells say it


class HarnessError(Exception):
    """Base of all; `exit_code` is what the command line ends with."""

    exit_code = EXIT_UNCLEAR


class UsageError(HarnessError):
    """What was asked for cannot be understood, found, read or written."""

    exit_code = EXIT_USAGE


class StdoutLost(UsageError):
    """What stdout leads to takes no more; `errno` says why."""

    def __init__(self, errno: int) -> None:
        super().__init__(f"stdout: {os.strerror(errno)}; send it elsewhere")
        self.errno = errno


class BuildFailed(UsageError):
    """A kernel's source does not build here; `log` is the file of what make said, if it began."""

    def __init__(self, what: str, log: Path | None = None) -> None:
        super().__init__(what)
        self.log = log


class Unavailable(HarnessError):
    """Nothing can be measured on this machine as it stands."""

    exit_code = EXIT_NOTHING_RAN


class KvmError(HarnessError):
    """An ioctl failed.

    `ioctl` is the request's name in the KVM API, `errno` the positive error number.
    """

    exit_code = EXIT_LOST

    def __init__(self, ioctl: str, errno: int, next_step: str = "") -> None:
        name = errno_names.errorcode.get(errno, str(errno))
        message = f"{ioctl}: {name}: {os.strerror(errno)}"
        super().__init__(f"{message}; {next_step}" if next_step else message)
        self.ioctl = ioctl
        self.errno = errno


class GuestError(HarnessError):
    """A guest did not do what its protocol says.

    `rip` is where it stood (None where KVM would not tell), `symbol` that place in the guest's
    source where it is in there, e.g. `op_cr0_wp+0x12`; `reason` is what was seen.
    """

    exit_code = EXIT_LOST

    def __init__(self, reason: str, rip: int | None, symbol: str | None = None) -> None:
        where = "unknown" if rip is None else f"{rip:#x}"
        inside = f" ({symbol})" if symbol else ""
        super().__init__(f"guest: {reason}; rip {where}{inside}")
        self.reason = reason
        self.rip = rip


class LabLost(HarnessError):
    """A kernel under test died, hung, or has no KVM to measure: the lab failed, not a case.

    `console` is the tail of what the kernel said.
    """

    exit_code = EXIT_LOST

    def __init__(self, what: str, console: str = "") -> None:
        super().__init__(what)
        self.console = console


class LabBug(LabLost):
    """The harness failed inside a lab, in a way that nobody foresaw."""

    exit_code = EXIT_BUG


class Unaccounted(HarnessError):
    """The functions of a sample do not add up to its figure: a defect, and nothing to show."""


class Infeasible(HarnessError):
    """This one case cannot be measured here, as only its guest could show."""

    exit_code = EXIT_NOTHING_RAN


class KvmIncorrect(HarnessError):
    """KVM did what the architecture forbids: a correctness failure, never a figure.

    `case` says mode and op, `iteration` how many ops had run, `error_code` is the page
    fault's (0 where there was none).
    """

    exit_code = EXIT_REGRESSION

    def __init__(self, case: str, iteration: int, error_code: int, wrong: str) -> None:
        super().__init__(
            f"KVM is incorrect: {case}: {wrong} (iteration {iteration}, error code "
            f"{error_code:#x}); report it with the run file"
        )
        self.case = case
        self.iteration = iteration
        self.error_code = error_code


class GuestTimeout(GuestError):
    """The watchdog ended a guest that rang no doorbell in time."""


class KernelPanic(GuestError):
    """A Linux kernel that is a guest said that it cannot go on."""
