"""One commit of a bisection: built, booted, measured, and how it answers; kept once it was."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kvmharness import errors

if TYPE_CHECKING:
    from kvmharness.analysis.expectations import Answered, Expectation
    from kvmharness.kernel.bisection import Bisection
    from kvmharness.kernel.resolve import Kernel
    from kvmharness.model.cases import Case
    from kvmharness.model.run import Run

QUESTION, RUN = "question.json", "run.json"


@dataclass(frozen=True)
class Question:
    """What is searched: where it became otherwise than expected, or slower than at `good`.

    `slower` is a case and by how many %; `good` and `bad` are commits in 40 digits.
    """

    tree: str
    good: str
    bad: str
    expect: list[str]
    slower: tuple[str, float] | None
    variant: str
    machine: str | None
    config: str | None
    paths: list[str]
    first_parent: bool


@dataclass(frozen=True)
class Trial:
    """What became of one commit: its run, and how it answers the question."""

    commit: str
    run: Run
    outcomes: list[Answered]

    @property
    def code(self) -> int:
        """0 as expected, 1 not, 125 it cannot tell."""
        from kvmharness.commands import check

        return check.exit_code({found.answer for found in self.outcomes}, True)

    def __str__(self) -> str:
        word = {errors.EXIT_OK: "good", errors.EXIT_REGRESSION: "bad"}.get(self.code, "unclear")
        seen = "; ".join(f"{found.case} {found.expected}: {found.seen}" for found in self.outcomes)
        return f"{word}: {seen}"


class Search:
    """A bisection in its folder: trials are kept there, and none is made twice."""

    def __init__(self, question: Question, folder: Path, jobs: int | None) -> None:
        from kvmharness.kernel.bisection import Bisection

        self.question, self.folder, self.jobs = question, folder, jobs
        self.git: Bisection = Bisection(Path(question.tree), folder)

    def trial(self, commit: str) -> Trial:
        """Build, boot and measure a commit, where that was not done before."""
        from kvmharness.analysis import expectations

        run = self._kept(commit) or self._measured(commit)
        outcomes = [o for e in self._expected(commit, run) for o in expectations.check(e, run)]
        return Trial(commit, run, outcomes)

    def _expected(self, commit: str, run: Run) -> list[Expectation]:
        """Return what is expected of every commit; what is slower than the good end is bad."""
        from kvmharness.analysis import expectations
        from kvmharness.model.clocks import UNITS

        texts = list(self.question.expect)
        if self.question.slower:
            name, percent = self.question.slower
            good = run if commit == self.question.good else self._kept(self.question.good)
            cost = next((c.per_op for c in good.cases if c.name == name), None) if good else None
            if cost is None:
                raise errors.UsageError(f"bisect: {name} was not measured at the good end")
            most = cost.median * (1 + percent / 100)
            texts.append(f"{name} <= {most:.2f} {UNITS[run.clock]}")
        return expectations.parse_all(texts)

    def _cases(self) -> list[Case]:
        """Return the cases that the question is about, each with its `empty`."""
        from kvmharness.analysis import expectations
        from kvmharness.model import cases

        patterns = [expectations.parse(text).pattern for text in self.question.expect]
        patterns += [self.question.slower[0]] if self.question.slower else []
        return cases.with_empties(cases.select(patterns))

    def _place(self, commit: str) -> Path:
        return self.folder / commit[:12]

    def _kept(self, commit: str) -> Run | None:
        from kvmharness.analysis import load

        path = self._place(commit) / RUN
        return load.one(path).run if path.is_file() else None

    def _built(self, commit: str) -> Kernel:
        """Build a commit, and keep what make said, whether it failed or not."""
        from kvmharness.commands import watching
        from kvmharness.kernel import build, resolve

        config = Path(self.question.config) if self.question.config else None
        log = self._place(commit) / build.LOG
        try:
            with watching.building(commit[:12]) as heard:
                named = f"{self.question.tree}@{commit}"
                kernel = resolve.resolve(named, build.Recipe(config, self.jobs), heard)
        except errors.BuildFailed as error:
            if error.log:
                shutil.copyfile(error.log, log)
            raise
        shutil.copyfile(kernel.image.parents[1] / build.LOG, log)
        return kernel

    def _measured(self, commit: str) -> Run:
        from kvmharness.commands import booting, watching
        from kvmharness.kernel import variants
        from kvmharness.lab import machines, matrix, planning
        from kvmharness.measure.settings import for_lab

        place = self._place(commit)
        place.mkdir(exist_ok=True)
        variant, kind = (
            variants.parse(self.question.variant),
            machines.choose(self.question.machine),
        )
        target = planning.Target(self._built(commit), variant, kind)
        plan = planning.LabPlan(self._cases(), {kind.clock: for_lab(kind.clock)}, None, None, place)
        with watching.watch([target]) as heard:
            (result,) = matrix.measure([target], plan, 1, heard)
        run = booting.run_of(result, f"bisect: {commit[:12]}")
        assert result.path is not None  # the plan names a folder
        result.path.rename(place / RUN)
        return run
