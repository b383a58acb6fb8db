"""What a person reads: the host's head line and the table of cases."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kvmharness.results import CaseResult, Host, Interval, Run

# The counters that say most about a toggle; a column appears where any case has one.
COLUMNS = (
    ("kvm.exits", "exits"),
    ("kvm.io_exits", "io exits"),
    ("kvm.insn_emulation", "emulated"),
    ("kvm.pf_fixed", "pf fixed"),
    ("kvm.pf_taken", "pf taken"),
    ("kvm.tlb_flush", "tlb flush"),
)
# Below this a count per op is the doorbells' own share or a timer tick, not the op's.
SHOWN_FROM = 0.005
PIPE_WIDTH = 140


def console() -> Console:
    """Return a console for stdout: the terminal's width, or PIPE_WIDTH in a pipe."""
    terminal = Console(highlight=False)
    return terminal if terminal.is_terminal else Console(highlight=False, width=PIPE_WIDTH)


def figure(value: float) -> str:
    """Format a figure to four significant digits, with thousands separated."""
    rounded = float(f"{value:.4g}")
    return f"{value:,.0f}" if abs(rounded) >= 1000 else f"{rounded:g}"


def _with_interval(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    if interval.ci95 is None:
        return figure(interval.median)
    lo, hi = (figure(edge) for edge in interval.ci95)
    return f"{figure(interval.median)} [{lo}, {hi}]"


def _net(result: CaseResult) -> str:
    net = result.per_op.net if result.per_op else None
    if net is None:
        return "-"
    return "unclear" if net.unclear else _with_interval(net)


def _counter(result: CaseResult, name: str) -> str:
    value = result.counters.get(name)
    if value is None:
        return "-"
    return f"{value:.2f}" if value >= SHOWN_FROM else "0"


def head(host: Host) -> Sequence[str]:
    """Return the lines above the table: host, kernel, KVM, and whether it is nested."""
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
    if host.nested:
        lines.append(
            f"nested: this kernel runs under a hypervisor ({host.hypervisor}), so every exit "
            "may cost more than on bare metal"
        )
    return lines


def _remarks(run: Run) -> list[str]:
    remarks = []
    for result in run.cases:
        for kind in ("failed", "skipped", "noisy"):
            reason = getattr(result, kind)
            if reason:
                remarks.append(f"{kind}: {result.name}: {reason}")
    absent = {f"{name} not counted: {why}" for c in run.cases for name, why in c.absent.items()}
    if run.finished is None:
        remarks.append("cut short: the run was ended before all samples were taken")
    return remarks + sorted(absent)


def show(run: Run, out: Console) -> None:
    """Print a run: head, table, then a line for everything that went other than planned."""
    for line in head(run.host):
        out.print(Text(line))
    columns = [
        (name, title)
        for name, title in COLUMNS
        if any((c.counters.get(name) or 0) >= SHOWN_FROM for c in run.cases)
    ]
    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=False)
    table.add_column("case", no_wrap=True)
    unit = next((c.unit for c in run.cases), "ns")
    for title in (f"{unit}/op [95 % interval]", "net of empty", "tsc/op", *(t for _, t in columns)):
        table.add_column(title, justify="right")
    for result in run.cases:
        tsc = figure(result.tsc.median) if result.tsc else "-"
        counters = [_counter(result, name) for name, _ in columns]
        mark = " *" if result.noisy else ""
        table.add_row(
            Text(result.name + mark), _with_interval(result.per_op), _net(result), tsc, *counters
        )
    out.print(table)
    settings = run.settings
    out.print(
        Text(
            f"median of {settings.samples_per_vm} samples in each of {settings.vms} fresh VMs or "
            f"more; interval over VMs; clock {run.clock}; counters per op"
        )
    )
    for remark in _remarks(run):
        out.print(Text(remark))
