"""From a lab's trace to an explanation of a case, exact or refused."""

from __future__ import annotations

from collections import defaultdict

from kvmharness.analysis.attribution import Attribution
from kvmharness.analysis.explain import flatten
from kvmharness.analysis.symbols import Symbols
from kvmharness.analysis.tracefile import Stretch, Trace
from kvmharness.errors import Unaccounted, Unavailable
from kvmharness.model import tracing
from kvmharness.model.explanation import Explanation
from kvmharness.model.run import CaseResult, Run

Sample = tuple[int, Stretch]


def samples(run: Run, place: int, trace: Trace) -> list[Sample]:
    """Return the traced samples of the case at a place in the run: its figure, what ran.

    The figure is the sample's own, of all ops, in instructions.  Raises Unaccounted where
    trace and run do not belong together.
    """
    case = run.cases[place]
    by_vm: dict[int, list[Stretch]] = defaultdict(list)
    for stretch in trace.samples:
        number, vm = tracing.case_and_vm(stretch.label)
        if number == place:
            by_vm[vm].append(stretch)
    found: list[Sample] = []
    for vm, stretches in by_vm.items():
        figures = [
            round(sample * (case.iterations or 0))
            for sample, its in zip(case.samples, case.vms, strict=True)
            if its == vm
        ]
        # The warm-up measured in a VM 0 of its own; of each VM the first samples are traced.
        found += zip(figures, stretches[1:] if vm == 0 else stretches, strict=False)
    if not found:
        raise Unaccounted(f"explain {case.name}: the trace has no sample of it; trace again")
    return found


def nearest(found: list[Sample], wanted: int) -> list[Sample]:
    """Return the samples whose figures are nearest the median of all, at most `wanted`."""
    figures = sorted(figure for figure, _ in found)
    middle = figures[len(figures) // 2]
    return sorted(found, key=lambda sample: abs(sample[0] - middle))[:wanted]


def check(case: CaseResult) -> None:
    """Raise Unavailable for a case that cannot be followed or has no figure."""
    reason = case.skipped or case.failed or case.incorrect
    if reason:
        raise Unavailable(f"explain {case.name}: {reason}")
    if case.vcpus:
        raise Unavailable(f"explain {case.name}: several vCPUs cannot be told apart; leave @vcpus")


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
    for figure, stretch in chosen:
        counted = attribution.add(stretch)
        if counted != figure:
            raise Unaccounted(
                f"explain {case.name} on {label}: a sample took {figure:,} instructions, its "
                f"functions add up to {counted:,} ({counted - figure:+,}); nothing is explained; "
                "report it with the kernel's name"
            )
    attribution.settle()
    assert case.per_op is not None
    explained = Explanation(
        label=label,
        release=run.host.kernel.release,
        ops=len(chosen) * (case.iterations or 0),
        samples=[figure for figure, _ in chosen],
        median=case.per_op.median,
        nodes=flatten(attribution.top),
        thunks=attribution.thunks,
        lab=run.host.lab,
    )
    return explained, attribution.instructions()
