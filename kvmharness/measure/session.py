"""Measure cases: calibrate, warm up, interleave, and keep every sample.

Light on purpose: this is what runs inside a booted kernel under test, so it imports no
statistics and prints nothing.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kvmharness.counters.kvmstats import PREFIX, KvmStats
from kvmharness.errors import GuestError, Infeasible, KvmError, KvmIncorrect, UsageError
from kvmharness.guest.vm import MAX_ITERATIONS, PROOF_ITERATIONS, GuestVm
from kvmharness.kvm.fds import System
from kvmharness.measure.feasible import limits, why_not
from kvmharness.measure.host import vendor_module
from kvmharness.model.cases import Case
from kvmharness.model.run import UNITS, CaseResult, Clock, Disturbance, Settings, condemn, per_op

# Calibration starts here and multiplies until a sample is long enough to extrapolate.
FIRST_ITERATIONS = 16
GROWTH = 16
# Before any thread is pinned.
ALLOWED_CPUS = frozenset(os.sched_getaffinity(0))

Opener = Callable[[System, Case, Settings], GuestVm]


def open_guest(system: System, case: Case, settings: Settings) -> GuestVm:
    """Create the VM that a case describes, its vCPUs' threads on the CPUs after `cpu`."""
    cpus: list[int] = []
    if settings.cpu is not None and case["vcpus"] > 1:
        others = sorted(ALLOWED_CPUS - {settings.cpu}, reverse=True)
        cpus = [settings.cpu, *others]
    # No more ops than a sample has, where somebody chose few: they may be dear.
    proof_iterations = min(PROOF_ITERATIONS, (settings.iterations or PROOF_ITERATIONS) | 1)
    return GuestVm(
        system, case, timeout_s=settings.timeout_s, cpus=cpus, proof_iterations=proof_iterations
    )


@dataclass
class Progress:
    """One VM's worth of one case is done: round and case number, from 1, of how many."""

    round: int
    rounds: int
    case: int
    cases: int
    result: CaseResult


@dataclass
class _Account:
    """A case under way: its result so far and the counts behind the per-op figures."""

    case: Case
    result: CaseResult
    ops: int = 0
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def open(self) -> bool:
        """Whether it can still be measured."""
        result = self.result
        return not (result.skipped or result.failed or result.incorrect)


@contextmanager
def pinned(cpu: int | None) -> Iterator[None]:
    """Run this thread on `cpu` only (None: leave it alone) and put it back afterwards."""
    before = os.sched_getaffinity(0)
    if cpu is not None:
        try:
            os.sched_setaffinity(0, {cpu})
        except (OSError, ValueError, OverflowError) as error:
            allowed = ", ".join(map(str, sorted(before)))
            raise UsageError(f"--pin {cpu}: {error}; this process may use {allowed}") from None
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _migrations() -> int | None:
    try:
        text = Path("/proc/thread-self/sched").read_text()
    except OSError:  # a kernel without CONFIG_SCHED_DEBUG
        return None
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "se.nr_migrations":
            return int(value)
    return None


def _steal_ms(cpu: int | None) -> float | None:
    """Milliseconds that the hypervisor under us took from `cpu` (None: from any CPU)."""
    name = "cpu" if cpu is None else f"cpu{cpu}"
    try:
        text = Path("/proc/stat").read_text()
    except OSError:
        return None
    for line in text.splitlines():
        fields = line.split()
        if fields[0] == name and len(fields) > 8:
            return int(fields[8]) * 1000 / os.sysconf("SC_CLK_TCK")
    return None


def _disturbance(cpu: int | None) -> Disturbance:
    switches = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
    return Disturbance(switches, _migrations(), _steal_ms(cpu))


def _add_disturbance(total: Disturbance, before: Disturbance, after: Disturbance) -> Disturbance:
    def added(so_far: float | None, a: float | None, b: float | None) -> float | None:
        return None if a is None or b is None else (so_far or 0) + b - a

    migrations = added(total.migrations, before.migrations, after.migrations)
    return Disturbance(
        total.involuntary_switches + after.involuntary_switches - before.involuntary_switches,
        None if migrations is None else int(migrations),
        added(total.steal_ms, before.steal_ms, after.steal_ms),
    )


