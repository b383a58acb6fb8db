"""Two levels on this machine: its kernel is L0, and boots another one by the monitor of our own.

The path is the one that runs inside a lab's L0 (lab.nested); only its port is a place in memory.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from kvmharness import __version__
from kvmharness.analysis import summary
from kvmharness.errors import LabBug, LabLost
from kvmharness.kernel import config, kconfig, roles
from kvmharness.kvm.fds import System
from kvmharness.lab import capsule, engine, matrix, nested, packing
from kvmharness.lab.boot import CONSOLE, Monitor
from kvmharness.lab.job import CONSOLE as INNER_CONSOLE
from kvmharness.lab.job import HOST, INNER, RUN, JobOutcome
from kvmharness.lab.packing import Measured
from kvmharness.lab.planning import LabPlan
from kvmharness.lab.wire import Receiver, Sender
from kvmharness.model import runfile
from kvmharness.model.host import Emulator, Host, Lab
from kvmharness.model.run import Run

NAME, MONITOR = "nested", Monitor()


class _Port(io.BytesIO):
    """A port that is read as it is written."""

    def __init__(self, receiver: Receiver) -> None:
        super().__init__()
        self._receiver = receiver

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._receiver.feed(data)
        return len(data)


@dataclass(frozen=True)
class Ended:
    """What became of it: a run as far as it came, and why there is none or not all of one."""

    run: Run | None
    skipped: str | None = None
    lost: LabLost | None = None


def measure(measured: Measured, plan: LabPlan, folder: Path, heard: Callable[[str], None]) -> Ended:
    """Boot a kernel in this machine's KVM, and measure in it.

    `heard` is told what is done, `folder` takes the job's files and L1's console.  Raises
    UsageError for a kernel that cannot be booted so, KvmError where /dev/kvm is not open, OSError.
    """
    parts = capsule.own()
    inside = packing.inside(measured, MONITOR, plan, parts, folder)
    for name, data in inside.files.items():
        (folder / name).write_bytes(data)
    receiver = Receiver(heard)
    with System() as system:
        sender = Sender(_Port(receiver))
        outcome = nested.run(system, inside.job, roles.running(), folder, sender)
    files = receiver.files
    (folder / CONSOLE).write_bytes(files.get(INNER + INNER_CONSOLE, b""))
    lab = Lab(
        machine=NAME,
        variant=measured.variant.name,
        kernel=measured.kernel.named,
        emulator=Emulator(MONITOR.name, __version__, "host"),
        memory_mib=MONITOR.memory_mib,
        modules=inside.hashes,
        l0=matrix.this_machine(measured.clock),
        capsule=capsule.digest(parts),
        below=msgspec.json.decode(files[HOST], type=Host) if HOST in files else None,
    )
    return _ended(outcome, measured, _run(files.get(INNER + RUN), lab, measured), folder)


def _run(data: bytes | None, lab: Lab, measured: Measured) -> Run | None:
    """Return the run as far as it came, completed by what only the host knows."""
    if data is None:
        return None
    run = runfile.decode(data, RUN)
    run.host.lab = lab
    run.host.kernel.config = kconfig.asked(config.of(measured.kernel))
    summary.summarise(run)
    return run


def _ended(outcome: JobOutcome, measured: Measured, run: Run | None, folder: Path) -> Ended:
    why = f"{measured.kernel.label}: {outcome.reason or 'no reason given'}"
    match outcome.state:
        case "skipped":
            return Ended(None, skipped=why)
        case "bug":
            return Ended(run, lost=LabBug(why, outcome.trace))
        case "lost":
            return Ended(run, lost=LabLost(why, engine.said_last(folder)))
    if run is None:
        return Ended(None, lost=LabLost(f"{why}: no run came from it", engine.said_last(folder)))
    return Ended(run)
