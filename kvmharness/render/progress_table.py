"""What a person reads of a guest's progress: each figure beside the rate of protected writes."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kvmharness.analysis.progress import Progress, Rate
from kvmharness.model.clocks import UNITS
from kvmharness.model.run import Run
from kvmharness.render import tables
from kvmharness.text import figure

MODEL = (
    "a model of KERNEXEC-like protection: long-mode code of the harness's own, no Linux, opens and "
    "closes the CR0.WP window once for each portion of work. A system call is SYSCALL and SYSRET "
    "alone, much less than a kernel's: read each figure by the cost of the work beside it."
)
WORK = {"syscall": "system call", "fault": "page fault"}


def _portion(rate: Rate) -> str:
    plural = "s" * (rate.pieces != 1)
    pages = f", {rate.pages} pages touched" if rate.pages else ""
    return f"{rate.pieces:,} {WORK[rate.op]}{plural}{pages}"


def percent(share: float) -> str:
    """Format a share of 1 in percent, with three significant digits."""
    return f"{100 * share:.3g} %"


def _share(row: Progress) -> str:
    edges = "" if row.ci95 is None else f" [{percent(row.ci95[0])}, {percent(row.ci95[1])}]"
    return percent(row.share) + edges


def show(run: Run, rows: Sequence[Progress], lacking: Sequence[str], out: Console) -> None:
    """Print the table of a run, which partners of its cases it lacks, and what went wrong."""
    for line in tables.head(run):
        out.print(tables.plain(line))
    unit = UNITS[run.clock]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("one protected write (two toggles) for", no_wrap=True)
    for title in (f"work, {unit}", f"with the write, {unit}", "progress [95 % interval]"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(_portion(row.rate), figure(row.without), figure(row.with_), _share(row))
    out.print(table)
    out.print(Text("progress: the work that is done with the writes, of what is done without them"))
    out.print(Text(MODEL), soft_wrap=True)
    if run.clock == "insn":
        out.print(Text(tables.INSTRUCTIONS), soft_wrap=True)
    lines = [f"not measured, so without a figure: {', '.join(lacking)}"] if lacking else []
    for line in (*lines, *tables.remarks(run)):
        out.print(tables.plain(line), soft_wrap=True)
