"""A lab machine that traces: QEMU with our plugin (trace.c), and what is kept of a trace."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from kvmharness.errors import Unavailable, UsageError
from kvmharness.lab.boot import Boot, LabMachine
from kvmharness.lab.engine import Left
from kvmharness.lab.job import SYMBOLS
from kvmharness.lab.qemu import Qemu, stops

# Not trace.so: Python would import it in place of this module.
PLUGIN, FILE = "trace-plugin.so", "trace"


@dataclass(frozen=True)
class TracingQemu(Qemu):
    """QEMU that records the first `samples` samples of each VM."""

    samples: int = 1

    def watching(self, boot: Boot) -> Sequence[str]:
        """Return the options of the plugin that writes FILE into the boot's folder.

        Raises UsageError.
        """
        if stops(boot):
            return ()
        # QEMU takes a comma for the end of a value, and has no way to write one here.
        path = boot.folder / FILE
        if "," in f"{path}{plugin()}":
            raise UsageError(f"trace {path}: QEMU cannot name a path with a comma; move the cache")
        option = f"{plugin()},out={path},samples={self.samples}"
        return [*super().watching(boot), "-plugin", option]


def plugin() -> Path:
    """Return the plugin that was built with the package.  Raises UsageError."""
    path = Path(str(files(__package__) / PLUGIN))
    if not path.is_file():
        raise UsageError(
            "trace: the plugin was not built with this package; install a C compiler and then "
            "kvmharness anew"
        )
    return path


def tracing(machine: LabMachine, samples: int) -> LabMachine:
    """Return the machine as one that records the first `samples` samples of each VM.

    Raises Unavailable where its instructions cannot be followed, UsageError without the plugin.
    """
    emulator = machine.emulator
    if not isinstance(emulator, Qemu) or machine.clock != "insn":
        raise Unavailable(
            f"trace: instructions cannot be followed in {machine.name}; use --machine tcg-svm"
        )
    plugin()
    fields = {f.name: getattr(emulator, f.name) for f in dataclasses.fields(Qemu)}
    return dataclasses.replace(machine, emulator=TracingQemu(**fields, samples=samples))


@dataclass(frozen=True)
class Kept:
    """Where the trace of a target and its kernel's symbols lie."""

    trace: Path
    symbols: Path


def keep(label: str, into: Path, folder: Path, left: Left) -> Kept | None:
    """Move a trace out of the job's folder; None where the machine left none.  Raises OSError."""
    if SYMBOLS not in left.files or not (folder / FILE).exists():
        return None
    kept = Kept(into / f"{label}.trace", into / f"{label}.{SYMBOLS}")
    shutil.move(folder / FILE, kept.trace)
    kept.symbols.write_bytes(left.files[SYMBOLS])
    return kept
