"""QEMU as the emulator of a lab machine, by software (TCG) or accelerated (KVM)."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kvmharness import child
from kvmharness.errors import UsageError
from kvmharness.kernel import resolve
from kvmharness.lab import opcodes
from kvmharness.lab.boot import CONSOLE, RESULTS, Boot

BINARY, PACKAGE = "qemu-system-x86_64", "qemu-system-x86"
# TCG's TSC is constant, but TCG takes the claim back unless it is forced; so what it really has
# not (of EPYC, since QEMU 7.2) is taken out by hand.
FORCED = (
    "x-force-features=on,-rdseed,-sha-ni,-fxsr-opt,-misalignsse,-3dnowprefetch,-osvw,-topoext,"
    "-nrip-save,-xsavec"
)


@functools.cache
def _version() -> str:
    try:
        done = child.run([BINARY, "--version"], check=True)
    except (OSError, subprocess.CalledProcessError):
        raise UsageError(f"lab: no {BINARY}; apt-get install {PACKAGE}") from None
    return done.stdout.partition("\n")[0].removeprefix("QEMU emulator version ")


@dataclass(frozen=True)
class Qemu:
    """QEMU with the options that choose its accelerator and clock, and what every CPU gets.

    `watched` are those for a machine that somebody looks at, where they are others.
    """

    accelerator: tuple[str, ...]
    slowest: float
    cpu: str = ""
    name: str = "QEMU"
    memory_mib: int = 1024
    options: tuple[str, ...] = ()
    terminal: bool = False
    counts_opcodes: bool = False
    watched: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        """Return the Debian packages that it needs and that are not here."""
        return [] if shutil.which(BINARY) else [PACKAGE]

    def version(self) -> str:
        """Return QEMU's version.  Raises UsageError where it is not installed."""
        return _version()

    def command(self, boot: Boot) -> list[str]:
        """Return QEMU's command: one CPU, two serial ports into files, no disk, no network.

        Raises OSError.
        """
        return [
            *self._machine(boot, self.accelerator),
            *_port("console", boot.folder / CONSOLE),
            *_port("results", boot.folder / RESULTS),
            *(opcodes.options(boot.folder, boot.samples) if self.counts_opcodes else ()),
        ]

    def interactive(self, boot: Boot) -> list[str]:
        """Return the command that has the first serial port on our terminal; Ctrl-A X ends it.

        Raises OSError.
        """
        console = "stdio,id=console,mux=on,signal=off"
        return [
            *self._machine(boot, self.watched or self.accelerator),
            *("-chardev", console, "-serial", "chardev:console"),
            *("-chardev", "null,id=results", "-serial", "chardev:results"),
        ]

    def _machine(self, boot: Boot, accelerator: Sequence[str]) -> list[str]:
        return [
            BINARY,
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-M", "pc,hpet=off,usb=off", "-m", str(self.memory_mib), "-smp", "1"),
            # What the kernel makes its random numbers of: where its allocators put things.
            *("-seed", str(boot.number)),
            *("-cpu", ",".join(filter(None, [boot.machine.cpu, self.cpu])), *accelerator),
            *("-kernel", str(resolve.bootable(boot.kernel))),
            *("-initrd", str(boot.joined()), "-append", boot.command_line()),
        ]

    def ended(self, status: int, said: str) -> str | None:
        """Tell why QEMU itself failed, None where the machine went off."""
        if status == 0:
            return None
        lines = [line for line in said.splitlines() if line.strip()]
        why = lines[-1].removeprefix(f"{BINARY}: ") if lines else "it said nothing"
        return f"QEMU ended with status {status}: {why}"


def _port(name: str, path: Path) -> list[str]:
    """Return the options of a serial port that writes into a file."""
    # QEMU takes a comma for the end of a value unless it is doubled.
    spelled = str(path).replace(",", ",,")
    return ["-chardev", f"file,id={name},path={spelled}", "-serial", f"chardev:{name}"]


# An instruction is a nanosecond.  An idle CPU's clock jumps to its next timer: nothing that the
# inside waits for comes from outside, so a time limit there passes by what is executed.  The start
# of the clock is fixed, and so is the seed: two boots of one number execute the same instructions.
TCG = Qemu(
    (
        *("-accel", "tcg", "-icount", "shift=0,sleep=off"),
        *("-rtc", "base=2022-01-01T00:00:00,clock=vm"),
    ),
    slowest=20.0,
    cpu=FORCED,
    counts_opcodes=True,
    # Whoever types lives by the clock on the wall.
    watched=("-accel", "tcg"),
)
KVM = Qemu(("-accel", "kvm"), slowest=4.0)
