"""`kvmharness compare`: runs of two sides, case by case, to verdicts; docs/comparing.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from kvmharness import errors
from kvmharness.analysis import causes, differences, pace, ratios, steady, totals
from kvmharness.analysis.causes import Account
from kvmharness.analysis.classify import uses_tdp_mmu
from kvmharness.analysis.climb import Climb, climb
from kvmharness.analysis.stats import Floats
from kvmharness.model.cases import Case
from kvmharness.model.clocks import CLOCKS, Clock
from kvmharness.model.run import CaseResult, Run
from kvmharness.text import figure

# "worse" and "better" are of a class, where the cost shows no change.
CaseVerdict = (
    ratios.Verdict | Literal["worse", "better", "unweighed", "not comparable", "incorrect"]
)
# What NEW must not do.
REGRESSIONS = frozenset({"slower", "worse", "incorrect"})
# How a side's instructions stand to the other's where that is not all that changed.
INSTRUCTIONS = {"same": "same", "faster": "fewer", "slower": "more"}


NOT_ORDERED = Case("", "").order
# Samples of so many times the ops of others are not compared.
MOST_APART = 4


class Side(NamedTuple):
    """One kernel's runs, and what to call them."""

    name: str
    runs: Sequence[Run]


@dataclass(frozen=True)
class CaseComparison:
    """One case; `found` is None where it is not comparable, `said` the reason or what changed.

    `order` sorts cases by how much they matter (model.cases).
    `found` is of the costs, and of cost and deferred work together where the latter matters.
    """

    case: str
    verdict: CaseVerdict
    said: str
    found: ratios.Ratio | None = None
    accounts: tuple[Account, Account] | None = None
    order: tuple[bool, int, int, int] = NOT_ORDERED
    climb: Climb | None = None


@dataclass(frozen=True)
class Comparison:
    """NEW against BASE.

    `compared` and `differing` are lines on the two sides, `left_out` names cases that one side
    has no figures of, with the reason; `boot_allowance` is for boots, 0 where each side has
    several.  `cost_alone` names the sides whose deferred work was not counted, with the reason;
    a side has at least `fewest_runs`.
    """

    base: str
    new: str
    clock: Clock
    threshold: float
    boot_allowance: float
    compared: Sequence[str]
    differing: Sequence[str]
    rows: Sequence[CaseComparison]
    left_out: Mapping[str, str]
    cost_alone: Mapping[str, str]
    fewest_runs: int = 1

    @property
    def exit_code(self) -> int:
        """1: NEW is slower, worse or incorrect somewhere; 3: that cannot be excluded; 0: it can."""
        verdicts = {row.verdict for row in self.rows}
        if verdicts & REGRESSIONS:
            return errors.EXIT_REGRESSION
        if not verdicts or verdicts & {"unclear", "unweighed", "not comparable"}:
            return errors.EXIT_UNCLEAR
        return errors.EXIT_OK


def side(name: str, runs: Sequence[Run]) -> Side:
    """Return a side of one kernel's runs.  Raises UsageError where they are of several."""
    subjects = {str(differences.subject(run)): differences.kernel(run) for run in runs}
    if len(subjects) > 1:
        named = ", ".join(map(repr, list(subjects.values())[:4]))
        raise errors.UsageError(
            f"compare {name}: holds runs of {len(subjects)} kernels, builds or variants ({named}); "
            "name the files of one"
        )
    taken = {(run.started, run.host.name, *(tuple(c.samples) for c in run.cases)) for run in runs}
    if len(taken) < len(runs):
        raise errors.UsageError(
            f"compare {name}: holds a run twice (started {runs[0].started}, say); one copy is one "
            "boot: take the others away"
        )
    return Side(name, runs)


def boots(runs: Sequence[Run]) -> int:
    """Return how many boots runs are of; each is one of its own where nothing tells."""
    # A lab boots anew for each run, and may give its kernels the same random numbers.
    told = [run.host.boot_id if run.host.lab is None else None for run in runs]
    return len({boot for boot in told if boot}) + told.count(None)


def _boots_by_case(runs: Sequence[Run]) -> dict[str, int]:
    """Return how many boots have samples of each case."""
    measured: dict[str, list[Run]] = {}
    for run in runs:
        for result in run.cases:
            if result.samples:
                measured.setdefault(result.name, []).append(run)
    return {case: boots(found) for case, found in measured.items()}


