"""Measure this machine for a command: progress on a terminal, saving as it goes, summaries."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Sequence

import msgspec

from kvmharness import errors
from kvmharness.analysis import summary
from kvmharness.files import Output
from kvmharness.kvm.fds import System
from kvmharness.measure import priority
from kvmharness.measure.collect import Plan, Step, collect
from kvmharness.measure.presence import Presence
from kvmharness.measure.take import ALLOWED_CPUS
from kvmharness.model import runfile
from kvmharness.model.cases import Case
from kvmharness.model.run import Run, Settings

# How often noisy cases are measured as many times again, to reach the precision asked.
AGAIN = 3


def measure(
    chosen: Sequence[Case],
    settings: Settings,
    output: Output | None,
    *,
    extend: bool,
    suite: str | None,
    apart: bool,
) -> tuple[Run, BaseException | None]:
    """Measure, saving as it goes; return the run, and what ended it before its time.

    That is KeyboardInterrupt or an error that nobody foresaw: the caller raises it when what
    was measured is safe.  Where nothing was measured it is raised here.  `apart` lets it move to
    another CPU than that of the settings where other runs have that.
    """
    watcher = _Watcher(output)
    ended: BaseException | None = None
    with Presence(settings.cpu, ALLOWED_CPUS if apart else ()) as presence, System() as system:
        plan = Plan(
            chosen,
            msgspec.structs.replace(settings, cpu=presence.cpu),
            suite,
            again=summary.noisy_now,
            again_most=AGAIN if extend else 0,
            others=presence.others,
        )
        try:
            run = collect(system, plan, watcher.step)
        except (KeyboardInterrupt, Exception) as error:
            if watcher.run is None or not any(case.samples for case in watcher.run.cases):
                raise
            ended, run = error, watcher.run
        finally:
            _progress("")
    try:
        watcher.summarise(run)
    except Exception as error:  # the samples are there, whatever the statistics did
        ended = ended or error
    return run, ended


def rescue(run: Run) -> None:
    """Save a run that nobody gave a file, as showing it is what failed; say where it is."""
    for folder in (tempfile.gettempdir, os.getcwd, lambda: os.path.expanduser("~")):
        with contextlib.suppress(OSError):
            path = _saved(runfile.encode(run), folder())
            print(f"kvmharness: what was measured is in {path}", file=sys.stderr)
            return
    print("kvmharness: what was measured is lost: no folder takes it", file=sys.stderr)


def _saved(data: bytes, folder: str) -> str:
    """Write a new file in a folder, whole, and return its path.  Raises OSError."""
    descriptor, path = tempfile.mkstemp(prefix="kvmharness-", suffix=".json", dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    except BaseException:
        os.unlink(path)
        raise
    return path


def allowed_priority(wanted: int | None) -> int | None:
    """Return the priority to time with: as wanted (0: none), or the usual one where allowed.

    Raises UsageError where the one that somebody wants is not.
    """
    if wanted == 0:
        return None
    reason = priority.why_not(wanted or priority.DEFAULT)
    if wanted and reason:
        raise errors.UsageError(f"--priority {wanted}: {reason}")
    return None if reason else wanted or priority.DEFAULT


class _Watcher:
    """Follows a run: shows a line, and saves so often that little is ever lost."""

    def __init__(self, output: Output | None) -> None:
        self.run: Run | None = None
        self._output = output
        self._samples = -1  # how many the last summary was of

    def step(self, run: Run, step: Step) -> None:
        """Show and save one step of the run."""
        self.run = run
        if step.phase == "measured":
            where = f"VM {step.round} of {step.rounds}, case {step.number} of {step.of}"
            _progress(f"{where}: {step.case}")
            # Soon a file; then once a round; then each case as it is finished.
            if step.round in (1, step.rounds) or step.number == step.of:
                self._save()
        elif step.phase == "counting":
            self.summarise(run)
            _progress(f"counting {step.case}")
        elif step.phase == "counted":
            summary.classify_cases(run)
            self._save()

    def summarise(self, run: Run) -> None:
        """Fill in what the samples say, if they are not those of the last time."""
        samples = sum(len(case.samples) for case in run.cases)
        if samples != self._samples:
            summary.summarise(run)
            self._samples = samples

    def _save(self) -> None:
        if self._output and self.run:
            with contextlib.suppress(errors.UsageError):  # the caller's last write reports it
                self._output.save(runfile.encode(self.run))


def _progress(line: str) -> None:
    """Show one line that the next one replaces, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
