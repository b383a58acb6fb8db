"""Run cases from beginning to end: record the host, measure, count, summarise, save as we go."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from kvmharness import errors
from kvmharness.analysis import summary
from kvmharness.kvm import fds
from kvmharness.kvm.fds import System
from kvmharness.measure import collect
from kvmharness.measure.session import Session
from kvmharness.model import run, runfile
from kvmharness.model.cases import Case
from kvmharness.model.run import Run, Settings

# How often a run goes on, in multiples of its VMs, to reach the precision asked.
MOST_ROUNDS = 4


def measure(
    chosen: Sequence[Case],
    settings: Settings,
    output: Path | None,
    *,
    extend: bool,
    suite: str | None,
) -> tuple[Run, bool]:
    """Measure, saving as it goes; return the run and whether it was interrupted."""
    with fds.System() as system:
        session = Session(system, chosen, settings)
        record = collect.begin(system, session, settings, suite)
        interrupted = False
        try:
            _rounds(session, record, output, extend)
            _count(system, session, record, output)
            record.finished = run.timestamp()
        except KeyboardInterrupt:
            interrupted = True
            summary.summarise(record)
    return record, interrupted


def _rounds(session: Session, record: Run, output: Path | None, extend: bool) -> None:
    """Measure the rounds planned, then more of the noisy cases while that may help."""
    vms = record.settings.vms
    _follow(session, record, output, vms, None)
    summary.summarise(record)
    for _ in range(1, MOST_ROUNDS):
        noisy = {case.name for case in record.cases if case.noisy and not case.failed}
        # A net figure compares what was measured side by side.
        noisy |= {result.case.baseline for result in record.cases if result.name in noisy}
        if not extend or not noisy:
            return
        _follow(session, record, output, vms, noisy)
        summary.summarise(record)


def _count(system: System, session: Session, record: Run, output: Path | None) -> None:
    """Run the counting passes, saving each case."""

    def counted() -> None:
        summary.classify_cases(record)
        _save(record, output)

    collect.count(
        system, session, record.settings, lambda name: _progress(f"counting {name}"), counted
    )
    _progress("")
    if any(case.incorrect for case in record.cases):
        summary.summarise(record)  # what was dropped is in no slope; else no sample has changed


def _save(record: Run, output: Path | None) -> None:
    if output:
        with contextlib.suppress(errors.UsageError):  # the caller's last write reports it
            runfile.write(output, record)


def _progress(line: str) -> None:
    """Show one line that the next one replaces, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


def _follow(
    session: Session, record: Run, output: Path | None, rounds: int, names: set[str] | None
) -> None:
    """Run rounds with a progress line on a terminal, saving each round and finished case."""
    try:
        for step in session.measure(rounds, names):
            line = f"VM {step.round} of {step.rounds}, case {step.case} of {step.cases}"
            _progress(f"{line}: {step.result.name}")
            # Soon a file; then once a round; then each case as it is finished.
            if step.round in (1, step.rounds) or step.case == step.cases:
                _save(record, output)
    finally:
        _progress("")
