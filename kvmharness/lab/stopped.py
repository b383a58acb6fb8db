"""Machines that were stopped before they measure anything, and are gone on with in another QEMU.

A machine is booted until KVM is loaded and the kernel is quiet, then it stops (lab.hold); what
measures is always another process that goes on from there.  So a machine that comes from the cache
measures as one does that was booted for the purpose: both do the same.

What lies in the cache is lab.snapshot's.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kvmharness import __version__, cache
from kvmharness.errors import LabLost
from kvmharness.kernel import resolve
from kvmharness.lab import hold, snapshot
from kvmharness.lab.boot import CONSOLE, INITRD, RESULTS, Boot, Stop
from kvmharness.lab.engine import Left, Runner, said_last
from kvmharness.lab.qmp import Ended, Monitor, MonitorError
from kvmharness.lab.snapshot import Stopped

# What the two sides of a QEMU's migration must agree on: memory in a file is not sent.
CAPABILITIES = [{"capability": "x-ignore-shared", "state": True}]
POLL_S = 0.005
# In a job's folder; and what QEMU calls a file that it is given.
JOB, FILE = "job", "state"


def key(boot: Boot, archives: Sequence[str]) -> str | None:
    """Return what names a stopped machine: it changes with all that moves one of its instructions.

    `archives` are the sha256 of the boot's.  None where not all of it is known.
    """
    identity = boot.machine.emulator.identity(boot)
    if identity is None:
        return None
    kernel = cache.digest(resolve.bootable(boot.kernel))
    own = [cache.digest(Path(path)) for path in (__file__, hold.__file__, snapshot.__file__)]
    all_of_it = [__version__, own, identity, kernel, *archives]
    return hashlib.sha256(json.dumps(all_of_it).encode()).hexdigest()[:32]


class _Controlled:
    """What stops a machine and what goes on with one have in common."""

    def __init__(self, boot: Boot, monitor: Monitor, stopped: Stopped) -> None:
        self._boot, self._monitor, self._stopped = boot, monitor, stopped

    @property
    def files(self) -> Sequence[int]:
        return (self._stopped.memory, self._monitor.theirs)

    def begun(self) -> None:
        try:
            self._begin()
        except Ended:  # why, the engine reads
            pass
        except MonitorError as error:
            raise self._lost(error) from None

    def _begin(self) -> None:
        self._monitor.greet()

    def _lost(self, error: MonitorError) -> LabLost:
        raise NotImplementedError


class _Saving(_Controlled):
    """Waits until a machine stops, and has QEMU write the state of its devices."""

    def _lost(self, error: MonitorError) -> LabLost:
        return LabLost(f"{self._boot.kernel.named}: QEMU did not save the machine: {error}")

    def over(self, said: Callable[[], str]) -> bool:
        try:
            if not self._monitor.heard("STOP"):
                return False
            doing = said()
            if doing != hold.READY:
                why = f"{self._boot.kernel.named}: it panicked while {doing or 'booting'}"
                raise LabLost(why, said_last(self._boot.folder))
            _migrate(self._monitor, "migrate", self._stopped.state)
        except MonitorError as error:
            raise self._lost(error) from None
        return True


class _Resuming(_Controlled):
    """Has a QEMU go on with a stopped machine."""

    def _begin(self) -> None:
        super()._begin()
        _migrate(self._monitor, "migrate-incoming", self._stopped.state)
        self._monitor.do("cont")

    def _lost(self, error: MonitorError) -> LabLost:
        why = f"{self._boot.kernel.named}: QEMU does not go on with the machine: {error}"
        return LabLost(f"{why}; kvmharness cache clear snapshots")

    def over(self, said: Callable[[], str]) -> bool:
        del said
        return False


def _migrate(monitor: Monitor, command: str, state: int) -> None:
    """Write the devices' state to a file, or read it, and wait for the end.

    Raises MonitorError.
    """
    os.lseek(state, 0, os.SEEK_SET)
    monitor.do("migrate-set-capabilities", capabilities=CAPABILITIES)
    monitor.do("getfd", state, fdname=FILE)
    monitor.do(command, uri=f"fd:{FILE}")
    while (said := monitor.do("query-migrate")).get("status") != "completed":
        if said.get("status") == "failed":
            raise MonitorError(said.get("error-desc", "no reason given"))
        time.sleep(POLL_S)


@contextmanager
def _files(memory: int) -> Iterator[Stopped]:
    """Open files for a machine that stops: they live in memory, and nowhere else."""
    found: list[int] = []
    try:
        found += [os.memfd_create("kvmharness-ram"), os.memfd_create("kvmharness-state")]
        os.ftruncate(found[0], memory)
        yield Stopped(found[0], found[1], b"")
    finally:
        for descriptor in found:
            os.close(descriptor)


def _stop(
    boot: Boot, files: Stopped, runner: Runner, progress: Callable[[str], None]
) -> Stopped | Left:
    """Boot until the machine stops; return it, or what was left of one that ended before."""
    with Monitor() as monitor:
        stopping = dataclasses.replace(boot, stop=Stop(files.memory, monitor.theirs))
        left = runner.run(stopping, progress, _Saving(boot, monitor, files))
    if not left.over:
        return left
    return dataclasses.replace(files, console=(boot.folder / CONSOLE).read_bytes())


def _go_on(
    boot: Boot, job: bytes, stopped: Stopped, runner: Runner, progress: Callable[[str], None]
) -> Left:
    """Give a stopped machine its job, and return what it left when it is gone."""
    for name in (RESULTS, INITRD):  # of the machine that stopped
        (boot.folder / name).unlink(missing_ok=True)
    (boot.folder / CONSOLE).write_bytes(stopped.console)
    (boot.folder / JOB).write_bytes(job)
    with Monitor() as monitor:
        stop = Stop(stopped.memory, monitor.theirs, boot.folder / JOB)
        going = dataclasses.replace(boot, initrd=(), stop=stop)
        return runner.run(going, progress, _Resuming(boot, monitor, stopped))


def run(
    boot: Boot,
    job: bytes,
    name: str | None,
    runner: Runner,
    progress: Callable[[str], None],
) -> Left:
    """Measure `job` in a machine that stops for it; return what it left.

    Under `name` the machine is looked for in the cache, and kept there; None: it is booted for this
    job alone.  Raises what Runner.run raises.
    """
    with _files(boot.machine.emulator.memory_mib << 20) as files:
        if name is None:
            stopped = _stop(boot, files, runner, progress)
        else:
            stopped = _kept(boot, files, name, runner, progress)
        return (
            stopped if isinstance(stopped, Left) else _go_on(boot, job, stopped, runner, progress)
        )


def _kept(
    boot: Boot,
    files: Stopped,
    name: str,
    runner: Runner,
    progress: Callable[[str], None],
) -> Stopped | Left:
    """Return the machine of the cache, made and kept where it is not there."""
    with snapshot.claimed(name):  # whoever wants the same one waits for it
        try:
            return snapshot.load(name, files)
        except FileNotFoundError:
            pass
        except snapshot.Damaged as error:
            progress(f"its snapshot is damaged, and made anew: {error}")
        stopped = _stop(boot, files, runner, progress)
        if isinstance(stopped, Stopped):
            try:
                snapshot.keep(name, stopped)
            except OSError as error:
                progress(f"its snapshot is not kept: {error.strerror}")
        return stopped
