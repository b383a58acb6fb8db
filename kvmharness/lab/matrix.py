"""One result a kernel and variant: prepare the job, boot, and make the run file whole."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from kvmharness import __version__, cache
from kvmharness.analysis import summary
from kvmharness.errors import HarnessError, LabBug, LabLost, UsageError
from kvmharness.files import Output
from kvmharness.kernel import config, kconfig, modules, resolve
from kvmharness.lab import capsule, engine, hold, opcodes, packing, stopped, trace
from kvmharness.lab.boot import CONSOLE, Boot
from kvmharness.lab.capsule import Part
from kvmharness.lab.engine import Left, Runner
from kvmharness.lab.job import CONSOLE as INNER_CONSOLE
from kvmharness.lab.job import HOST, INNER, OUTCOME, RUN, JobOutcome
from kvmharness.lab.nested import LEVEL
from kvmharness.lab.packing import Packed
from kvmharness.lab.planning import LabPlan, OnProgress, Result, Target, file_names
from kvmharness.lab.workshop import Workshop
from kvmharness.measure import host
from kvmharness.model import runfile
from kvmharness.model.clocks import Clock
from kvmharness.model.host import L0, Emulator, Host, Lab
from kvmharness.model.run import Run

T = TypeVar("T")

# No sign of life for so long is a hang, however short the time limit inside.
SILENT_S = 120.0
INNER_LOG = "inner.log"


def this_machine(clock: Clock) -> L0:
    """Describe the machine that runs a lab."""
    kernel = host.kernel()
    if clock == "insn":
        kernel.cmdline = None  # it moves no count of instructions, and tells of the host
    return L0(platform.node(), kernel, host.vendor_module(), host.cpu(), host.hypervisor())


def _lab(target: Target, hashes: dict[str, str], parts: Sequence[Part]) -> Lab:
    machine = target.machine
    return Lab(
        machine=machine.name,
        variant=target.variant.name,
        kernel=target.kernel.named,
        emulator=Emulator(machine.emulator.name, machine.emulator.version(), machine.cpu),
        memory_mib=machine.emulator.memory_mib,
        modules=hashes,
        l0=this_machine(machine.clock),
        capsule=capsule.digest(parts),
        boot=target.boot,
    )


def _told(data: bytes, kind: type[T]) -> T:
    """Return what a machine sent.  Raises LabLost: one that went mad may send anything."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LabLost(f"it sent what is no {kind.__name__}: {error}; see its console") from None


def _lab_of_inner(target: Target, lab: Lab, hashes: dict[str, str], left: Left) -> Lab:
    """Return the lab of the kernel inside, with the machine below it as it described itself."""
    monitor = target.machine.inner
    assert target.inner
    assert monitor
    below = None
    if HOST in left.files:
        below = _told(left.files[HOST], Host)
        below.lab = lab
    return msgspec.structs.replace(
        lab,
        variant=target.inner.variant.name,
        kernel=target.inner.kernel.named,
        emulator=Emulator(monitor.name, __version__, target.machine.cpu),
        memory_mib=monitor.memory_mib,
        modules=hashes,
        below=below,
    )


def _run(target: Target, left: Left, lab: Lab, folder: Path) -> Run | None:
    """Return the run as far as it came, completed by what only the host knows."""
    name = INNER + RUN if target.inner else RUN
    if name not in left.files:
        return None
    run = runfile.decode(left.files[name], name)
    run.host.lab = lab
    run.host.kernel.config = kconfig.asked(config.of(target.innermost.kernel))
    if run.clock == "insn":
        opcodes.add(run, folder)
    summary.summarise(run)
    return run


def _boot(target: Target, plan: LabPlan, archives: Sequence[Path], folder: Path) -> Boot:
    """Return the boot of a target from its whole capsule."""
    machine = target.machine
    # A guest that hangs is given up inside, and the kernel only where that does not happen.
    limit = plan.settings[machine.clock].timeout_s * machine.emulator.slowest
    return Boot(
        target.kernel,
        machine,
        archives,
        target.variant.command_line(machine.vendor),
        folder,
        silent_s=max(SILENT_S, 2 * limit),
        number=target.boot,
        samples=0 if target.inner else plan.settings[machine.clock].samples_per_vm,
    )


def _refuse(target: Target) -> None:
    """Raise LabLost for a kernel that was configured without what the capsule needs."""
    for kernel in dict.fromkeys([target.kernel, target.innermost.kernel]):
        built = config.of(kernel)
        missing = config.lacking(built, target.machine.vendor) if built else []
        if missing:
            raise LabLost(
                f"{target.label}: {kernel.named} was built without {', '.join(missing)}, which "
                "the lab needs; build it with them"
            )


def _stops(target: Target) -> bool:
    """Tell whether the machine stops before it measures, and is told its job then."""
    built = config.of(target.kernel)
    # With two levels the job is a kernel, too much to be told.
    return (
        target.machine.emulator.saves
        and target.inner is None
        and built is not None
        and built.get(hold.NEEDED) == "y"
    )


def _left(
    boot: Boot,
    packed: Packed,
    parts: Sequence[Part],
    snapshots: bool,
    runner: Runner,
    heard: Callable[[str], None],
) -> Left:
    """Run a target's machine, and return what it left.  Raises what Runner.run raises."""
    if packed.job is None:
        return runner.run(boot, heard)
    archives = [*(part.sha256 for part in parts), cache.digest(boot.initrd[-1])]
    name = stopped.key(boot, archives) if snapshots else None
    return stopped.run(boot, packed.job, name, runner, heard)


