"""Boot a kernel by virtme-ng, run one shell command in it, bound it, and leave nothing behind."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from kvmharness.errors import LabLost, UsageError
from kvmharness.kernel import resolve
from kvmharness.kernel.resolve import Kernel
from kvmharness.lab.job import PROGRESS
from kvmharness.lab.machines import QEMU, MachineKind

MEMORY_MIB = 1024
# Where the booted kernel sees the host's files and the job's folder.
HOST, JOB_AT = "host", "job"
# What virtme-ng's init and our command need before, or faster than, the host's own programs.
APPLETS = (
    "bash cat chmod chown env grep hostname insmod ip ln mkdir mount poweroff rmmod sed setsid sh "
    "sleep su tar umount"
).split()
# What virtme-ng calls the mount of HOST: the folders shared for writing come first.
HOST_TAG = "virtme.initmount1"
# virtme-ng mounts files of its own in these, which would keep HOST busy: they are folders of
# ours until it has.
BOUND = ("etc", "root", "var")
# HOST is mounted anew with a cache, which virtme-ng's own lacks: nobody changes the host's files
# underneath, and every file is opened many times.
PREPARE = (
    f"hostname lab && umount /{HOST} && mount -t 9p -o "
    f"version=9p2000.L,trans=virtio,msize=524288,cache=loose,ro {HOST_TAG} /{HOST} && "
    + " && ".join(f"mount --bind /{HOST}/{name} /{name}" for name in BOUND)
    + " && "
)
# The self-tests of the crypto code take a third of the boot, and KVM has no part in them.
OPTIONS = ("cryptomgr.notests",)
COMMAND, CONSOLE = "command", "console.log"
# No sign of life for so long is a hang, by the clock outside: the one inside hangs along.
SILENT_S = 120.0
POLL_S = 0.1
TAIL_LINES = 15
# What the console says of QEMU and virtme-ng, in every run alike.
NOISE = ("warning: TCG doesn't support requested feature",)


@dataclass(frozen=True)
class Boot:
    """What to boot and what to run in it.

    `folder` is shared with the kernel, read and write; `command` is a shell's; `options` go
    to the kernel command line.  `silent_s` bounds the time between two signs of life.
    """

    kernel: Kernel
    machine: MachineKind
    folder: Path
    command: str
    options: Sequence[str] = ()
    silent_s: float = SILENT_S


def _stage(boot: Boot) -> Path:
    """Lay image and modules out as virtme-ng looks for them; return the image's place."""
    stage = boot.folder / "kernel"
    image = stage / "boot" / f"vmlinux-{boot.kernel.release}"
    image.parent.mkdir(parents=True)
    image.symlink_to(resolve.bootable(boot.kernel).absolute())
    modules = stage / "lib/modules"
    modules.mkdir(parents=True)
    if boot.kernel.modules:
        (modules / boot.kernel.release).symlink_to(boot.kernel.modules.absolute())
    return image


def _root(folder: Path) -> Path:
    """Make the booted kernel's root: busybox to start by, and links to all that the host has.

    The host's own root would do, but virtme-ng starts the host's udev and tmpfiles where it
    sees them: seconds on an emulated CPU, and noise for the kernel that is to fall quiet.  It
    mounts HOST only after that.
    """
    root = folder / "root"
    for name in ("bin", "dev", "proc", "run", "sys", *BOUND, JOB_AT, HOST):
        (root / name).mkdir(parents=True)
    busybox = shutil.which("busybox-static") or shutil.which("busybox")
    if busybox is None:
        raise UsageError("lab: no busybox; apt-get install busybox-static")
    shutil.copyfile(busybox, root / "bin/busybox")
    (root / "bin/busybox").chmod(0o755)
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    for entry in Path("/").iterdir():
        if not (root / entry.name).exists():
            (root / entry.name).symlink_to(f"/{HOST}/{entry.name}")
    return root


def _dies_with(parent: str, *command: str) -> list[str]:
    """Return a command that runs another, killed as soon as its `parent` (a process id) is gone."""
    # Who lost its parent before it asked to die with it sees another one.
    return [
        "setpriv",
        "--pdeathsig",
        "KILL",
        "sh",
        "-c",
        'test "$PPID" = "$0" && exec "$@"',
        parent,
        *command,
    ]


