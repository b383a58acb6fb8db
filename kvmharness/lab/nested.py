"""The second level: boot a kernel inside the booted one, and pass on what comes from it.

Light, as all that runs inside.
"""

from __future__ import annotations

import io
from contextlib import closing
from pathlib import Path

import msgspec

from kvmharness.counters import events, mailbox
from kvmharness.counters.below import EVENTS, REASONS, Counts
from kvmharness.counters.kvmstats import KvmStats
from kvmharness.counters.opened import Pool
from kvmharness.counters.reasons import ExitReasons
from kvmharness.counters.source import Source
from kvmharness.counters.tracefs import Instance
from kvmharness.errors import HarnessError
from kvmharness.guest.linux import End, Linux, LinuxVm
from kvmharness.kvm.fds import System
from kvmharness.lab.job import CONSOLE, HOST, INNER, OUTCOME, RUN, Inner, JobOutcome
from kvmharness.lab.wire import LONGEST_LINE, Receiver, Sender
from kvmharness.measure import feasible, host
from kvmharness.model.host import Roles

# Before whatever is said of the kernel inside.
LEVEL = "L1: "
# What rings the mailbox's bell when lines of the wire are in it.
LINES = b"\4"


class _Relay:
    """Takes the lines that the inner kernel sends, and passes on what they carry."""

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
        """Take what was sent: a byte by the serial port, or as much as the mailbox held."""
        self._line += data
        if b"\n" in data or len(self._line) > LONGEST_LINE:  # which the receiver cuts
            self._receiver.feed(bytes(self._line))
            self._line.clear()
            self._pass_on()

    def _pass_on(self) -> None:
        """Send on the run as far as it has come: what was measured outlives this kernel."""
        run = self._receiver.files.get(RUN)
        if run is not None and run is not self._passed.get(RUN):
            self._passed[RUN] = run
            self._sender.send(INNER + RUN, run)


class _Bell:
    """What answers at the mailbox's port."""

    def __init__(self, relay: _Relay, counts: Counts) -> None:
        self._relay, self._counts = relay, counts

    def write(self, data: bytes) -> None:
        """Take what is in the mailbox, or begin or end an interval that is counted."""
        if data == LINES and self._counts.guest:
            self._relay.take(mailbox.taken(self._counts.guest))
        else:
            self._counts.told(data)

    def read(self, size: int) -> bytes:
        """Return zeros: nobody reads a bell."""
        return bytes(size)


class Posted(io.BytesIO):
    """The inner kernel's way to send: a file whose lines go by the mailbox.

    Raises OSError where that may not be used.
    """

    def __init__(self) -> None:
        super().__init__()
        self._mailbox = mailbox.Mailbox()

    def write(self, data: bytes) -> int:  # type: ignore[override]
        """Send as much as there is room for; return how much that was."""
        part = data[: mailbox.MOST]
        self._mailbox.tell(LINES, part)
        return len(part)

    def close(self) -> None:
        """Let go of the mailbox."""
        self._mailbox.close()
        super().close()


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
    try:
        end = _end_of(system, inner, folder, relay, sender)
    except (HarnessError, OSError) as error:
        return JobOutcome("lost", f"{LEVEL}{error}, while {relay.doing}")
    if relay.outcome is None:
        why = {"off": "it turned itself off", "reset": "it restarted"}[end]
        return JobOutcome("lost", f"{LEVEL}{why} while {relay.doing}")
    outcome = msgspec.json.decode(relay.outcome, type=JobOutcome)
    return msgspec.structs.replace(outcome, reason=outcome.reason and f"{LEVEL}{outcome.reason}")


def _end_of(system: System, inner: Inner, folder: Path, relay: _Relay, sender: Sender) -> End:
    """Run the inner kernel until it has sent its outcome, or ends; send on what it said."""
    console = b""
    try:
        with (
            Instance() as instance,
            Pool() as pool,
            closing(Counts(_sources(instance, pool))) as counts,
        ):
            devices = {mailbox.PORT: _Bell(relay, counts)}
            with LinuxVm(system, inner.linux, folder, relay.take, devices) as vm:
                counts.guest = vm
                sender.say(f"{LEVEL}booting")
                try:
                    return vm.run(inner.silent_s, lambda: relay.outcome is not None)
                finally:
                    console = bytes(vm.console)
    finally:
        sender.send(INNER + CONSOLE, console)