def _one(
    target: Target, plan: LabPlan, folder: Path, runner: Runner, progress: OnProgress
) -> Result:
    """Boot one target and return what became of it.  Raises LabLost."""
    _refuse(target)
    parts = plan.capsule or capsule.own()
    stops = _stops(target)
    packed = (
        packing.double(target, plan, parts, folder)
        if target.inner
        else packing.single(target, plan, stops)
    )
    archive = folder / "job.cpio"
    capsule.job(archive, packed.files)
    boot = _boot(target, plan, [*(part.path for part in parts), archive], folder)
    lab = _lab(target, packed.hashes, parts)
    left = _left(boot, packed, parts, plan.snapshots, runner, lambda line: progress(target, line))
    if target.inner:
        (folder / INNER_LOG).write_bytes(left.files.get(INNER + INNER_CONSOLE, b""))
        lab = _lab_of_inner(target, lab, packed.inner_hashes, left)
    name = INNER + RUN if target.inner else RUN
    if name in left.files:  # whatever happens from here on
        (folder / RUN).write_bytes(left.files[name])
    return _result(target, plan, _run(target, left, lab, folder), left, folder)


def _at_its_level(target: Target, reason: str | None) -> str:
    """Return a reason that says which of two kernels it is of; L1's do already."""
    own = reason or "no reason given"
    return own if target.inner is None or own.startswith(LEVEL) else f"L0: {own}"


def _result(target: Target, plan: LabPlan, run: Run | None, left: Left, folder: Path) -> Result:
    """Judge what a machine left.  Raises LabLost where it is not even a part of a run."""
    if left.lost:
        level = "L0 " if target.inner else ""
        return Result(target, run, lost=LabLost(f"{level}{left.lost}", left.lost.console))
    outcome = _told(left.files[OUTCOME], JobOutcome)
    if outcome.state == "skipped":
        return Result(target, skipped=_at_its_level(target, outcome.reason))
    # Of two kernels the inner one, where it has begun to speak.
    said = engine.said_last(folder, INNER_LOG) or engine.said_last(folder)
    why = f"{target.label}: {_at_its_level(target, outcome.reason)}"
    if outcome.state == "bug":
        return Result(target, run, lost=LabBug(why, outcome.trace))
    if outcome.state == "lost":
        return Result(target, run, lost=LabLost(why, said))
    if run is None:
        raise LabLost(f"{target.label}: no run came from it", said)
    traced = trace.keep(target.label, plan.traces, folder, left) if plan.traces else None
    return Result(target, run, traced=traced, steps=outcome.steps)


def _keep(result: Result, plan: LabPlan, folder: Path) -> None:
    """Copy what the user keeps: the run file and each kernel's log."""
    if plan.output is None:
        return
    run_file, *log_files = (Output(plan.output / name) for name in file_names(result.target))
    result.outputs = [run_file, *log_files]
    if result.run is not None:
        run_file.write(runfile.encode(result.run))
        result.path = run_file.path
    for log, kept in zip((CONSOLE, INNER_LOG), log_files, strict=False):
        if (folder / log).is_file():
            kept.write((folder / log).read_bytes())


def _rescue(target: Target, plan: LabPlan, folder: Path) -> Path | None:
    """Save the run file as it came out of a lab, where what was to complete it failed."""
    with suppress(OSError, UsageError):
        data = (folder / RUN).read_bytes()
        path = plan.output and plan.output / file_names(target)[0]
        if path is None:
            descriptor, name = tempfile.mkstemp(prefix=f"{target.label}-", suffix=".json")
            os.close(descriptor)
            path = Path(name)
        Output(path).write(data)
        return path
    return None


def measure(
    targets: Sequence[Target],
    plan: LabPlan,
    jobs: int,
    progress: OnProgress,
    runner: Runner | None = None,
) -> Iterator[Result]:
    """Measure every target, `jobs` at a time; yield each result as it comes.

    One that is lost does not keep the others from being measured.  Whoever gives a `runner` may
    stop it from another thread.  Raises UsageError, before any is booted, for a kernel whose files
    are not whole, and for KVM's modules that are not.
    """
    for target in targets:
        if plan.kvm_modules:
            wanted = target.innermost.variant.parameters(target.machine.vendor)
            modules.overlay(plan.kvm_modules, wanted)
        measured = target.innermost.kernel
        for kernel in {target.kernel, measured}:
            resolve.bootable(kernel)
            packing.roles_of(kernel, plan.kvm_modules if kernel is measured else None)
    own = runner or Runner()

    def one(target: Target) -> Result:
        result = Result(target)
        try:
            folder = workshop.job()
            try:
                result = _one(target, plan, folder, own, progress)
            except LabLost as error:
                result.lost = error
            _keep(result, plan, folder)
        except (HarnessError, OSError) as error:  # a full disk: the figures are still shown
            result.lost = LabLost(f"{target.label}: {error}")
        except Exception as error:
            result.bug = error
            result.path = _rescue(target, plan, folder)
        ended = "skipped" if result.skipped else "lost" if result.lost or result.bug else "done"
        progress(target, ended)
        return result

    with Workshop() as workshop, ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(one, target) for target in targets]
        try:
            for future in as_completed(waiting):
                yield future.result()
        finally:
            if runner is None:
                own.stop()
            pool.shutdown(cancel_futures=True)
