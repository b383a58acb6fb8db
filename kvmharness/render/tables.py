"""What a person reads: the host's head line and the table of cases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.text import Text

from kvmharness.analysis import pace, stats, totals
from kvmharness.analysis.profile import Profiled
from kvmharness.model import counters
from kvmharness.model.clocks import UNITS
from kvmharness.model.run import PROOF_PREFIX, CaseResult, Interval, Run
from kvmharness.render import fitting, levels
from kvmharness.render.fitting import Column
from kvmharness.render.levels import SHOWN_FROM
from kvmharness.text import figure, printable

# Callers named in a row.
MOST_CALLERS = 3
# Above this many noisy cases one line speaks for all.
MOST_NOISY = 4
# What every table of such figures says.
INSTRUCTIONS = (
    "insn: instructions that an emulated machine executed, KVM's instruction decoder included; an "
    "exit's hardware work is free there. They rank kernels; they are no nanoseconds."
)
# The same for where there is no room.
INSTRUCTIONS_BRIEFLY = "instructions of an emulated machine, not nanoseconds"
# Wide enough for every column of every table.
WIDTH = 180
# What leaves the table of a run first where there is no room: see fitting.Column.
GOES_TSC, GOES_NONE_DEFERRED, GOES_INTERVAL, GOES_COUNTS, GOES_DEFERRED, GOES_NET = (
    100,
    95,
    90,
    50,
    20,
    10,
)


def console() -> Console:
    """Return a console for stdout."""
    return Console(highlight=False, width=WIDTH)


def plain(text: str) -> Text:
    """Return text from a file for rich to print as it is, unprintable characters as escapes."""
    return Text(printable(text))


def show_profile(profiled: Profiled, name: str, top: int, out: Console) -> None:
    """Print one row for each of a case's dearest functions; say so where they were sampled."""
    total = sum(row.net for row in profiled.rows)
    unit = f"{profiled.unit}/op"
    mark = "sampled " if profiled.sampled else ""
    nested = any(row.inclusive is not None for row in profiled.rows)
    followed = any(row.calls is not None for row in profiled.rows)
    rows, most = profiled.rows[:top], fitting.room()
    columns = [
        fitting.numbers(
            f"{mark}{'net' if profiled.baseline else 'own'} {unit}", [figure(r.net) for r in rows]
        ),
        fitting.numbers(
            f"{mark}share", [f"{r.net / total:.1%}" if total > 0 else "-" for r in rows], 2
        ),
    ]
    if profiled.baseline:
        columns.append(fitting.numbers(f"{mark}gross {unit}", [figure(r.gross) for r in rows], 3))
    if nested:
        inclusive = [figure(r.inclusive or 0.0) for r in rows]
        columns.append(fitting.numbers("with callees", inclusive, 1))
    if followed:
        columns.append(fitting.numbers("calls/op", [count(r.calls) for r in rows], 4))
    columns.append(Column("function", [plain(r.symbol) for r in rows], right=False))
    if followed:
        callers = [plain(", ".join((r.callers or ())[:MOST_CALLERS])) for r in rows]
        columns.append(Column("called by", callers, right=False, goes=5))
    of = f" net of {profiled.baseline}" if profiled.baseline else ""
    how = "sampled by perf, host code only" if profiled.sampled else "every instruction"
    fitting.say(f"{name}: {figure(total)} {unit}{of} ({how}, {profiled.ops:,} ops)", out, most)
    if rows:
        fitting.show(columns, out, most)


def edges(ci95: tuple[float, float] | None) -> str:
    """Format an interval to stand behind its figure; empty where there is none."""
    return f" [{figure(ci95[0])}, {figure(ci95[1])}]" if ci95 else ""


def with_interval(interval: Interval | None) -> str:
    """Format a median with its interval, e.g. `2,930 [2,901, 3,061]`."""
    return "-" if interval is None else figure(interval.median) + edges(interval.ci95)


def net_of_empty(result: CaseResult) -> str:
    """Format a case's figure net of `empty`, e.g. `1,844 ±7.6%`, or `unclear`."""
    net = result.per_op.net if result.per_op else None
    if net is None:
        return "-"
    reach = stats.half_width(net)
    if net.unclear or reach is None:
        return "unclear"
    return f"{figure(net.median)} ±{reach:.1%}"


