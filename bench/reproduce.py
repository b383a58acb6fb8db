"""Reproduce what was published of CR0.WP toggles, on Debian's kernels in the lab.

Three kernels (unified role; split role and cured, twice), each with the TDP MMU, the legacy MMU
and shadow paging, on an emulated AMD and an emulated Intel machine; a table a vendor beside the
published figures.

    python bench/reproduce.py [FOLDER]     run files go there; default: reproduce
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from rich.table import Table
from rich.text import Text

from kvmharness.analysis import load
from kvmharness.model.run import CaseResult, Run
from kvmharness.render import tables
from kvmharness.text import figure

KERNELS = (
    "linux-image-5.10.0-30-amd64",
    "linux-image-6.1.0-56-amd64",
    "linux-image-6.12.43+deb12-amd64",
)
VARIANTS = ("legacy", "tdp", "shadow")
MACHINES = {"tcg-svm": "AMD: QEMU's software SVM", "bochs-vmx": "Intel: Bochs' VMX"}

# Where the figures stand: Message-Id, and its table.  A toggle_cr0_wp of kvm-unit-tests'
# vmexit is two writes; ssdd is a benchmark of rt-tests in a guest with KERNEXEC.
PUBLISHED = (
    (
        "20220209170020.1775368-13-pbonzini@redhat.com",
        "vmexit.flat, cycles (two writes)",
        (("before", "5,096", "46,754", "5,150"), ("after", "4,875", "4,879", "5,006")),
    ),
    (
        "20230201194604.11135-1-minipli@grsecurity.net",
        "ssdd 10 50000 in an L1, seconds",
        (
            ("kvm.git/queue", "11.55", "13.91", "75.2"),
            ("+ patches 1-3", "7.32", "7.31", "74.6"),
            ("+ patches 4-6", "4.89", "4.89", "73.4"),
        ),
    ),
)


def measure(output: Path) -> int:
    """Boot and measure all of them; return the lab's exit status."""
    command = [sys.executable, "-m", "kvmharness", "lab", *KERNELS, "--suite", "roles"]
    command += ["--machine", ",".join(MACHINES), "-o", str(output)]
    variants = [f"--variant={variant}" for variant in VARIANTS]
    # The single tables are in the run files.
    return subprocess.run([*command, *variants], stdout=subprocess.DEVNULL, check=False).returncode


def case(run: Run, name: str) -> CaseResult | None:
    return next((case for case in run.cases if case.name == name), None)


def cost(run: Run, name: str) -> float | None:
    found = case(run, name)
    return found.per_op.median if found and found.per_op else None


def shown(value: float | None) -> str:
    return "-" if value is None else figure(value)


def slope(run: Run) -> str:
    """Return what a mapped page adds to a toggle, net of touching it."""
    found = next((s for s in run.slopes if (s.case, s.param) == ("long64/cr0_wp", "pages")), None)
    return shown(found.net_slope if found else None)


def row(run: Run, legacy: Run) -> list[Text]:
    toggle, base = cost(run, "long64/cr0_wp"), cost(legacy, "long64/cr0_wp")
    of_legacy = f"{toggle / base:.2f}" if toggle and base else "-"
    found = case(run, "long64/cr0_wp")
    variant = run.host.lab.variant if run.host.lab else "-"
    figures = [shown(cost(run, f"long64/{op}")) for op in ("cr4_smep", "cpuid", "empty")]
    cells = [
        run.host.kernel.release,
        str(run.host.kvm.role_layout.value),
        variant,
        shown(toggle),
        of_legacy,
        str((found and found.class_) or "-"),
        slope(run),
        *figures,
    ]
    return [Text(cell) for cell in cells]


def table(runs: dict[tuple[str, str], Run]) -> Table:
    """Return the table of all runs, by kernel and variant."""
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("kernel", "role", "variant"):
        drawn.add_column(title, no_wrap=True)
    drawn.add_column("cr0_wp", justify="right")
    drawn.add_column("of legacy", justify="right")
    drawn.add_column("class", no_wrap=True)
    for title in ("per page", "cr4_smep", "cpuid", "empty"):
        drawn.add_column(title, justify="right")
    for (release, _), run in runs.items():
        drawn.add_row(*row(run, runs[release, "legacy"]))
    return drawn


def published() -> list[str]:
    lines = []
    for message, what, rows in PUBLISHED:
        lines.append(f"published, <{message}>: {what}")
        lines.append(f"  {'':14} {'legacy':>8} {'TDP':>8} {'shadow':>8}")
        for name, *values in rows:
            lines.append(f"  {name:14} " + " ".join(f"{value:>8}" for value in values))
    return lines


def main() -> None:
    """Measure, then print the table."""
    output = Path(sys.argv[1] if len(sys.argv) > 1 else "reproduce")
    begin = time.monotonic()
    status = measure(output)
    if status:
        sys.exit(status)
    out = tables.console()
    for machine, title in MACHINES.items():
        runs = {
            (release, variant): load.one(output / f"{release}-{variant}-{machine}.json").run
            for release in (name.removeprefix("linux-image-") for name in KERNELS)
            for variant in VARIANTS
        }
        out.print(Text(f"{title}: instructions per op, default mitigations"))
        out.print(table(runs))
    out.print(Text(tables.INSTRUCTIONS), soft_wrap=True)
    for line in published():
        out.print(Text(line))
    out.print(Text(f"run files: {output}; {time.monotonic() - begin:.0f} s"))


if __name__ == "__main__":
    main()
