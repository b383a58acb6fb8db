"""From a lab's trace to an explanation of a case, exact or refused."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from kvmharness.analysis import later, totals
from kvmharness.analysis.attribution import Attribution
from kvmharness.analysis.explain import flatten
from kvmharness.analysis.symbols import Symbols
from kvmharness.analysis.tracefile import Stretch, Trace, Words
from kvmharness.errors import Unaccounted, Unavailable
from kvmharness.model import tracing
from kvmharness.model.explanation import Deferred, Explanation
from kvmharness.model.run import DEFERRED, CaseResult, Run


@dataclass(frozen=True)
class Sample:
    """A sample that was traced: its own figure, of all ops, in instructions, and what ran.

    `single` is the sample of a single op that it is held against, None where there is none.
    """

    figure: int
    stretch: Stretch
    single: Stretch | None = None

    @property
    def windows(self) -> tuple[Words, Words] | None:
        """What ran after it, and after the single op; None where nobody waited for either."""
        later = self.stretch.later
        single = self.single.later if self.single else None
        return None if later is None or single is None else (later, single)


def samples(run: Run, place: int, trace: Trace) -> list[Sample]:
    """Return the traced samples of the case at a place in the run.

    Raises Unaccounted where trace and run do not belong together.
    """
    case = run.cases[place]
    by_vm: dict[int, tuple[list[Stretch], list[Stretch]]] = defaultdict(lambda: ([], []))
    for stretch in trace.samples:
        number, vm = tracing.case_and_vm(stretch.label)
        if number == place:
            by_vm[vm][tracing.is_single(stretch.label)].append(stretch)
    found: list[Sample] = []
    for vm, (stretches, singles) in by_vm.items():
        figures = [
            round(sample * (case.iterations or 0))
            for sample, its in zip(case.samples, case.vms, strict=True)
            if its == vm
        ]
        # Of each VM the first samples are traced.
        for number, (figure, stretch) in enumerate(zip(figures, stretches, strict=False)):
            single = singles[number] if number < len(singles) else None
            found.append(Sample(figure, stretch, single))
    if not found:
        raise Unaccounted(f"explain {case.name}: the trace has no sample of it; trace again")
    return found


def nearest(found: list[Sample], wanted: int) -> list[Sample]:
    """Return the samples whose figures are nearest the median of all, at most `wanted`."""
    figures = sorted(sample.figure for sample in found)
    middle = figures[len(figures) // 2]
    return sorted(found, key=lambda sample: abs(sample.figure - middle))[:wanted]


def check(case: CaseResult) -> None:
    """Raise Unavailable for a case that cannot be followed or has no figure."""
    reason = case.skipped or case.failed or case.incorrect
    if reason:
        raise Unavailable(f"explain {case.name}: {reason}")
    if case.vcpus:
        raise Unavailable(f"explain {case.name}: several vCPUs cannot be told apart; leave @vcpus")


def _deferred(
    case: CaseResult, trace: Trace, symbols: Symbols, chosen: list[Sample]
) -> Deferred | None:
    """Return what others did after the samples; None where nobody waited for it."""
    windows = [sample.windows for sample in chosen if sample.windows]
    more = (case.iterations or 0) - 1
    if not windows or more < 1:
        return None
    many, single = (later.work(trace.blocks, symbols, each) for each in zip(*windows, strict=True))
    return Deferred(
        ops=len(windows) * more,
        nodes=later.net(many, single),
        measured=case.deferred.median if case.deferred else None,
        counts=totals.material(case) > 0,
    )


def follow(
    label: str, run: Run, place: int, trace: Trace, symbols: Symbols, wanted: int
) -> tuple[Explanation, dict[tuple[str, int], int]]:
    """Explain the case at a place in the run by `wanted` samples nearest the median.

    Returns with it how often each instruction was begun, by its function's symbol and offset.
    Raises Unaccounted where the functions do not add up to a sample's own figure.
    """
    case = run.cases[place]
    check(case)
    attribution = Attribution(trace.blocks, symbols)
    chosen = nearest(samples(run, place, trace), wanted)
    for sample in chosen:
        counted = attribution.add(sample.stretch.words)
        if counted != sample.figure:
            raise Unaccounted(
                f"explain {case.name} on {label}: a sample took {sample.figure:,} instructions, "
                f"its functions add up to {counted:,} ({counted - sample.figure:+,}); nothing is "
                "explained; report it with the kernel's name"
            )
    attribution.settle()
    assert case.per_op is not None
    # Of two levels the one below is followed.
    below = run.host.lab.below if run.host.lab else None
    explained = Explanation(
        label=label,
        release=(below or run.host).kernel.release,
        ops=len(chosen) * (case.iterations or 0),
        samples=[sample.figure for sample in chosen],
        median=case.per_op.median,
        nodes=flatten(attribution.top),
        thunks=attribution.thunks,
        lab=run.host.lab,
        deferred=_deferred(case, trace, symbols, chosen),
    )
    if explained.deferred is None:
        reason = "nobody waited for it after the samples"
        explained.no_deferred = case.absent.get(DEFERRED) or reason
    return explained, attribution.instructions()
