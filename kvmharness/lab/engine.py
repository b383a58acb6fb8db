"""Run machines: start an emulator, follow what comes out of it, bound it, leave nothing behind."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from kvmharness.child import environment
from kvmharness.errors import LabLost
from kvmharness.lab.boot import CONSOLE, RESULTS, SAID, Boot
from kvmharness.lab.job import OUTCOME
from kvmharness.lab.wire import Receiver

# No sign of life for so long before the inside has begun is a hang.
BOOT_SILENT_S = 120.0
# Whoever has sent its outcome turns itself off; one that cannot is ended.
OFF_S = 10.0
POLL_S = 0.03
SHOWN_LINES = 15
# How a kernel begins to say that it cannot go on.
FATAL = re.compile(
    r"Kernel panic|BUG: |Oops: |general protection fault|Unable to handle|invalid opcode"
    r"|double fault|stack segment|Internal error|watchdog: BUG"
)


class Control(Protocol):
    """Who has a say in how a machine runs: `files` are open ones that the emulator is to have."""

    @property
    def files(self) -> Sequence[int]: ...

    def begun(self) -> None:
        """Hear that the emulator was started.  Raises LabLost."""

    def over(self, said: Callable[[], str]) -> bool:
        """Tell whether the machine has done all it is for; `said` tells the last that it said.

        Raises LabLost.
        """


@dataclass
class Left:
    """What a machine left: the files that came whole, and why it was lost, if it was.

    `over`: it was ended when it had done all it was for.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    lost: LabLost | None = None
    over: bool = False


def said_last(folder: Path, log: str = CONSOLE) -> str:
    """Return what explains an end: a panic's first lines, else the last that the kernel said."""
    text = ""
    with suppress(OSError):
        text = (folder / log).read_text(errors="replace")
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    fatal = next((n for n, line in enumerate(lines) if FATAL.search(line)), None)
    shown = lines[-SHOWN_LINES:] if fatal is None else lines[fatal : fatal + SHOWN_LINES]
    return "\n".join(shown)


def dies_with_us(command: list[str]) -> list[str]:
    """Return a command that runs another, killed as soon as this process is gone."""
    # The parent may end before the child has asked to die with it: the child looks who it is.
    check = 'test "$PPID" = "$0" && exec "$@"'
    return ["setpriv", "--pdeathsig", "KILL", "sh", "-c", check, str(os.getpid()), *command]


