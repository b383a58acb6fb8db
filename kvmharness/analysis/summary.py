"""From samples to figures: fill in what the statistics say of each case."""

from __future__ import annotations

from kvmharness.analysis import stats, steady, totals
from kvmharness.analysis.classify import classify, uses_tdp_mmu
from kvmharness.model.cases import PARAMS, Case
from kvmharness.model.run import CaseResult, Interval, PerOp, Run, Slope

# More than one involuntary switch in this many samples is worth naming as a cause.
SAMPLES_PER_SWITCH = 10
# A line goes through any two points, and almost through any three.
FEWEST_POINTS = 4
# The parameters that count something; the others are switches.
SWEPT = tuple(p for p in PARAMS if isinstance(p.values, range))

Groups = dict[str, list[stats.Floats]]


def _cause(result: CaseResult, groups: list[stats.Floats]) -> str:
    """Name what was seen to disturb the case, most direct first."""
    seen = result.disturbed
    causes = []
    if seen.involuntary_switches * SAMPLES_PER_SWITCH > len(result.samples):
        causes.append(f"{seen.involuntary_switches} involuntary context switches")
    if seen.migrations:
        causes.append(f"{seen.migrations} CPU migrations")
    if seen.steal_ms:
        causes.append(f"{seen.steal_ms:g} ms stolen by the hypervisor")
    if seen.same_cpu:
        causes.append("another run on the same CPU")
    middles = sorted(stats.median_ci([group]).median for group in groups)
    spread = middles[-1] / middles[0] - 1 if middles[0] > 0 else 0.0
    causes.append(f"medians of single VMs spread over {spread:.0%}")
    return ", ".join(causes)


def _noise(result: CaseResult, groups: list[stats.Floats], precision: float) -> str | None:
    if result.per_op is None:
        return None
    disturbed = steady.mostly_disturbed(result)
    if disturbed:  # whatever the interval: it agrees with itself only
        return f"{disturbed}: the CPU was not ours; use --pin, --priority or a quieter machine"
    width = stats.half_width(result.per_op)
    if result.per_op.ci95 is None:
        return "one VM tells nothing of the spread between VMs: use --vms 5 or more"
    if width is None or width <= precision:
        return None
    return f"interval ±{width:.1%} where ±{precision:.1%} was asked: {_cause(result, groups)}"


def _families(run: Run, groups: Groups) -> dict[tuple[str, str], dict[int, CaseResult]]:
    """Return the cases that differ in one parameter only, by its value.

    The key is the name that they share, without the parameter, and the parameter's.
    """
    families: dict[tuple[str, str], dict[int, CaseResult]] = {}
    for result in run.cases:
        if result.name not in groups:
            continue
        case = result.case
        for param in SWEPT:
            if param.name == "pages" and not case["pages"]:
                continue  # another loop, without the touching: it is on no line with the others
            rest = {k: v for k, v in result.params.items() if k != param.name}
            shared = Case(result.mode, result.op, rest).name
            families.setdefault((shared, param.name), {})[case[param.name]] = result
    return {k: f for k, f in families.items() if len(f) >= FEWEST_POINTS}


def _slopes(run: Run, groups: Groups) -> list[Slope]:
    """Fit a line to every family, net of the one of `empty` where that was swept as well."""
    families = _families(run, groups)
    points: dict[tuple[str, str], list[stats.Point]] = {
        key: [(value, groups[family[value].name]) for value in sorted(family)]
        for key, family in families.items()
    }
    slopes = []
    for (name, param), own in points.items():
        first = families[name, param][int(own[0][0])]
        rise, ci95, intercept = stats.slope(own)
        middles = [(float(value), stats.median(samples)) for value, samples in own]
        fitted = Slope(name, param, first.unit, middles, rise, ci95, intercept)
        rest = {k: v for k, v in first.params.items() if k != param}
        empty = points.get((Case(first.mode, "empty", rest).name, param))
        if empty is not None and empty is not own:
            fitted.net_slope, fitted.net_ci95 = stats.net_slope(own, empty)
        slopes.append(fitted)
    return slopes


def classify_cases(run: Run) -> None:
    """Fill in the class of every case that was counted, in place."""
    tdp_mmu = uses_tdp_mmu(run.host.kvm.parameters)
    counters = {case.name: case.counters for case in run.cases}
    for result in run.cases:
        baseline = result.case.baseline
        empty = None if result.name == baseline else counters.get(baseline)
        found = classify(result.counters, run.host.kvm.module, tdp_mmu, empty)
        if found is not None:
            result.class_, result.class_evidence = found.case_class, found.evidence


def summarise(run: Run) -> None:
    """Fill in what the samples say, in place: of every case that has some, and the slopes."""
    groups = {c.name: steady.groups(c) for c in run.cases if c.samples}
    for result in run.cases:
        own = groups.get(result.name)
        if own is None:
            # A file may hold what it has lost.
            result.per_op = result.deferred = result.total = result.tsc = result.noisy = None
            continue
        result.deferred = totals.interval(result)
        result.total = totals.total(result)
        middle = stats.median_ci(own)
        result.per_op = PerOp(middle.median, middle.ci95)
        baseline = result.case.baseline
        if result.name != baseline and baseline in groups:
            result.per_op.net = stats.net(own, groups[baseline])
        if result.tsc_khz:
            ticks = result.tsc_khz / 1e6
            ci95 = middle.ci95 and (middle.ci95[0] * ticks, middle.ci95[1] * ticks)
            result.tsc = Interval(middle.median * ticks, ci95)
        result.noisy = _noise(result, own, run.settings.precision)
    run.slopes = _slopes(run, groups)
    classify_cases(run)


def noisy_now(run: Run) -> set[str]:
    """Summarise, and name the cases whose interval is too wide, each with its `empty`.

    A net figure compares what was measured side by side.
    """
    summarise(run)
    noisy = {case.name for case in run.cases if case.noisy and not case.failed}
    return noisy | {case.case.baseline for case in run.cases if case.name in noisy}
