"""A look around: a kernel booted in the capsule, its KVM loaded, and a shell on our terminal."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from kvmharness.child import environment
from kvmharness.errors import LabLost, UsageError
from kvmharness.kernel import modules
from kvmharness.kernel.variants import Module
from kvmharness.lab import capsule
from kvmharness.lab.boot import Boot
from kvmharness.lab.engine import dies_with_us
from kvmharness.lab.planning import Target
from kvmharness.lab.workshop import Workshop

HELLO = "hello"


def _hello(target: Target) -> str:
    return (
        f"\n{target.kernel.named}, variant {target.variant.name}, in {target.machine.name}: KVM is "
        "loaded, busybox, python3 and perf (where this machine has it) are here.\n"
        "exit turns the machine off; Ctrl-A X ends it at once.\n\n"
    )


def _start(loaded: Sequence[Module], size: os.terminal_size) -> str:
    """Return the shell command that loads KVM and gives the console to a shell of its own."""
    lines = ["/bin/busybox --install -s /bin"]
    for module in loaded:
        given = [f"{name}={value}" for name, value in module.parameters.items()]
        lines.append(shlex.join(["insmod", f"/{capsule.JOB_AT}/{module.file}", *given]))
    if size.lines and size.columns:
        lines.append(f"stty -F /dev/ttyS0 rows {size.lines} cols {size.columns}")
    lines += [
        f"cat /{capsule.JOB_AT}/{HELLO}",
        "export TERM=vt100",
        # The leader of a session gets the terminal that it opens: Ctrl-C then reaches what runs.
        "setsid sh -c 'exec sh -i <>/dev/ttyS0 >&0 2>&1'",
    ]
    return "\n".join(lines)


def _boot(target: Target, overlay: Path | None, folder: Path) -> Boot:
    loaded, _ = modules.prepare(target.kernel, target.parameters(), overlay)
    size = os.get_terminal_size(sys.stdin.fileno())
    files = {module.file: path.read_bytes() for module, path in loaded}
    files[HELLO] = _hello(target).encode()
    archive = folder / "job.cpio"
    capsule.job(archive, files, _start([module for module, _ in loaded], size))
    parts = [part.path for part in (capsule.base(), capsule.perf()) if part]
    options = target.variant.command_line(target.machine.vendor)
    # Nobody waits for a sign of life but who looks.
    return Boot(target.kernel, target.machine, [*parts, archive], options, folder, silent_s=0.0)


@contextmanager
def _terminal_given_away() -> Iterator[None]:
    """Leave the terminal and its signals to a child; set it afterwards as it was before."""
    before = termios.tcgetattr(sys.stdin)
    ours = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, ours)
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def look(target: Target, overlay: Path | None) -> None:
    """Boot a target with its console on our terminal, until it is turned off.

    `overlay` is a folder of other KVM modules.  Raises UsageError where there is no terminal, or
    the machine has no such console, LabLost where the emulator failed.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("lab --shell: stdin and stdout are no terminal; call it from one")
    emulator = target.machine.emulator
    with Workshop() as workshop:
        folder = workshop.job()
        command = emulator.interactive(_boot(target, overlay, folder))
        with _terminal_given_away():
            process = subprocess.Popen(
                dies_with_us(command), env=environment(TMPDIR=str(folder)), stderr=subprocess.PIPE
            )
            try:
                _, said = process.communicate()
            finally:
                process.kill()
                process.wait()
    why = emulator.ended(process.returncode, said.decode(errors="replace"))
    if why:
        raise LabLost(f"{target.kernel.named}: {why}")
