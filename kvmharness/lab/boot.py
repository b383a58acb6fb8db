"""What is booted, in what, and what an emulator has to offer for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kvmharness.guest.linux import OPTIONS as OPTIONS_OF_MONITOR
from kvmharness.kernel.resolve import Kernel
from kvmharness.lab import cpio
from kvmharness.model.clocks import Clock

# In a job's folder: the first serial port, the second, what the emulator itself says, and the
# archives as one file.
CONSOLE, RESULTS, SAID, INITRD = "console.log", "results", "emulator.log", "initrd"
# A panic resets the machine at once, which ends it.  The self-tests of the crypto code take a
# third of the boot, and KVM has no part in them.
OPTIONS = ("console=ttyS0,115200", "panic=-1", "cryptomgr.notests")


class Emulator(Protocol):
    """A program that a kernel is booted in: one object for each way it is run.

    `options` are the words that it needs on the kernel command line, `terminal` tells whether it
    wants to run on one, `saves` whether its machine can stop and go on elsewhere (lab.hold),
    `slowest` the seconds at most that a second of the clock inside takes while the CPU inside is
    busy, on a machine that does other things too.
    """

    @property
    def name(self) -> str: ...
    @property
    def memory_mib(self) -> int: ...
    @property
    def options(self) -> tuple[str, ...]: ...
    @property
    def terminal(self) -> bool: ...
    @property
    def saves(self) -> bool: ...
    @property
    def slowest(self) -> float: ...

    def missing(self) -> list[str]:
        """Return the Debian packages that it needs and that are not here."""

    def version(self) -> str:
        """Return its version.  Raises UsageError where it is not installed."""

    def identity(self, boot: Boot) -> object:
        """Return what moves an instruction of a machine that stops, but kernel and archives.

        It is what JSON can say, None where no machine stops, or not all of it is known.
        """

    def command(self, boot: Boot) -> list[str]:
        """Write what it reads into the boot's folder and return the command that runs it.

        The ports' bytes go, as they come, to CONSOLE and RESULTS there.  Raises OSError.
        """

    def interactive(self, boot: Boot) -> list[str]:
        """Do the same with the first port on the terminal that we run on.

        Raises OSError, UsageError where it cannot.
        """

    def ended(self, status: int, said: str) -> str | None:
        """Tell why the emulator itself failed, None where the machine went off or reset.

        `said` is what it wrote to stdout and stderr.
        """


@dataclass(frozen=True)
class Monitor:
    """The monitor of our own (guest.linux), which boots a kernel inside the booted one.

    `options` are words for every kernel, `extra` those that the machine around it needs.  Warnings
    are shown, and no more: each character is two exits.
    """

    name: str = "kvmharness"
    memory_mib: int = 384
    options: tuple[str, ...] = (*OPTIONS_OF_MONITOR, "loglevel=5")
    extra: tuple[str, ...] = ()

    def command_line(self, options: Sequence[str]) -> str:
        """Return the inner kernel's command line."""
        return " ".join([*OPTIONS, *self.options, *self.extra, *options])


@dataclass(frozen=True)
class LabMachine:
    """A machine to boot a kernel in: its emulator, CPU model, vendor module and clock.

    `inner` is the monitor that can boot another kernel inside it, None where none was tried.
    """

    name: str
    emulator: Emulator
    cpu: str
    vendor: str
    clock: Clock
    inner: Monitor | None = None


@dataclass(frozen=True)
class Stop:
    """Open files for a machine that stops: its memory, and the socket of its monitor.

    It goes on with the `job` that lies in this file; None for one that is yet to stop.
    """

    memory: int
    monitor: int
    job: Path | None = None


@dataclass(frozen=True)
class Boot:
    """A kernel to boot in a machine, with the archives that make its first root, in this order.

    `options` follow on the kernel command line; `folder` is the job's, the emulator's to write
    into; `silent_s` bounds the time between two signs of life once the inside has begun;
    `samples` is how many each VM gives, 0 where nobody is to look into them; `stop` is for a
    machine that stops or goes on.
    Boots of another `number` differ in what real boots differ in, and are the same every time.
    """

    kernel: Kernel
    machine: LabMachine
    initrd: Sequence[Path]
    options: Sequence[str]
    folder: Path
    silent_s: float
    number: int = 1
    samples: int = 1
    stop: Stop | None = None

    def command_line(self) -> str:
        """Return the kernel command line."""
        return " ".join([*OPTIONS, *self.machine.emulator.options, *self.options])

    def joined(self) -> Path:
        """Return one file that holds the archives one after the other.  Raises OSError."""
        path = self.folder / INITRD
        if not path.exists():
            cpio.concatenate(self.initrd, path)
        return path
