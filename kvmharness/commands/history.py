"""What `timeline` measures: which kernels, in which ways, and what to tell of each job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kvmharness import errors
from kvmharness.analysis import exit_codes, load, timeline
from kvmharness.commands import booting, options
from kvmharness.kernel import history, variants
from kvmharness.lab import campaign, capsule, pool
from kvmharness.lab.ledger import Ledger
from kvmharness.lab.planning import LabPlan, Target
from kvmharness.measure.settings import for_lab
from kvmharness.model import suites
from kvmharness.render import tables, timeline_table
from kvmharness.text import printable

if TYPE_CHECKING:
    from kvmharness.kernel.build import Recipe
    from kvmharness.kernel.resolve import Kernel
    from kvmharness.lab.boot import LabMachine
    from kvmharness.lab.campaign import Ended
    from kvmharness.lab.capsule import Part
    from kvmharness.lab.pool import Order, Pool

SUITE = "timeline"
# What is said of a job that has ended.
WORDS = {"new": "measured", "same": "measured again, the same", "differs": "ALARM"}


@dataclass(frozen=True)
class Asked:
    """Which kernels: those that are named, Debian's, and those of a tree's tags."""

    named: Sequence[str]
    debian: bool
    tree: Path | None
    patterns: Sequence[str]
    since: str | None
    recipe: Recipe

    @property
    def any(self) -> bool:
        """Whether any are asked for."""
        return bool(self.named or self.debian or self.tree)

    def found(self) -> list[str]:
        """Return the names of those that nobody named.  Raises UsageError."""
        first = history.since(self.since) if self.since else None
        packages = history.of_debian(first) if self.debian else []
        return packages + (history.of_tree(self.tree, self.patterns, first) if self.tree else [])


@dataclass(frozen=True)
class How:
    """In which ways each kernel is measured, and where the runs go."""

    output: Path
    machine: str
    variants: Sequence[str]
    patterns: Sequence[str]
    suite: str | None
    vms: int | None
    samples: int | None
    rebuild: bool
    twice: bool

    def plan(self, kinds: Sequence[LabMachine], parts: Sequence[Part]) -> LabPlan:
        """Return what to measure.  Raises UsageError."""
        chosen, _ = suites.chosen(self.patterns, self.suite, SUITE)
        settings = {kind.clock: for_lab(kind.clock, self.vms, self.samples) for kind in kinds}
        # Without the suite's name: it would be another job, with the same figures.
        return LabPlan(chosen, settings, None, None, None, capsule=parts)


class _Jobs:
    """The jobs of kernels that are asked for, each made when there is somebody to do it."""

    def __init__(self, asked: Asked, how: How, ledger: Ledger) -> None:
        self._asked, self._how, self._ledger = asked, how, ledger
        kinds = booting.kinds(how.machine)
        self._parts = capsule.own()
        self._plan = how.plan(kinds, self._parts)
        chosen = [variants.parse(text) for text in how.variants]
        self._ways = [(kind, variant) for kind in kinds for variant in chosen]
        # A slip in a name is told before an hour of measuring.
        self._kernels = options.kernels(asked.named, asked.recipe)
        self._found = asked.found()
        self.there = 0
        self.failed: list[str] = []
        self.kernels: list[Kernel] = []

    def _each(self) -> Iterator[Kernel]:
        yield from self._kernels
        for name in self._found:
            try:
                yield from options.kernels([name], self._asked.recipe)
            except errors.UsageError as error:  # the others are measured all the same
                self._lost(name, error)

    def _of(self, kernel: Kernel) -> Iterator[Order]:
        """Yield the jobs of a kernel, or note that it cannot be read."""
        self.kernels.append(kernel)
        try:
            for kind, variant in self._ways:
                target = Target(kernel, variant, kind, f"-{kind.name}")
                capsule.spare(self._parts)
                yield pool.order(target, self._plan, self._parts)
        except errors.UsageError as error:
            self._lost(kernel.named, error)

    def _lost(self, name: str, error: errors.UsageError) -> None:
        self.failed.append(name)
        _say(f"lost: {name}: {error}")

    def __iter__(self) -> Iterator[Order]:
        seen = set()
        for kernel in self._each():
            for order in self._of(kernel):
                if order.job in seen:
                    continue
                seen.add(order.job)
                if not self._how.rebuild and campaign.is_there(order.job, self._ledger):
                    self.there += 1
                    continue
                yield order


def measure(asked: Asked, how: How, workers: Pool) -> tuple[int, Sequence[Kernel]]:
    """Measure what is not there yet, and tell of each job on stderr.

    Returns the exit code, and the kernels that were asked for.  Raises UsageError, before anything
    is measured, for what cannot be.
    """
    ledger = Ledger(how.output)
    ledger.prepare()
    jobs = _Jobs(asked, how, ledger)
    codes = [errors.EXIT_OK]
    done = 0
    for ended in campaign.carry_out(jobs, workers, ledger, twice=how.twice):
        done += 1
        _tell(ended)
        codes.append(_code(ended))
    codes += [errors.EXIT_LOST] * bool(jobs.failed)
    _say(f"{done} jobs done, {jobs.there} were there already")
    return exit_codes.worst(codes), jobs.kernels


def show(folder: Path, since: str | None) -> int:
    """Print what a timeline's folder tells; return the exit code.  Raises UsageError."""
    held = load.folder(folder)
    first = history.since(since) if since else None
    found = timeline.timeline(held.runs, first)
    timeline_table.show(found, held.explained, tables.console())
    left_out = [(why, name) for name, why in held.left_out.items()]
    for text in tables.by_reason("left out", left_out):
        _say(text)
    for job, note in held.notes.items():
        if note.state != "skipped":
            _say(f"{note.state}: {job}: {note.reason}; --rebuild tries again")
    for name in held.differing:
        _say(f"ALARM: {name} has other figures than the run of the same job")
    return errors.EXIT_LOST if held.differing else errors.EXIT_OK


def _code(ended: Ended) -> int:
    if ended.answer.state == "bug":
        return errors.EXIT_BUG
    lost = ended.answer.state == "lost" or ended.kept == "differs"
    return errors.EXIT_LOST if lost else errors.EXIT_OK


def _tell(ended: Ended) -> None:
    label, answer = ended.order.target.label, ended.answer
    if answer.state != "done":
        for line in answer.console.splitlines():
            click.echo(f"    {printable(line)}", err=True)
        _say(f"{answer.state}: {label}: {answer.reason}")
        return
    same = ", by who did it before" if ended.avoid == answer.where else ""
    _say(f"{WORDS[ended.kept]}{same}: {label}")
    for line in ended.differences:
        _say(f"  {line}, on {answer.where}; both runs are kept")


def _say(line: str) -> None:
    click.echo(printable(line), err=True)