def calibrate(guest: GuestVm, target_ms: float) -> int:
    """Return the iterations that make one sample last about `target_ms` milliseconds."""
    target = target_ms * guest.tsc_khz
    iterations = FIRST_ITERATIONS
    while True:
        ticks = max(guest.measure(iterations, 1).ticks[0], 1)
        if ticks * 2 >= target or iterations == MAX_ITERATIONS:
            return max(1, min(round(iterations * target / ticks), MAX_ITERATIONS))
        # Far off, a short sample says little: grow towards the target, never past twice it.
        step = min(GROWTH, target / ticks)
        iterations = min(max(round(iterations * step), iterations + 1), MAX_ITERATIONS)


def _per_tick(guest: GuestVm, result: CaseResult) -> float:
    """Return what one tick of the guest's TSC is in the result's unit.

    An emulated machine that counts instructions has them for ticks: nothing is to be scaled.
    """
    if result.unit == UNITS["insn"]:
        return 1.0
    result.tsc_khz = guest.tsc_khz
    return 1e6 / guest.tsc_khz


def _one_vm(guest: GuestVm, account: _Account, settings: Settings, vm: int) -> None:
    """Warm a fresh VM up, take its samples, and add all to the account."""
    result = account.result
    attempts = guest.prove()
    if attempts is not None:
        result.proof = (result.proof or 0) + attempts
    if result.iterations is None:
        result.iterations = settings.iterations or calibrate(guest, settings.target_ms)
    iterations = result.iterations
    guest.measure(iterations, 1)
    with closing(KvmStats(guest.vm, guest.vcpus)) as stats:
        before = _disturbance(settings.cpu)
        measured = guest.measure(iterations, settings.samples_per_vm, [stats])
        after = _disturbance(settings.cpu)
        if stats.absent:
            result.absent[f"{PREFIX}*"] = stats.absent
    result.disturbed = _add_disturbance(result.disturbed, before, after)
    per_tick = _per_tick(guest, result)
    result.samples += [round(t * per_tick / iterations, 4) for t in measured.ticks]
    result.vms += [vm] * len(measured.ticks)
    if len(guest.vcpus) > 1:
        per_vm = settings.samples_per_vm
        result.vcpus += [n for n in range(len(guest.vcpus)) for _ in range(per_vm)]
    account.ops += iterations * len(measured.ticks)
    for name, count in measured.counts.items():
        account.counts[name] = account.counts.get(name, 0) + count
    result.counters = dict(per_op(account.counts, account.ops))


class Session:
    """Cases being measured; `results` is theirs, in the order given, always up to date.

    A guest or an ioctl that fails ends its own case only: the reason stands in `failed`.
    """

    def __init__(
        self,
        system: System,
        cases: Sequence[Case],
        settings: Settings,
        opener: Opener = open_guest,
        clock: Clock = "tsc",
    ) -> None:
        self._system = system
        self._settings = settings
        self._opener = opener
        here = limits(system, vendor_module())
        self._accounts = [
            _Account(
                case,
                CaseResult(
                    case.name,
                    case.guest,
                    case.op,
                    dict(case.params),
                    unit=UNITS[clock],
                    skipped=why_not(case, here),
                ),
            )
            for case in cases
        ]
        self._rounds = 0

    @property
    def measured(self) -> list[tuple[Case, CaseResult]]:
        """The cases that have samples, with their results."""
        return [(a.case, a.result) for a in self._accounts if a.result.samples]

    @property
    def results(self) -> list[CaseResult]:
        return [account.result for account in self._accounts]

    def measure(self, rounds: int, names: set[str] | None = None) -> Iterator[Progress]:
        """Give each case (of those in `names`) a fresh VM a round; yield after each.

        Every round begins with another case, so that drift hits all alike.
        """
        chosen = [a for a in self._accounts if names is None or a.case.name in names]
        last = self._rounds + rounds
        with pinned(self._settings.cpu):
            while self._rounds < last:
                turn = self._rounds % len(chosen)
                for number, account in enumerate(chosen[turn:] + chosen[:turn], 1):
                    if account.open:
                        self._measure_one(account)
                    yield Progress(self._rounds + 1, last, number, len(chosen), account.result)
                self._rounds += 1

    def _measure_one(self, account: _Account) -> None:
        settings = self._settings
        try:
            with self._opener(self._system, account.case, settings) as guest:
                _one_vm(guest, account, settings, self._rounds)
        except Infeasible as error:
            account.result.skipped = str(error)
        except KvmIncorrect as error:
            condemn(account.result, str(error))
        except (GuestError, KvmError) as error:
            account.result.failed = str(error)
