"""What goes into a lab and what comes out, besides the run file: small JSON files."""

from __future__ import annotations

from typing import Literal

import msgspec

from kvmharness.guest.linux import Linux
from kvmharness.kernel.variants import Module
from kvmharness.model.cases import Case
from kvmharness.model.clocks import Clock
from kvmharness.model.host import Roles
from kvmharness.model.run import Settings

JOB, OUTCOME, RUN, SYMBOLS = "job.json", "outcome.json", "run.json", "kallsyms"
# What came from a kernel inside is sent on under its name with this before it, its console too;
# and the record of the machine that it ran in.
INNER, CONSOLE, HOST = "inner-", "console", "host.json"


class Job(msgspec.Struct, frozen=True):
    """What to do inside: load `modules` in this order, check that KVM runs as `wanted`, measure.

    `roles` is what the kernel's files told of its MMU-role code; `symbols` asks for the names of
    its functions too, `count` for the counting passes; `boot` is the boot's number.  They are
    numbers of one length: what a job of another length leaves free in memory moves a figure by an
    instruction.  With `inner` another kernel is booted in this one, and measured instead;
    `below`: this kernel is that one.
    """

    modules: list[Module]
    wanted: dict[str, dict[str, str]]
    roles: Roles
    cases: list[Case]
    settings: Settings
    clock: Clock
    suite: str | None
    symbols: int = 0
    count: int = 1
    boot: int = 1
    inner: Inner | None = None
    below: bool = False


class Inner(msgspec.Struct, frozen=True):
    """A kernel to boot inside, from the job's files; `silent_s` bounds its silence."""

    linux: Linux
    silent_s: float


class JobOutcome(msgspec.Struct, frozen=True):
    """How it ended inside; `reason` says why it was skipped or lost, or which bug ended it.

    `trace` is where the bug was.
    """

    state: Literal["done", "skipped", "lost", "bug"]
    reason: str | None = None
    trace: str = ""