def _shims(folder: Path) -> Path:
    """Write the QEMU that virtme-ng starts: the real one, which dies with its parent."""
    qemu = folder / "qemu"
    real = shutil.which(QEMU)
    if real is None:
        raise UsageError(f"lab: no {QEMU}; apt-get install qemu-system-x86")
    bound = shlex.join(_dies_with("$PPID", real)).replace("'$PPID'", "$PPID")
    # A parent that was killed before this began is no longer there to die with.
    qemu.write_text(f'#!/bin/sh\ngrep -q virtme-run /proc/$PPID/cmdline && exec {bound} "$@"\n')
    qemu.chmod(0o755)
    return qemu


def command_line(boot: Boot, image: Path, qemu: Path) -> list[str]:
    """Return virtme-ng's command: the host's files read-only but for the job's folder."""
    machine = boot.machine
    virtme = Path(sys.executable).with_name("virtme-run")
    if not virtme.is_file():
        raise UsageError("lab: no virtme-run beside python; pip install virtme-ng")
    options = ["-cpu", machine.cpu, *machine.options]
    kernel = [part for option in (*OPTIONS, *boot.options) for part in ("--kopt", option)]
    return [
        str(virtme),
        "--kimg",
        str(image),
        "--mods",
        "auto",
        "--qemu-bin",
        str(qemu),
        "--root",
        str(_root(boot.folder)),
        "--rodir",
        f"/{HOST}=/",
        *machine.virtme,
        "--force-9p",
        "--disable-microvm",
        "--memory",
        f"{MEMORY_MIB}M",
        "--cpus",
        "1",
        "--user",
        "root",
        "--show-boot-console",
        *kernel,
        *(f"--qemu-opt={option}" for option in options),
        "--rwdir",
        f"/{JOB_AT}={boot.folder}",
        "--script-sh",
        f". /{JOB_AT}/{COMMAND}",
    ]


class _Console(threading.Thread):
    """Copies what a pipe says into a file; `heard` is when it last said something."""

    def __init__(self, pipe: IO[bytes], path: Path) -> None:
        super().__init__(daemon=True)
        self._pipe, self._path = pipe, path
        self.heard = time.monotonic()

    def run(self) -> None:
        with self._path.open("wb") as log:
            while data := os.read(self._pipe.fileno(), 65536):
                self.heard = time.monotonic()
                log.write(data)
                log.flush()


def tail(folder: Path) -> str:
    """Return the end of what the kernel of a job's folder said, "" where it said nothing."""
    try:
        lines = (folder / CONSOLE).read_text(errors="replace").splitlines()
    except OSError:
        return ""
    said = [line.strip() for line in lines if not any(noise in line for noise in NOISE)]
    return "\n".join([line for line in said if line][-TAIL_LINES:])


class Runner:
    """Boots machines, in several threads at once, until it is stopped."""

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

    def _start(self, boot: Boot, command: list[str]) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._stopped:
                raise LabLost(f"{boot.kernel.named}: interrupted before it was booted")
            process = subprocess.Popen(
                _dies_with(str(os.getpid()), *command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "TMPDIR": str(boot.folder)},
            )
            self._running.add(process)
            return process

    def run(self, boot: Boot, progress: Callable[[str], None]) -> None:
        """Boot, run the command, and return when the machine is gone, whatever it left.

        `progress` hears the lines that the inside writes as its progress.  Raises LabLost after
        silence or a stop, UsageError where virtme-ng or QEMU is not there.
        """
        folder = boot.folder
        # In a file: the kernel's command line, which a run records, has room for little.
        (folder / COMMAND).write_text(f"{PREPARE}{boot.command}\n")
        command = command_line(boot, _stage(boot), _shims(folder))
        progress("booting")
        with self._start(boot, command) as process:
            assert process.stdout is not None
            console = _Console(process.stdout, folder / CONSOLE)
            console.start()
            try:
                _follow(process, console, boot, progress)
            finally:
                _kill(process)
                with self._lock:
                    self._running.discard(process)
                console.join(5)


def _follow(
    process: subprocess.Popen[bytes],
    console: _Console,
    boot: Boot,
    progress: Callable[[str], None],
) -> None:
    """Wait for the end, passing progress on."""
    seen = ""
    heard = time.monotonic()
    while process.poll() is None:
        time.sleep(POLL_S)
        try:
            line = (boot.folder / PROGRESS).read_text()
        except OSError:
            line = ""
        if line and line != seen:
            seen, heard = line, time.monotonic()
            progress(line)
        if time.monotonic() - max(heard, console.heard) > boot.silent_s:
            _kill(process)
            console.join(5)
            raise LabLost(
                f"{boot.kernel.named}: silent for {boot.silent_s:g} s while "
                f"{seen or 'booting'}; see its console",
                tail(boot.folder),
            )


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End virtme-ng; QEMU, its child, dies with it."""
    if process.poll() is None:
        process.kill()
        process.wait()
