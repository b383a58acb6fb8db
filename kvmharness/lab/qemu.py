"""QEMU as the emulator of a lab machine, by software (TCG) or accelerated (KVM)."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kvmharness import child
from kvmharness.errors import UsageError
from kvmharness.kernel import resolve
from kvmharness.lab import capsule, hold, opcodes
from kvmharness.lab.boot import CONSOLE, RESULTS, Boot, Stop

BINARY, PACKAGE = "qemu-system-x86_64", "qemu-system-x86"
# TCG's TSC is constant, but TCG takes the claim back unless it is forced; so what it really has
# not (of EPYC, since QEMU 7.2) is taken out by hand.
FORCED = (
    "x-force-features=on,-rdseed,-sha-ni,-fxsr-opt,-misalignsse,-3dnowprefetch,-osvw,-topoext,"
    "-nrip-save,-xsavec"
)
ELF = b"\x7fELF"


@functools.cache
def _version() -> str:
    try:
        done = child.run([BINARY, "--version"], check=True)
    except (OSError, subprocess.CalledProcessError):
        raise UsageError(f"lab: no {BINARY}; apt-get install {PACKAGE}") from None
    return done.stdout.partition("\n")[0].removeprefix("QEMU emulator version ")


@functools.cache
def _program() -> list[tuple[str, int, int, int, int, int]] | None:
    """Return QEMU's binary, its libraries and its firmware, with what changes when they do.

    None where a script of somebody's starts it: nobody knows what that does.
    """
    binary = os.path.realpath(shutil.which(BINARY) or BINARY)
    with open(binary, "rb") as file:
        if file.read(len(ELF)) != ELF:
            return None
    folders = child.run([BINARY, "-L", "help"]).stdout.split()
    firmware = [str(path) for folder in folders for path in Path(folder).glob("*.bin")]
    rows = []
    for path in [binary, *(item.source for item in capsule.libraries([binary])), *firmware]:
        with suppress(FileNotFoundError):  # a link to nothing
            seen = os.stat(path)
            same = (seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
            rows.append((path, *same))
    return sorted(rows)


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
    saves: bool = False
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
            *self._machine(boot, self.accelerator, stops=boot.stop is not None),
            *self._booted(boot),
            *_port("console", boot.folder / CONSOLE),
            *_port("results", boot.folder / RESULTS),
            *(_stop(boot.stop) if boot.stop else ()),
            *self.watching(boot),
        ]

    def interactive(self, boot: Boot) -> list[str]:
        """Return the command that has the first serial port on our terminal; Ctrl-A X ends it.

        Raises OSError.
        """
        console = "stdio,id=console,mux=on,signal=off"
        return [
            *self._machine(boot, self.watched or self.accelerator, stops=False),
            *self._booted(boot),
            *("-chardev", console, "-serial", "chardev:console"),
            *("-chardev", "null,id=results", "-serial", "chardev:results"),
        ]

    def identity(self, boot: Boot) -> object:
        """Return what the machine consists of, and which QEMU and firmware make it.

        None where the latter is not known.
        """
        program = _program()
        return program and [self._machine(boot, self.accelerator, stops=True), program]

    def _booted(self, boot: Boot) -> list[str]:
        return ["-kernel", str(resolve.bootable(boot.kernel)), "-initrd", str(boot.joined())]

    def _machine(self, boot: Boot, accelerator: Sequence[str], *, stops: bool) -> list[str]:
        """Return what a machine consists of, besides the kernel and the archives."""
        memory = ",memory-backend=ram" if stops else ""
        return [
            BINARY,
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-M", f"pc,hpet=off,usb=off{memory}", "-m", str(self.memory_mib), "-smp", "1"),
            # What the kernel makes its random numbers of: where its allocators put things.
            *("-seed", str(boot.number)),
            *("-cpu", ",".join(filter(None, [boot.machine.cpu, self.cpu])), *accelerator),
            *("-append", boot.command_line()),
            *(("-device", f"pvpanic,ioport={hold.PANIC_PORT}") if stops else ()),
        ]

    def watching(self, boot: Boot) -> Sequence[str]:
        """Return the options of what watches the machine measure."""
        if not self.counts_opcodes or stops(boot):
            return ()
        return opcodes.options(boot.folder, boot.samples)

    def ended(self, status: int, said: str) -> str | None:
        """Tell why QEMU itself failed, None where the machine went off."""
        if status == 0:
            return None
        lines = [line for line in said.splitlines() if line.strip()]
        why = lines[-1].removeprefix(f"{BINARY}: ") if lines else "it said nothing"
        return f"QEMU ended with status {status}: {why}"


def stops(boot: Boot) -> bool:
    """Tell whether the machine will stop before it measures anything."""
    return boot.stop is not None and boot.stop.job is None


def _stop(stop: Stop) -> list[str]:
    """Return the options of a machine that stops, or goes on where another one stopped."""
    share = "on" if stop.job is None else "off"
    options = [
        "-object",
        f"memory-backend-file,id=ram,size={os.fstat(stop.memory).st_size},"
        f"mem-path=/proc/self/fd/{stop.memory},share={share}",
        *("-chardev", f"socket,id=monitor,fd={stop.monitor}"),
        *("-mon", "chardev=monitor,mode=control"),
    ]
    if stop.job is None:
        return [*options, "-action", "panic=pause"]
    path = str(stop.job).replace(",", ",,")
    return [*options, "-incoming", "defer", "-fw_cfg", f"name={hold.NAME},file={path}"]


def _port(name: str, path: Path) -> list[str]:
    """Return the options of a serial port that writes into a file."""
    # QEMU takes a comma for the end of a value unless it is doubled.
    spelled = str(path).replace(",", ",,")
    return ["-chardev", f"file,id={name},path={spelled},append=on", "-serial", f"chardev:{name}"]


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
    saves=True,
    counts_opcodes=True,
    # Whoever types lives by the clock on the wall.
    watched=("-accel", "tcg"),
)
KVM = Qemu(("-accel", "kvm"), slowest=4.0)