def deferred(result: CaseResult) -> str:
    """Format what a case left for later; `-` where it was not counted, `0` where it is in doubt."""
    if result.deferred is None:
        return "-"
    return with_interval(result.deferred) if totals.material(result) else "0"


def count(value: float | None) -> str:
    """Format a count per op; `-` where it was not counted."""
    if value is None:
        return "-"
    return f"{value:.2f}" if value >= SHOWN_FROM else "0"


def head(run: Run) -> Sequence[str]:
    """Return the lines above the table: host, kernel, KVM, its clock, whether it is nested."""
    host = run.host
    kvm = host.kvm.module or "kvm without a vendor module"
    tdp = [
        f"{name}={value}"
        for parameters in host.kvm.parameters.values()
        for name, value in parameters.items()
        if name in {"npt", "ept", "tdp_mmu"}
    ]
    lines = [
        f"{host.name}: Linux {host.kernel.release}, {' '.join([kvm, *tdp])}, "
        f"{host.cpu.model_name or 'unknown CPU'} x {host.cpu.online}",
    ]
    layout, cure = (
        finding.told("present", "absent") for finding in (host.kvm.role_layout, host.kvm.wp_cure)
    )
    lines.append(f"MMU role layout: {layout}; CR0.WP cure: {cure}")
    if run.clock != "insn" and host.tsc_unstable:
        lines.append(f"TSC: not to be trusted: {host.tsc_unstable}")
    if host.lab:
        lab = host.lab
        lines.append(
            f"lab: {lab.machine} on {lab.l0.name} ({lab.emulator.name} {lab.emulator.version}, CPU "
            f"{lab.emulator.cpu}), variant {lab.variant} of {lab.kernel}"
        )
        lines += levels.head(lab)
    elif host.nested:
        lines.append(
            f"nested: this kernel runs under a hypervisor ({host.hypervisor}), so every exit "
            "may cost more than on bare metal"
        )
    return lines


def _noisy(run: Run) -> list[str]:
    """Return one line per noisy case, or one for all where there are many."""
    noisy = [case for case in run.cases if case.noisy]
    if len(noisy) <= MOST_NOISY:
        return [f"noisy: {case.name}: {case.noisy}" for case in noisy]
    worst = max(noisy, key=lambda case: (case.per_op and stats.half_width(case.per_op)) or 0)
    measured = sum(1 for case in run.cases if case.samples)
    return [
        f"noisy: {len(noisy)} of {measured} cases, marked *: the machine was not quiet; widest: "
        f"{worst.name}: {worst.noisy}"
    ]


def _clock(run: Run) -> list[str]:
    """Return a line for each reason why the figures may be no time."""
    lines = []
    if run.clock == "ticks":
        lines.append("warning: KVM does not tell the TSC's frequency: figures are ticks, no time")
    if run.clock != "insn" and run.host.tsc_unstable:
        lines.append(
            f"warning: {run.host.tsc_unstable}: figures of other times or machines are not to be "
            "compared with these"
        )
    governor = run.host.cpu.governor
    if run.clock != "insn" and governor not in (None, "performance"):
        cpu = run.settings.cpu
        where = "" if cpu is None else f" of CPU {cpu}"
        lines.append(f"warning: the governor{where} is {governor}: figures follow the frequency")
    return lines


def remarks(run: Run) -> list[str]:
    """Return a line for everything that went other than planned."""
    lines = []
    for result in run.cases:
        for kind in ("incorrect", "failed"):
            reason = getattr(result, kind)
            if reason:
                lines.append(f"{kind}: {result.name}: {reason}")
    lines += [*_clock(run), *_noisy(run)]
    skipped = [(case.skipped, case.name) for case in run.cases if case.skipped]
    lines += by_reason("skipped", skipped)
    if run.finished is None:
        lines.append("cut short: the run was ended before all samples were taken")
    beside = max((case.disturbed.other_runs for case in run.cases), default=0)
    if beside:
        where = " on the same CPU" if any(c.disturbed.same_cpu for c in run.cases) else ""
        lines.append(f"not alone: other runs ({beside}) measured here at the same time{where}")
    uneven = pace.uneven(run)
    if uneven:
        lines.append(f"uneven: {uneven}")
    absent = [(reason, name) for case in run.cases for name, reason in case.absent.items()]
    unproved = [(r, n.removeprefix(PROOF_PREFIX)) for r, n in absent if _is_proof(n)]
    lines += by_reason("W^X not proved", unproved)
    return lines + by_reason("not counted", [(r, n) for r, n in absent if not _is_proof(n)])


