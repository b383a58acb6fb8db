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

SETUP, JOB = "setup.json", "job.json"
OUTCOME, RUN, SYMBOLS = "outcome.json", "run.json", "kallsyms"
# What came from a kernel inside is sent on under its name with this before it, its console too;
# and the record of the machine that it ran in.
INNER, CONSOLE, HOST = "inner-", "console", "host.json"


class Setup(msgspec.Struct, frozen=True):
    """What is done before anything is measured: load `modules` in this order, check that KVM runs
    as `wanted`.

    `boot` is the boot's number; `proves`: the W^X proof is of this kernel's KVM.  With `stops` the
    machine stops then, and is told its job by who goes on with it; else the job lies beside this.
    With `posts` results leave by the mailbox (counters.mailbox): this kernel runs in our monitor.
    """

    modules: list[Module]
    wanted: dict[str, dict[str, str]]
    boot: int = 1
    stops: int = 0
    proves: int = 1
    posts: int = 0


class Job(msgspec.Struct, frozen=True):
    """What to measure inside.

    `roles` is what the kernel's files told of its MMU-role code; `symbols` asks for the names of
    its functions too, `count` for the counting passes.  They are numbers of one length: what a job
    of another length leaves free in memory moves a figure by an instruction.  With `inner` another
    kernel is booted in this one, and measured instead; `below`: this kernel is that one.
    """

    roles: Roles
    cases: list[Case]
    settings: Settings
    clock: Clock
    suite: str | None
    symbols: int = 0
    count: int = 1
    inner: Inner | None = None
    below: bool = False


class Inner(msgspec.Struct, frozen=True):
    """A kernel to boot inside, from the job's files; `silent_s` bounds its silence."""

    linux: Linux
    silent_s: float


class JobOutcome(msgspec.Struct, frozen=True):
    """How it ended inside; `reason` says why it was skipped or lost, or which bug ended it.

    `trace` is where the bug was; `steps` how long this kernel had worked when each step was done,
    in ns of its clock.
    """

    state: Literal["done", "skipped", "lost", "bug"]
    reason: str | None = None
    trace: str = ""
    steps: dict[str, int] = {}
