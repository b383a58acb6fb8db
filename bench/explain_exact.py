"""Is `explain` exact?  Every case of the suite full, in every kind of kernel, in one table.

Boots each kernel with the trace on, follows one sample of every case, and holds the sum over
functions against the sample's own figure.  It ends with 1 where one of them differs, or where a
kernel gave nothing to hold.

    python bench/explain_exact.py [FILE]     the table, Markdown; default: docs/explain/exact.md

What was found is kept in the cache as it comes: a command that was stopped goes on where it was, as
long as neither what is measured nor what follows it has changed.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from kvmharness import analysis, cache
from kvmharness.analysis import follow, symbols, tracefile
from kvmharness.analysis.attribution import Attribution
from kvmharness.errors import HarnessError
from kvmharness.files import write_whole
from kvmharness.kernel import debian, resolve, variants
from kvmharness.lab import capsule, machines, matrix, trace
from kvmharness.lab.boot import LabMachine
from kvmharness.lab.planning import LabPlan, Result, Target
from kvmharness.lab.workshop import Workshop
from kvmharness.measure.settings import for_lab
from kvmharness.model import suites
from kvmharness.model.cases import Case

WANTED = (
    ("5.10", "tdp"),
    ("5.10", "legacy"),
    ("6.1", "tdp"),
    ("6.1", "shadow"),
    ("6.12", "tdp"),
    ("7", "tdp"),
    # Last: what hangs there takes long.
    ("5.10", "shadow"),
)
VMS, SAMPLES, OPS = 1, 1, 10
# A boot: a lab that warms up all of them says nothing for too long on a busy machine.
CASES = 25


class Cell(msgspec.Struct, frozen=True):
    """What became of a case: its figure of all ops and by how much the sum is off, or why not.

    `skipped`: the case cannot run there.
    """

    figure: int = 0
    off: int = 0
    skipped: str | None = None
    lost: str | None = None

    @property
    def followed(self) -> bool:
        """Whether there is a figure."""
        return not (self.skipped or self.lost)

    def __str__(self) -> str:
        if not self.followed:
            return "-" if self.skipped else "lost"
        per_op = f"{self.figure / OPS:,.1f}"
        return f"{per_op} **{self.off:+,}**" if self.off else per_op


Column = dict[str, Cell]


def newest(series: str) -> str:
    """Return the newest package of a series: of those fetched, else of those on offer."""
    prefix = f"linux-image-{series}."
    names = [*filter(debian.is_plain, debian.fetched())]
    found = [name for name in names if name.startswith(prefix)]
    found = found or [offer.name for offer in debian.offers() if offer.name.startswith(prefix)]
    if not found:
        sys.exit(f"explain_exact: no package of {series} to be had")
    return max(found, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])


def followed(result: Result, cases: Sequence[Case]) -> Column:
    """Return a cell a case that was booted with others."""
    if result.run is None or result.traced is None:
        why = str(result.lost or result.skipped or "the machine left no trace")
        return {case.name: Cell(lost=why) for case in cases}
    known = symbols.parse(result.traced.symbols.read_text())
    found = tracefile.read(result.traced.trace)
    cells = {}
    for place, case in enumerate(result.run.cases):
        if not case.samples:
            broken = case.failed or case.incorrect
            cells[case.name] = Cell(skipped=None if broken else case.skipped, lost=broken)
            continue
        (sample,) = follow.samples(result.run, place, found)
        attribution = Attribution(found.blocks, known)
        off = attribution.add(sample.stretch.words) - sample.figure
        attribution.settle()
        off = off or sum(node.own for node in attribution.top.walk()) - sample.figure
        cells[case.name] = Cell(sample.figure, off)
    return cells


@dataclass(frozen=True)
class Kept:
    """A column as far as it has come, in a file."""

    path: Path

    @classmethod
    def of(cls, label: str) -> Kept:
        """Return that of a kernel, by what measures and what follows."""
        digest = hashlib.sha256(capsule.digest([capsule.base()]).encode())
        for path in [trace.plugin(), *sorted(Path(analysis.__path__[0]).glob("*.py"))]:
            digest.update(path.read_bytes())
        return cls(cache.folder("exact", digest.hexdigest()[:16]) / f"{label}.json")

    def read(self) -> Column:
        """Return what is known."""
        if not self.path.is_file():
            return {}
        return msgspec.json.decode(self.path.read_bytes(), type=Column)

    def add(self, cells: Column) -> None:
        """Keep more."""
        write_whole(self.path, msgspec.json.encode(self.read() | cells))


def boot(target: Target, cases: Sequence[Case], folder: Path) -> Column:
    """Boot a kernel, and follow these cases in it."""
    print(f"{target.label}: {cases[0].name} and {len(cases) - 1} more", file=sys.stderr, flush=True)
    settings = {target.machine.clock: for_lab(target.machine.clock, VMS, SAMPLES, OPS)}
    plan = LabPlan(cases, settings, "full", None, None, folder, count=False)
    (result,) = matrix.measure([target], plan, 1, lambda _target, _line: None)
    cells = followed(result, cases)
    for file in folder.iterdir():
        file.unlink()
    return cells


def fill(kept: Kept, target: Target, cases: Sequence[Case], folder: Path) -> Column:
    """Follow what is not known yet; each case by itself where one of them took the kernel along."""
    missing = [case for case in cases if case.name not in kept.read()]
    for first in range(0, len(missing), CASES):
        some = missing[first : first + CASES]
        cells = boot(target, some, folder)
        if len(some) > 1 and all(cell.lost for cell in cells.values()):
            for case in some:
                kept.add(boot(target, [case], folder))
        else:
            kept.add(cells)
    return kept.read()


def table(columns: Mapping[str, Column], names: Sequence[str]) -> str:
    """Return the table in Markdown."""
    held = [cell for column in columns.values() for cell in column.values() if cell.followed]
    wrong = sum(cell.off != 0 for cell in held)
    lines = [
        "# Exact or not: every case of the suite `full`",
        "",
        f"Made by `make explain`: {len(held)} samples of {OPS} ops followed, "
        f"{len(held) - wrong} of them with difference 0 between the sum over functions and the "
        "sample's own figure. In instructions per op, the loop and the stamps included; `-`: the "
        "case cannot run there. A difference would stand in bold behind its figure.",
        "",
        f"| case | {' | '.join(columns)} |",
        f"|---|{'---:|' * len(columns)}",
    ]
    for name in names:
        lines.append(f"| {name} | {' | '.join(str(c.get(name, '')) for c in columns.values())} |")
    lost = [
        f"- `{name}` on {label}: {cell.lost}"
        for label, column in columns.items()
        for name, cell in column.items()
        if cell.lost
    ]
    lines += ["", "Lost:", "", *lost] if lost else []
    return "\n".join(lines) + "\n"


def target(series: str, variant: str, machine: LabMachine) -> Target:
    """Return a kernel to boot."""
    return Target(resolve.resolve(newest(series)), variants.parse(variant), machine)


def main() -> None:
    """Boot, follow, write the table."""
    output = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/explain/exact.md")
    machine = trace.tracing(machines.TCG_SVM, SAMPLES)
    cases = suites.load("full").cases
    columns: dict[str, Column] = {}
    output.parent.mkdir(parents=True, exist_ok=True)
    with Workshop() as workshop:
        folder = workshop.job()
        for one in [target(series, variant, machine) for series, variant in WANTED]:
            columns[one.label] = fill(Kept.of(one.label), one, cases, folder)
    text = table(columns, [case.name for case in cases])
    write_whole(output, text.encode())
    print(text)
    exact = all(not cell.off for column in columns.values() for cell in column.values())
    whole = all(any(cell.followed for cell in column.values()) for column in columns.values())
    sys.exit(0 if exact and whole else 1)


if __name__ == "__main__":
    try:
        main()
    except HarnessError as error:
        sys.exit(f"explain_exact: {error}")
