"""The second level: boot a kernel inside the booted one, and pass on what comes from it.

Light, as all that runs inside.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import msgspec

from kvmharness.counters import events
from kvmharness.counters.below import EVENTS, PORT, REASONS, Counts
from kvmharness.counters.kvmstats import KvmStats
from kvmharness.counters.opened import Pool
from kvmharness.counters.reasons import ExitReasons
from kvmharness.counters.source import Source
from kvmharness.counters.tracefs import Instance
from kvmharness.errors import HarnessError
from kvmharness.guest.linux import Linux, LinuxVm
from kvmharness.kvm.fds import System
from kvmharness.lab.job import CONSOLE, HOST, INNER, OUTCOME, RUN, Inner, JobOutcome
from kvmharness.lab.wire import Receiver, Sender
from kvmharness.measure import feasible, host
from kvmharness.model.host import Roles

# Before whatever is said of the kernel inside.
LEVEL = "L1: "


class _Relay:
    """Takes the lines of the inner kernel's second port, and passes on what they carry."""

    def __init__(self, sender: Sender) -> None:
        self.doing = "booting"
        self._sender = sender
        self._receiver = Receiver(self._heard)
        self._line = bytearray()
        self._passed: dict[str, bytes] = {}

    def _heard(self, text: str) -> None:
        self.doing = text
        self._sender.say(f"{LEVEL}{text}")

    @property
    def outcome(self) -> bytes | None:
        """The inner kernel's outcome, once it has sent it whole."""
        return self._receiver.files.get(OUTCOME)

    def take(self, data: bytes) -> None:
        """Take what was sent, a byte at a time."""
        self._line += data
        if data == b"\n":
            self._receiver.feed(bytes(self._line))
            self._line.clear()
            self._pass_on()

    def _pass_on(self) -> None:
        """Send on the run as far as it has come: what was measured outlives this kernel."""
        run = self._receiver.files.get(RUN)
        if run is not None and run is not self._passed.get(RUN):
            self._passed[RUN] = run
            self._sender.send(INNER + RUN, run)


def _sources(instance: Instance, pool: Pool) -> dict[bytes, list[Source]]:
    """Return what counts the inner kernel's exits, nested runs, faults and pages."""
    found, _ = events.present()
    return {EVENTS: [KvmStats(), pool.source(found)], REASONS: [ExitReasons(instance)]}


def _why_no_room(linux: Linux) -> str | None:
    """Return why this kernel has no memory for the inner one, None where it has.

    Asked before it is touched: the OOM killer would end this process, and tell nobody why.
    """
    available = feasible.available_memory(feasible.MEMINFO.read_text())
    if available is None or linux.memory_mib << 20 <= available:
        return None
    return (
        f"memory: the kernel inside is given {linux.memory_mib} MiB, and {available >> 20} are "
        "available; give this machine more"
    )


def run(system: System, inner: Inner, roles: Roles, folder: Path, sender: Sender) -> JobOutcome:
    """Boot the inner kernel from the files in `folder`; return how that ended."""
    relay = _Relay(sender)
    no_room = _why_no_room(inner.linux)
    if no_room:
        return JobOutcome("lost", no_room)
    sender.send(HOST, msgspec.json.encode(host.record(system, roles)))
    sender.say(f"{LEVEL}loading it")
    console = b""
    try:
        with (
            Instance() as instance,
            Pool() as pool,
            closing(Counts(_sources(instance, pool))) as counts,
            LinuxVm(system, inner.linux, folder, relay.take, {PORT: counts}) as vm,
        ):
            counts.guest = vm
            sender.say(f"{LEVEL}booting")
            try:
                end = vm.run(inner.silent_s, lambda: relay.outcome is not None)
            finally:
                console = bytes(vm.console)
    except (HarnessError, OSError) as error:
        return JobOutcome("lost", f"{LEVEL}{error}, while {relay.doing}")
    finally:
        sender.send(INNER + CONSOLE, console)
    if relay.outcome is None:
        why = {"off": "it turned itself off", "reset": "it restarted"}[end]
        return JobOutcome("lost", f"{LEVEL}{why} while {relay.doing}")
    outcome = msgspec.json.decode(relay.outcome, type=JobOutcome)
    return msgspec.structs.replace(outcome, reason=outcome.reason and f"{LEVEL}{outcome.reason}")