def _boot_allowance(runs: Sequence[Run]) -> float:
    """Return by how much boots may differ where a side has a single one."""
    kind = CLOCKS[runs[0].clock]
    tdp_mmu = all(uses_tdp_mmu(run.host.kvm.parameters) for run in runs)
    return kind.boot_allowance_tdp if tdp_mmu else kind.boot_allowance


def _by_case(runs: Sequence[Run]) -> dict[str, list[CaseResult]]:
    cases: dict[str, list[CaseResult]] = {}
    for run in runs:
        for result in run.cases:
            cases.setdefault(result.name, []).append(result)
    return cases


def _ended(results: Sequence[CaseResult]) -> tuple[str, str] | None:
    """Return how a side's case ended without figures, and why; None where it has some."""
    for result in results:
        if result.incorrect:
            return "incorrect", result.incorrect
    lost = [result.failed for result in results if result.failed]
    if lost:  # the boots that did not lose their guest would speak for those that did
        how_many = f"{len(lost)} of {len(results)} runs: " if len(results) > 1 else ""
        return "failed", how_many + lost[0]
    if any(result.samples for result in results):
        return None
    return "skipped", next((r.skipped for r in results if r.skipped), "there are no samples")


def _blocks(results: Sequence[CaseResult]) -> Floats:
    return ratios.blocks([steady.groups(r) for r in results if r.samples])


def _totals(results: Sequence[CaseResult]) -> Floats | None:
    """Return the blocks of cost and deferred work, None where a run has none of the latter."""
    found = [totals.sums(result) for result in results if result.samples]
    known = [groups for groups in found if groups]
    return ratios.blocks(known) if len(known) == len(found) else None


