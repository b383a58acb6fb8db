"""How often a comparison of this kernel with itself errs while the machine is busy.

For each load pairs of runs are taken and compared: `faster` or `slower` is a false alarm, and so
is exit code 1.  The loads are nothing, one and three spinners on the CPU that measures, a storm of
forks there, and a spinner on another CPU, which may share a core with it, that comes and goes.  The
goal is one false alarm in a hundred comparisons of a case, or fewer.

    python bench/busy.py [PAIRS [LOAD]...]      30 pairs of each load; LOAD is a row's name

The pairs follow each other under one load.  Each false alarm is printed with its ratio; busy.md in
the current folder is the table.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from kvmharness.analysis import compare, load

CASES = ("long64/empty", "long64/cr0_wp", "long64/cpuid")
SPIN = "while :; do :; done"
FORKS = "while :; do /bin/true; done"
# About as long as a run, so that one of a pair is hit more than the other.
COMES_AND_GOES = f"while :; do timeout 9 sh -c '{SPIN}'; sleep 9; done"
BESIDE = "beside, on and off"
LOADS: Mapping[str, tuple[str, ...]] = {
    "idle": (),
    "1 spinner": (SPIN,),
    "3 spinners": (SPIN,) * 3,
    "fork storm": (FORKS,) * 2,
    BESIDE: (COMES_AND_GOES,),
}
ALARMS = ("faster", "slower", "better", "worse", "incorrect")


@contextmanager
def loaded(scripts: tuple[str, ...], cpu: int) -> Iterator[None]:
    """Run shell scripts on a CPU meanwhile."""
    with ExitStack() as stack:
        for script in scripts:
            process = stack.enter_context(subprocess.Popen(["sh", "-c", script]))
            stack.callback(process.kill)
            os.sched_setaffinity(process.pid, {cpu})
        yield


def measure(output: Path, cpu: int) -> None:
    """Take a run into a file.  Its exit code is no matter: noise is what this is about."""
    command = [sys.executable, "-m", "kvmharness", "run", *CASES, "--quick", "-o", str(output)]
    command += ["--pin", str(cpu)]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)


def pair(folder: Path, cpu: int) -> compare.Comparison:
    """Compare two runs of this kernel."""
    paths = [folder / f"{name}.json" for name in ("A", "B")]
    for path in paths:
        measure(path, cpu)
    first, second = (
        compare.side(path.stem, [file.run for file in load.classified([path])]) for path in paths
    )
    return compare.compare(first, second)


def show_alarms(number: int, comparison: compare.Comparison) -> None:
    """Print what a pair was called that it is not."""
    for row in comparison.rows:
        if row.verdict in ALARMS:
            shown = f"{row.found.ratio:.4f} {row.found.ci95}" if row.found else row.said
            print(f"  pair {number}: {row.case} {row.verdict}: {shown}", flush=True)


def row(name: str, found: list[compare.Comparison]) -> str:
    """Return a load's row of the table."""
    verdicts = Counter(str(row.verdict) for comparison in found for row in comparison.rows)
    cases = sum(verdicts.values())
    alarms = sum(verdicts[alarm] for alarm in ALARMS)
    runs = sum(1 for comparison in found if comparison.exit_code == 1)
    return (
        f"| {name} | {cases} | {verdicts['same']} | {verdicts['unclear']} | {alarms} "
        f"({alarms / cases:.1%}) | {runs} of {len(found)} |"
    )


def main() -> None:
    """Print a row a load, and write the table."""
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    wanted = sys.argv[2:] or [*LOADS]
    cpus = sorted(os.sched_getaffinity(0))
    cpu = cpus[-1]
    lines = [
        "| load | cases compared | same | unclear | false alarms | runs with exit code 1 |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for name in wanted:
            with loaded(LOADS[name], cpus[0] if name == BESIDE else cpu):
                found = []
                for number in range(1, pairs + 1):
                    found.append(pair(Path(folder), cpu))
                    show_alarms(number, found[-1])
            lines.append(row(name, found))
            print(lines[-1], flush=True)
    Path("busy.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
