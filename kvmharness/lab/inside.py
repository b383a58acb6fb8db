"""What runs inside the booted kernel: load KVM, wait for quiet, measure, write what was found.

It is started by the capsule's init, finds its job in the capsule, and answers on the second
serial port.  Light: every import costs a large multiple of what it does outside.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from kvmharness import child
from kvmharness.counters.idle import TimerList
from kvmharness.errors import HarnessError
from kvmharness.guest import forced_emulation
from kvmharness.kernel import variants
from kvmharness.kernel.variants import Module
from kvmharness.kvm.fds import System
from kvmharness.lab import hold, nested
from kvmharness.lab.job import JOB, OUTCOME, RUN, SETUP, SYMBOLS, Job, JobOutcome, Setup
from kvmharness.lab.wire import Sender
from kvmharness.measure import host
from kvmharness.measure.collect import Plan, Step, collect
from kvmharness.model import runfile
from kvmharness.model.run import Run

PRIORITY = 50
# Quiet: at most this share of a window went into anything but idling.
QUIET_SHARE = 0.02
WINDOW_S = 0.1
MOST_WINDOWS = 50
JOB_AT, PORT, KVM = Path("/job"), Path("/dev/ttyS1"), Path("/dev/kvm")
# A run is sent as far as it has come at most so often, by the clock inside.
SEND_EVERY_S = 1.0
# Bytes more for each boot: no whole number of pages, so that places in a page differ too.
DISPLACEMENT = 5_000_011


class _Lost(Exception):
    """Nothing can be measured in this kernel; the message says why."""


def _load(folder: Path, module: Module, *, proves: bool) -> None:
    if Path("/sys/module", module.name).exists():
        return  # built in: the kernel command line has its parameters
    given = [f"{name}={value}" for name, value in module.parameters.items()]
    # The W^X proof wants it, and older kernels take it here only.  Not below another kernel: this
    # one, asked first, would emulate what the proof has the other's KVM emulate.
    if module.name == "kvm" and proves:
        given.append(f"{forced_emulation.PARAMETER.name}=1")
    done = child.run(["insmod", str(folder / module.file), *given])
    if done.returncode:
        raise _Lost(f"{module.name}: {done.stderr.strip() or 'insmod failed'}")
    with suppress(OSError):  # the others have it for the proof's own time
        forced_emulation.PARAMETER.write_text("0")


def _busy() -> tuple[int, int]:
    """Return the clock ticks spent on anything but idling, and all of them."""
    with open("/proc/stat") as file:
        fields = [int(field) for field in file.readline().split()[1:9]]
    return sum(fields) - fields[3] - fields[4], sum(fields)


def _settle() -> None:
    """Wait until the booted kernel does nothing of its own, then have the CPU to ourselves."""
    for _ in range(MOST_WINDOWS):
        before = _busy()
        time.sleep(WINDOW_S)
        busy, total = (now - then for now, then in zip(_busy(), before, strict=True))
        if total and busy <= total * QUIET_SHARE:
            break
    with suppress(OSError):  # a kernel without the limit
        Path("/proc/sys/kernel/sched_rt_runtime_us").write_text("-1")
    # perf, our child, must not have it too.
    policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
    os.sched_setscheduler(0, policy, os.sched_param(PRIORITY))


def _parameters() -> dict[str, dict[str, str]]:
    folders = Path("/sys/module").glob("kvm*")
    return {folder.name: host.read_folder(folder / "parameters") for folder in folders}


class _Steps:
    """What this kernel had done when each step was done: where a lab's time goes."""

    def __init__(self) -> None:
        self.done: dict[str, int] = {}
        self._idle = TimerList()

    def mark(self, name: str) -> None:
        """Note that a step is done, again where it is done in parts."""
        idle = self._idle.ns()
        if idle is not None:  # or nobody can tell work from waiting
            self.done[name] = time.monotonic_ns() - idle