def _is_proof(name: str) -> bool:
    return name.startswith(PROOF_PREFIX)


def _named(run: Run) -> list[str]:
    """Return one line per case whose exits or queued work were recorded by name."""
    lines = []
    for case in run.cases:
        for what, counts in (("exits", case.exit_reasons), ("work", case.work_items)):
            seen = [f"{name} {n:.2f}" for name, n in counts.items() if n >= SHOWN_FROM]
            if seen:
                lines.append(f"{what} of {case.name}: {', '.join(seen)}")
    return lines


def by_reason(what: str, found: Sequence[tuple[str, str]]) -> list[str]:
    """Return one line per reason, with every name that has it, in the order of appearance."""
    names: dict[str, dict[str, None]] = {}
    for reason, name in found:
        names.setdefault(reason, {})[name] = None
    return [f"{what}: {', '.join(given)}: {reason}" for reason, given in names.items()]


def brief_cost(result: CaseResult) -> str:
    """Format a case's cost with its interval's reach, e.g. `2,930 ±2.7%`."""
    if result.per_op is None:
        return "-"
    reach = stats.half_width(result.per_op)
    return figure(result.per_op.median) + (f" ±{reach:.1%}" if reach is not None else "")


def _texts(cells: Iterable[str]) -> list[Text]:
    return [plain(cell) for cell in cells]


def _counts(run: Run, shown: Sequence[CaseResult]) -> list[Column]:
    """Return a column for every counter that the table shows; the last ones go first."""
    return [
        Column(
            column.title,
            _texts(count(result.counters.get(name)) for result in shown),
            goes=GOES_COUNTS + column.position,
        )
        for name, column in counters.columns()
        if any(
            (c.counters.get(name) or 0) >= SHOWN_FROM
            or (column.always and c.counters.get(name) is not None)
            for c in run.cases
        )
    ]


def columns(run: Run) -> list[Column]:
    """Return the table of a run."""
    shown = [case for case in run.cases if case.skipped is None]
    unit = f"{UNITS[run.clock]}/op"
    late = GOES_DEFERRED if any(totals.material(r) for r in shown) else GOES_NONE_DEFERRED
    optional = [
        (any(r.deferred for r in run.cases), "deferred", deferred, late),
        (True, "net of empty", net_of_empty, GOES_NET),
        (run.clock == "tsc", "tsc/op", lambda r: figure(r.tsc.median) if r.tsc else "-", GOES_TSC),
    ]
    return [
        Column("case", _texts(r.name + (" *" if r.noisy else "") for r in shown), right=False),
        Column(
            f"{unit} [95 % interval]",
            _texts(with_interval(r.per_op) for r in shown),
            goes=GOES_INTERVAL,
            brief=Column(unit, _texts(map(brief_cost, shown))),
        ),
        *(
            Column(title, _texts(map(cell, shown)), goes=goes)
            for there, title, cell, goes in optional
            if there
        ),
        *_counts(run, shown),
        Column("class", _texts(str(r.class_ or "-") for r in shown), right=False),
    ]


def show_run(run: Run, out: Console, most: int | None = None) -> None:
    """Print a run: head, table, then a line for everything that went other than planned.

    `most` is how many columns there is room for, None: for all.
    """
    for line in head(run):
        if most is None:
            out.print(plain(line))
        else:
            fitting.say(line, out, most)
    fitting.show(columns(run), out, most)
    settings = run.settings
    fitting.say(
        f"median of {settings.samples_per_vm} samples in each of {settings.vms} fresh VMs or "
        f"more; interval over VMs; clock {run.clock}; counters per op",
        out,
        most,
    )
    lines = [INSTRUCTIONS] if run.clock == "insn" else []
    for line in (*lines, *remarks(run), *_named(run), *levels.lines(run)):
        fitting.say(line, out, most)
