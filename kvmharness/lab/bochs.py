"""Bochs as the emulator of a lab machine: an Intel CPU with VMX and EPT, on any host.

One tick of its CPU's TSC is one executed instruction.  Bochs takes what it is to do from files;
they lie in the job's folder, where it runs, so that no path has to be spelled in them.
"""

from __future__ import annotations

import functools
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from kvmharness import child
from kvmharness.errors import UsageError
from kvmharness.kernel import resolve
from kvmharness.lab import bootdisk
from kvmharness.lab.boot import CONSOLE, RESULTS, Boot

BINARY = "bochs"
BIOS = Path("/usr/share/bochs/BIOS-bochs-latest")
VGA_BIOS = Path("/usr/share/vgabios/vgabios.bin")
SCREEN = "*/bochs/plugins/libbx_term_gui.so"
DISK, SETUP, REGISTERS, ORDERS = "disk.img", "bochsrc", "msrs.def", "orders"
# The instructions that its devices take for a second.
SPEED = 10_000_000
# A start of the clock that is fixed: two boots of one number execute the same instructions.
BEGIN = 1640995200
# The microcode's revision (MSR 0x8b): with none Linux takes the TSC deadline timer for broken,
# and each sample would hold a few ticks of the timer that it uses instead.
MICROCODE = "0x08b 0 02007006 00000000 00000000 00000000 FFFFFFFF FFFFFFFF\n"
# Bochs says the last thing that it does behind this line, whatever its status is.
LAST_WORDS = "Bochs is exiting with the following message:"
# Power-off, and the triple fault by which a kernel restarts that is told reboot=t.
OFF = ("ACPI control: soft power off", "3rd (13) exception with no resolution")


@functools.cache
def _version() -> str:
    command = [BINARY, "--help"]
    try:
        done = child.run(command)
    except OSError:
        raise UsageError("lab: no bochs; apt-get install bochs") from None
    found = re.search(r"Bochs x86 Emulator (\S+)", done.stdout + done.stderr)
    return found[1] if found else "unknown"


@dataclass(frozen=True)
class Bochs:
    """Bochs with Debian's BIOS, on a terminal that nobody looks at."""

    slowest: float = 100.0
    name: str = "Bochs"
    memory_mib: int = 1024
    # The TSC is given (no measuring of it against a timer), a restart is a triple fault, and there
    # is no performance counter for the watchdog.  Linux asks neither RDRAND nor RDSEED: their
    # numbers differ from one Bochs to the next, and with them where the ticks fall.
    options: tuple[str, ...] = (
        "tsc=reliable",
        "tsc_early_khz=1000000",
        "lpj=4000000",
        "nmi_watchdog=0",
        "reboot=t",
        "clearcpuid=158,306",
    )
    terminal: bool = True
    # Debian's saves a machine by its windows only.
    saves: bool = False

    def missing(self) -> list[str]:
        """Return the Debian packages that it needs and that are not here."""
        found = {
            "bochs": shutil.which(BINARY) is not None,
            "bochsbios": BIOS.is_file(),
            "vgabios": VGA_BIOS.is_file(),
            "bochs-term": any(Path("/usr/lib").glob(SCREEN)),
        }
        return [package for package, here in found.items() if not here]

    def version(self) -> str:
        """Return Bochs' version.  Raises UsageError where it is not installed."""
        return _version()

    def identity(self, boot: Boot) -> None:
        """Return nothing: no machine of its stops."""
        del boot

    def command(self, boot: Boot) -> list[str]:
        """Return Bochs' command, with its files and the disk written to the job's folder.

        Raises OSError, UsageError for a kernel that cannot be booted from a disk.
        """
        folder = boot.folder
        bootdisk.write(
            folder / DISK,
            resolve.bootable(boot.kernel),
            boot.joined(),
            boot.command_line(),
            self.memory_mib << 20,
        )
        # Bochs starts on no disk that has one, which a Bochs that was killed leaves.
        (folder / f"{DISK}.lock").unlink(missing_ok=True)
        (folder / REGISTERS).write_text(MICROCODE)
        (folder / ORDERS).write_text("c\n")  # the debugger that Debian builds in: continue
        (folder / SETUP).write_text(self._setup(boot.machine.cpu, BEGIN + boot.number - 1))
        return ["env", "-C", str(folder), BINARY, "-q", "-f", SETUP, "-rc", ORDERS]

    def interactive(self, boot: Boot) -> list[str]:
        """Raise UsageError: Bochs' serial port takes no terminal that it shares with its screen."""
        raise UsageError(f"--shell: not in --machine {boot.machine.name}; use --machine tcg-svm")

    def _setup(self, cpu: str, begin: int) -> str:
        """Return Bochs' configuration: one CPU, a disk, two serial ports, a screen of text."""
        return f"""\
config_interface: textconfig
display_library: term
plugin_ctrl: unmapped=1, biosdev=1, extfpuirq=1, serial=1, iodebug=1
plugin_ctrl: speaker=0, parallel=0, gameport=0
memory: guest={self.memory_mib}, host={self.memory_mib}
romimage: file={BIOS}, options=fastboot
vgaromimage: file={VGA_BIOS}
cpu: model={cpu}, count=1, ips={SPEED}, reset_on_triple_fault=0
cpu: ignore_bad_msrs=1, msrs={REGISTERS}
clock: sync=none, time0={begin}
pci: enabled=1, chipset=i440fx
ata0: enabled=1
ata0-master: type=disk, mode=flat, path={DISK}
boot: disk
com1: enabled=1, mode=file, dev={CONSOLE}
com2: enabled=1, mode=file, dev={RESULTS}
panic: action=fatal
error: action=ignore
info: action=ignore
debug: action=ignore
log: bochs.log
"""

    def ended(self, status: int, said: str) -> str | None:
        """Tell why Bochs itself failed, None where the machine went off.

        Its status says nothing: it is 1 for a power-off as for a file that is missing.
        """
        if any(end in said for end in OFF):
            return None
        _, found, rest = said.partition(LAST_WORDS)
        lines = [line.strip() for line in (rest if found else said).splitlines() if line.strip()]
        why = lines[0 if found else -1] if lines else "it said nothing"
        return f"Bochs ended with status {status}: {why}"


BOCHS = Bochs()