class _Reporter:
    """Tells the host where a run stands, and sends it now and then as far as it has come."""

    def __init__(self, sender: Sender, steps: _Steps) -> None:
        self._sender, self._steps = sender, steps
        self._sent = time.monotonic()

    def on_step(self, run: Run, step: Step) -> None:
        """Report a step."""
        self._steps.mark(step.phase)
        if step.phase == "measured":
            number = (step.round - 1) * step.of + step.number
            self._sender.say(f"measuring {number} of {step.rounds * step.of}: {step.case}")
        elif step.phase == "counting":
            self._sender.say(f"counting {step.number} of {step.of}: {step.case}")
        if time.monotonic() - self._sent >= SEND_EVERY_S:
            self.send(run)
            self._sent = time.monotonic()

    def send(self, run: Run) -> None:
        """Send the run."""
        self._sender.send(RUN, runfile.encode(run))


def _measure(sender: Sender, job: Job, steps: _Steps) -> None:
    """Do what the host asked for, and send the run."""
    plan = Plan(
        job.cases,
        job.settings,
        job.suite,
        job.clock,
        job.roles,
        warm_up=True,
        count=bool(job.count),
        below=job.below,
        by_call=True,
    )
    reporter = _Reporter(sender, steps)
    with System() as system:
        reporter.send(collect(system, plan, reporter.on_step))


def _functions() -> bytes:
    """Return the lines of /proc/kallsyms that name functions, about half of it."""
    lines = Path("/proc/kallsyms").read_bytes()
    return b"\n".join(re.findall(rb"^\S+ [tTwW] .*$", lines, re.MULTILINE))


def _displace(boot: int) -> bytes:
    """Take memory, another amount in each boot, so that what follows lies elsewhere and later."""
    return b"x" * ((boot - 1) * DISPLACEMENT)  # written, or it would be promised only


def _set_up(sender: Sender, setup: Setup) -> str | None:
    """Load KVM; return why it does not run as it should, None where it does."""
    sender.say("loading KVM")
    for module in setup.modules:
        _load(JOB_AT, module, proves=bool(setup.proves))
    if not setup.modules and not KVM.exists():
        raise _Lost(
            "this kernel came without modules, and has no KVM built in; name its package, or a "
            "folder or tree with its modules"
        )
    return variants.why_not_obeyed(setup.wanted, _parameters())


def _told(sender: Sender, setup: Setup) -> Job:
    """Return what is to be measured."""
    if not setup.stops:
        return msgspec.json.decode((JOB_AT / JOB).read_bytes(), type=Job)
    sender.say(hold.READY)
    sender.drain()
    return msgspec.json.decode(hold.until_told(), type=Job)


def _do(sender: Sender, steps: _Steps) -> JobOutcome:
    steps.mark("imported")
    setup = msgspec.json.decode((JOB_AT / SETUP).read_bytes(), type=Setup)
    if setup.posts:
        with suppress(OSError):  # a kernel without CONFIG_DEVMEM or CONFIG_DEVPORT
            sender.use(nested.Posted())
    held = _displace(setup.boot)
    reason = _set_up(sender, setup)
    if reason:
        return JobOutcome("skipped", reason)
    steps.mark("loaded")
    _settle()
    steps.mark("quiet")
    job = _told(sender, setup)
    outcome = JobOutcome("done")
    if job.inner:
        with System() as system:
            outcome = nested.run(system, job.inner, job.roles, JOB_AT, sender)
    else:
        _measure(sender, job, steps)
        steps.mark("sent")
    del held
    if job.symbols:
        sender.say("sending symbols")
        sender.send(SYMBOLS, _functions())
    inner = {f"{nested.LEVEL}{name}": ns for name, ns in outcome.steps.items()}
    return msgspec.structs.replace(outcome, steps=steps.done | inner)


def main() -> None:
    """Do the job that lies in the capsule and send what came of it."""
    with PORT.open("r+b", buffering=0) as port:  # "w" would make a file where there is no port
        sender = Sender(port)
        sender.say("starting")
        sender.send(OUTCOME, msgspec.json.encode(_outcome(sender)))


def _outcome(sender: Sender) -> JobOutcome:
    try:
        return _do(sender, _Steps())
    except (_Lost, HarnessError, OSError) as error:
        return JobOutcome("lost", str(error))
    except Exception as error:
        import traceback  # noqa: PLC0415 - most runs have no use for it

        why = f"bug: {type(error).__name__}: {error}; report it with the lines above"
        return JobOutcome("bug", why, "".join(traceback.format_exception(error)))