class _Pair:
    """Two sides on their way to a comparison."""

    def __init__(self, base: Side, new: Side, threshold: float | None) -> None:
        self.base, self.new = base, new
        self.old, self.young = _by_case(base.runs), _by_case(new.runs)
        self.clock = new.runs[0].clock
        self.threshold = CLOCKS[self.clock].threshold if threshold is None else threshold
        self.boots = _boots_by_case(base.runs), _boots_by_case(new.runs)
        self._of_one_boot = _boot_allowance([*base.runs, *new.runs])
        self.why_not = differences.why_not_comparable(base.runs, new.runs)

    def left_out(self) -> dict[str, str]:
        """Return the cases that one side has no figures of, by nobody's fault, and why."""
        reasons = {}
        for case in {**self.old, **self.young}:
            if any(result.incorrect for result in self.young.get(case, [])):
                continue  # a verdict of its own, whatever BASE has
            if case not in self.young:
                reasons[case] = f"only in {self.base.name}"
            elif case not in self.old:
                reasons[case] = f"only in {self.new.name}"
            for cases, name in ((self.old, self.base.name), (self.young, self.new.name)):
                ended = _ended(cases[case]) if case in cases else None
                if ended and ended[0] == "skipped":
                    reasons[case] = f"skipped in {name}: {ended[1]}"
        return reasons

    def refuse(self, case: str) -> CaseComparison | None:
        """Return the row of a case that cannot be compared, None where it can."""
        old, young = self.old.get(case, []), self.young[case]
        for results, name in ((young, self.new.name), (old, self.base.name)):
            ended = _ended(results)
            if ended:
                said = f"{ended[0]} in {name}: {ended[1]}"
                wrong = ended[0] == "incorrect" and results is young
                return CaseComparison(case, "incorrect" if wrong else "not comparable", said)
        reason = (
            self.why_not
            or differences.why_not_guest(self.base.runs, self.new.runs, young[0].mode)
            or self._why_not_iterations(old, young)
        )
        return CaseComparison(case, "not comparable", reason) if reason else None

    def _why_not_iterations(
        self, old: Sequence[CaseResult], young: Sequence[CaseResult]
    ) -> str | None:
        """Return why the samples' lengths keep a case from being compared, None where they do not.

        An exact count holds a sample's own few instructions, shared out among its ops.  Real time
        does not show them, but samples of other lengths meet other disturbances.
        """
        given = sorted({result.iterations or 0 for result in [*old, *young] if result.samples})
        most = given[0] * (MOST_APART if self.clock != "insn" else 1)
        if given[-1] <= most:
            return None
        return f"samples of {' and '.join(map(str, given))} ops: use the same --iterations"

    def _blocks(self, case: str) -> tuple[Floats, Floats]:
        """Return the blocks to compare: of costs, or of totals where a side defers work.

        Raises ValueError where a median is 0, or one side only is known to defer work.
        """
        old, young = self.old[case], self.young[case]
        late = [result for result in (*old, *young) if totals.material(result)]
        if not late:
            return _blocks(old), _blocks(young)
        sums = _totals(old), _totals(young)
        if sums[0] is None or sums[1] is None:
            name = (self.base if sums[0] is None else self.new).name
            amount = figure(totals.material(late[0]))
            raise ValueError(
                f"{amount} {late[0].unit} of an op are deferred on the one side, and {name} does "
                "not know of its own"
            )
        return sums[0], sums[1]

    def boot_allowance(self, case: str | None = None) -> float:
        """Return what is allowed for boots, 0 where each side has several; at a case, or at all."""
        if case is None:
            fewest = min(boots(side.runs) for side in (self.base, self.new))
        else:
            fewest = min(side.get(case, 0) for side in self.boots)
        return 0.0 if fewest > 1 else self._of_one_boot

    def _disturbed(self, case: str) -> str | None:
        """Say which side was measured while others had the CPU most of the time."""
        for name, results in (
            (self.base.name, self.old[case]),
            (self.new.name, self.young[case]),
        ):
            for result in results:
                said = steady.mostly_disturbed(result)
                if said:
                    return f"{said} in {name}"
        return None

    def cost_alone(self) -> dict[str, str]:
        """Return the sides whose deferred work was not counted, with the reason."""
        reasons = {}
        for name, cases in ((self.base.name, self.old), (self.new.name, self.young)):
            for result in (r for results in cases.values() for r in results):
                if result.samples and totals.deferred(result) is None:
                    reasons[name] = totals.why_no_total(result)
        return reasons

    def row(self, case: str, cases: int) -> CaseComparison:
        """Return a case's row; `cases` is how many are compared at once."""
        old, young = self.old[case], self.young[case]
        try:
            found = ratios.ratio(*self._blocks(case), cases)
        except ValueError as error:
            return CaseComparison(case, "not comparable", str(error))
        accounts = causes.account(old), causes.account(young)
        said, allowance = causes.change(*accounts), self.boot_allowance(case)
        seen, own = ratios.judge(found, self.threshold, allowance), pace.change(old, young)
        found = ratios.widened(found, own)
        verdict: CaseVerdict = self._verdict(found, allowance, accounts)
        if verdict == "unclear" != seen:
            said = "; ".join(text for text in (said, pace.said(own)) if text)
        if self.clock == "insn" and verdict in INSTRUCTIONS:
            beyond = 0.0 if verdict == "same" else found.new - found.base
            but = causes.outweighed(*accounts, beyond)
            if but:
                said = f"{INSTRUCTIONS[verdict]} instructions, but {but}"
                verdict = "unweighed"
        disturbed = self._disturbed(case)
        if disturbed:
            worse = causes.class_change(*accounts) == "worse"  # counted apart from the samples
            verdict, said = ("worse", f"{said}; {disturbed}") if worse else ("unclear", disturbed)
        if found.ci95 is None:
            said = "a single VM on a side has no interval: use --vms 5 or more"
        return CaseComparison(
            case, verdict, said, found, accounts, young[0].case.order, climb(young)
        )

    def _verdict(
        self, found: ratios.Ratio, allowance: float, accounts: tuple[Account, Account]
    ) -> CaseVerdict:
        """Judge the cost, and the class where the cost shows no change."""
        verdict = ratios.judge(found, self.threshold, allowance)
        change = causes.class_change(*accounts)
        if change and (verdict == "same" or (verdict == "unclear" and change == "worse")):
            return change
        return verdict


def compare(
    base: Side, new: Side, threshold: float | None = None, at_once: int | None = None
) -> Comparison:
    """Compare two sides' runs, whose cases are classified; `threshold` is a share of 1.

    Without one it is the clock's.  The intervals of all cases hold together, of `at_once`
    comparisons where there are others.
    """
    pair = _Pair(base, new, threshold)
    left_out = pair.left_out()
    common = [case for case in {**pair.old, **pair.young} if case not in left_out]
    refused = {case: row for case in common if (row := pair.refuse(case))}
    cases = at_once or len(common) - len(refused)
    return Comparison(
        base=base.name,
        new=new.name,
        clock=pair.clock,
        threshold=pair.threshold,
        boot_allowance=pair.boot_allowance(),
        compared=differences.compared(base.runs, new.runs),
        differing=[
            *differences.differing(base.runs, new.runs),
            *pace.differing((pair.old[c], pair.young[c]) for c in common if c not in refused),
        ],
        rows=[refused.get(case) or pair.row(case, cases) for case in common],
        left_out=left_out,
        cost_alone=pair.cost_alone(),
        fewest_runs=min(len(base.runs), len(new.runs)),
    )