class _Terminal(threading.Thread):
    """A terminal for an emulator that wants one; what it draws is read and dropped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._ours, self.theirs = os.openpty()

    def run(self) -> None:
        with suppress(OSError):  # EIO once nobody has the other end any more
            while os.read(self._ours, 65536):
                pass
        os.close(self._ours)

    def close(self) -> None:
        """Close the other end, which ends the thread once the emulator is gone too."""
        os.close(self.theirs)


def _held_up_s(pid: int) -> float:
    """Return how long a process stood ready so far, for want of a CPU: its worst thread, in s.

    /proc/PID/task/*/schedstat, second field (Documentation/scheduler/sched-stats.rst).
    """
    waited = [0]
    for stat in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(OSError, ValueError, IndexError):
            waited.append(int(stat.read_text().split()[1]))
    return max(waited) / 1e9


class _Machine:
    """A machine that runs: its process and what has come out of its ports."""

    def __init__(
        self,
        boot: Boot,
        process: subprocess.Popen[bytes],
        progress: Callable[[str], None],
        control: Control | None,
    ) -> None:
        self._boot, self._process, self._progress = boot, process, progress
        self._control = control
        self._over = False
        self._receiver = Receiver(self._heard)
        self._doing = ""
        self._read = 0
        self._seen = 0
        self._alive, self._held_up = time.monotonic(), 0.0

    def _heard(self, line: str) -> None:
        self._doing = line
        self._progress(line)

    @property
    def _done(self) -> bool:
        return OUTCOME in self._receiver.files

    def _listen(self) -> None:
        """Take what has come since the last time."""
        console, results = (self._boot.folder / name for name in (CONSOLE, RESULTS))
        with suppress(OSError), results.open("rb") as file:
            file.seek(self._read)
            data = file.read()
            self._read += len(data)
            self._receiver.feed(data)
        size = self._read
        with suppress(OSError):
            size += console.stat().st_size
        if size != self._seen:
            self._seen, self._alive = size, time.monotonic()
            self._held_up = _held_up_s(self._process.pid)

    def _silent_s(self, limit: float) -> float:
        """Return how long nothing came, exactly where that is above `limit`.

        What a busy host kept the machine waiting is not its silence.
        """
        silent = time.monotonic() - self._alive
        if silent > limit:
            silent -= max(_held_up_s(self._process.pid) - self._held_up, 0.0)
        return silent

    def _said(self) -> str:
        self._listen()
        return self._doing

    def _why_too_long(self) -> str | None:
        """Return why to wait no longer, None to wait."""
        if self._done:
            return "it does not turn off" if self._silent_s(OFF_S) > OFF_S else None
        limit = self._boot.silent_s if self._doing else BOOT_SILENT_S
        if self._silent_s(limit) > limit:
            return f"silent for {limit:g} s while {self._doing or 'booting'}; see its console"
        return None

    def follow(self) -> str | None:
        """Wait for the end; return why it was ended, None where it ended or was over."""
        if self._control:
            self._control.begun()
        while self._process.poll() is None:
            time.sleep(POLL_S)
            self._listen()
            if self._control and not self._done and self._control.over(self._said):
                self._over = True
                return None
            why = self._why_too_long()
            if why:
                return why
        self._listen()
        return None

    def left(self, why: str | None) -> Left:
        """Return what it left, `why` it was ended where it did not end by itself."""
        boot, files = self._boot, self._receiver.files
        if self._done or self._over:
            return Left(files, over=self._over)
        said = ""
        with suppress(OSError):
            said = (boot.folder / SAID).read_text(errors="replace")
        why = why or boot.machine.emulator.ended(self._process.returncode, said)
        if why is None and self._receiver.torn:
            why = f"what it sent came damaged: {', '.join(sorted(self._receiver.torn))}"
        if why is None and not self._doing:
            why = "the machine ended before the inside began; see its console"
        why = why or "the machine ended before its job did; see its console"
        return Left(files, LabLost(f"{boot.kernel.named}: {why}", said_last(boot.folder)))


class Runner:
    """Runs machines, in several threads at once, until it is stopped."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stopped = False
        self._running: set[subprocess.Popen[bytes]] = set()

    def stop(self) -> None:
        """End every machine that is running, and let none begin."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                _kill(process)

    def _start(
        self, boot: Boot, command: list[str], stack: ExitStack, inherited: Sequence[int]
    ) -> subprocess.Popen[bytes]:
        said = stack.enter_context((boot.folder / SAID).open("wb"))
        stdin, stdout = subprocess.DEVNULL, said.fileno()
        if boot.machine.emulator.terminal:
            terminal = _Terminal()
            terminal.start()
            stack.callback(terminal.close)
            stdin = stdout = terminal.theirs
        with self._lock:
            if self._stopped:
                raise LabLost(f"{boot.kernel.named}: interrupted before it was booted")
            process = subprocess.Popen(
                dies_with_us(command),
                stdin=stdin,
                stdout=stdout,
                stderr=said,
                start_new_session=True,
                pass_fds=inherited,
                env=environment(TMPDIR=str(boot.folder), TERM="vt100"),
            )
            self._running.add(process)
        return process

    def run(
        self, boot: Boot, progress: Callable[[str], None], control: Control | None = None
    ) -> Left:
        """Boot, and return what the machine left when it is gone.

        `progress` hears what the inside says that it does.  Raises LabLost after a stop, and what
        `control` raises; UsageError where the emulator is not there, OSError where the folder is
        full.
        """
        command = boot.machine.emulator.command(boot)
        progress("resuming" if boot.stop and boot.stop.job else "booting")
        with ExitStack() as stack:
            process = self._start(boot, command, stack, control.files if control else ())
            machine = _Machine(boot, process, progress, control)
            try:
                why = machine.follow()
            finally:
                _kill(process)
                with self._lock:
                    self._running.discard(process)
        return machine.left(why)


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()
