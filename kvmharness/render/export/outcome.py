"""What the formats for test results say of a case."""

from __future__ import annotations

from typing import Literal, NamedTuple

from kvmharness.model.run import CaseResult, Run
from kvmharness.render import tables
from kvmharness.text import printable


class TestOutcome(NamedTuple):
    """`incorrect` is KVM's fault, `failed` a guest that was lost; `reason` empty if passed."""

    kind: Literal["passed", "incorrect", "failed", "skipped"]
    reason: str


def outcome(result: CaseResult) -> TestOutcome:
    """Return how a case ended."""
    if result.incorrect is not None:
        return TestOutcome("incorrect", printable(result.incorrect))
    if result.failed is not None:
        return TestOutcome("failed", printable(result.failed))
    if result.skipped is not None:
        return TestOutcome("skipped", printable(result.skipped))
    if not result.samples:
        return TestOutcome("skipped", "not measured: the run was cut short")
    return TestOutcome("passed", "")


def figures(run: Run, result: CaseResult) -> list[str]:
    """Return what was measured of a case, one line per fact."""
    lines = []
    if result.per_op:
        unit = f" ({tables.INSTRUCTIONS_BRIEFLY})" if run.clock == "insn" else ""
        lines.append(f"{result.unit}/op {tables.with_interval(result.per_op)}{unit}")
        if result.deferred and result.total:
            late = tables.with_interval(result.deferred)
            lines.append(f"deferred {late}, total {tables.with_interval(result.total)}")
        if result.per_op.net:
            lines.append(f"net of empty {tables.net_of_empty(result)}")
    if result.class_:
        evidence = ", ".join(f"{n} {v:.2f}" for n, v in result.class_evidence.items())
        lines.append(f"class {result.class_} ({evidence})")
    if result.noisy:
        lines.append(f"noisy: {result.noisy}")
    return [printable(line) for line in lines]
