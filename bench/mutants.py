"""KVMs with one planted change each: does the tool say of them what is true?

Builds each mutant of bench/mutants.toml, measures it in the lab in the same kernel as the KVM
that was not changed, and holds what `compare` says against what was planted.

    python bench/mutants.py [FOLDER [NAME...]]     run files go there; default: mutants, all of them

Exit code 1 where the tool is wrong of one.  mutants.md in the folder is the table.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import kvm_builds
import msgspec
from kvm_builds import Edit

from kvmharness.analysis import compare, load
from kvmharness.errors import HarnessError
from kvmharness.model.counters import YES
from kvmharness.model.run import CaseResult
from kvmharness.render import compare_table

TABLE = Path(__file__).with_suffix(".toml")
OPS = ("empty", "cr0_wp", "cr4_smep", "cpuid")
BASE, PLANTED = "unchanged", "planted"
ANY = "*"


class Expected(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the tool must say of a case: see the head of bench/mutants.toml."""

    verdict: tuple[str, ...] = ("same",)
    class_: str = msgspec.field(name="class", default=".*")
    says: str = ""
    not_zero: tuple[str, ...] = ()


class Mutant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row of the table."""

    name: str
    kind: str
    planted: str
    edit: tuple[Edit, ...]
    variants: tuple[str, ...] = ("tdp",)
    expect: dict[str, dict[str, Expected]] = {}

    def expected(self, variant: str, case: str) -> Expected:
        """Return what must be said of a case; `same` where the table has nothing."""
        cases = self.expect.get(variant, {})
        return cases.get(case) or cases.get(ANY) or Expected()


class Verdict(NamedTuple):
    """A mutant in a variant: what the tool said, and what was wrong with that (nothing: right)."""

    mutant: Mutant
    variant: str
    said: str
    wrong: Sequence[str]


def read_table(table: Path = TABLE) -> list[Mutant]:
    """Read the mutants.  Raises msgspec.ValidationError where a row is not one."""
    rows = tomllib.loads(table.read_text())["mutant"]
    for row in rows:
        row["edit"] = [[edit[name] for name in Edit._fields] for edit in row["edit"]]
    return msgspec.convert(rows, list[Mutant])


def measure(modules: Path, variant: str, output: Path) -> Path:
    """Boot the kernel with these modules and return the run's file, which may not be there."""
    lab = [sys.executable, "-m", "kvmharness", "lab", kvm_builds.KERNEL]
    cases = [f"--case=long64/{op}" for op in OPS]
    options = ["--variant", variant, "--kvm-modules", str(modules), "-o", str(output)]
    output.mkdir(parents=True, exist_ok=True)
    with (output / f"{variant}.log").open("w") as log:
        command = [*lab, *cases, *options]
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
    return output / f"{kvm_builds.RELEASE}-{variant}.json"


def _wrong_counts(expected: Expected, result: CaseResult) -> Iterator[str]:
    for name in expected.not_zero:
        value = result.counters.get(name)
        if value is not None and value < YES:
            yield f"{result.name}: {name} is {value:g}"


def _side(name: str, path: Path) -> compare.Side:
    return compare.side(name, [load.one(path).run])


def judge(mutant: Mutant, variant: str, base: Path, new: Path) -> Verdict:
    """Compare two run files, and hold what is said against what was planted."""
    lost = [str(path) for path in (base, new) if not path.is_file()]
    if lost:
        return Verdict(mutant, variant, "nothing", [f"no run file {' nor '.join(lost)}"])
    old, young = _side(BASE, base), _side(PLANTED, new)
    found = compare.compare(old, young)
    sentence = compare_table.sentence(found)
    by_name = {result.name: result for result in young.runs[0].cases}
    wrong = []
    for row in found.rows:
        expected, result = mutant.expected(variant, row.case), by_name[row.case]
        if row.verdict not in expected.verdict:
            wanted = " or ".join(expected.verdict)
            wrong.append(f"{row.case}: {row.verdict} ({row.said}) instead of {wanted}")
        elif "incorrect" not in expected.verdict:
            if not re.fullmatch(expected.class_, str(result.class_ or "none")):
                wrong.append(f"{row.case}: {result.class_} instead of {expected.class_}")
            if not re.search(expected.says, f"{sentence}\n{row.said}"):
                wrong.append(f"{row.case}: nothing of '{expected.says}'")
            wrong += _wrong_counts(expected, result)
    if len(found.rows) != len(OPS):
        wrong.append(f"{len(found.rows)} of {len(OPS)} cases compared")
    return Verdict(mutant, variant, f"{sentence} (exit code {found.exit_code})", wrong)


def table(verdicts: Sequence[Verdict]) -> str:
    """Return the verdicts as a table in Markdown."""
    lines = ["| mutant | planted | variant | the tool says | right |", "|---|---|---|---|---|"]
    for mutant, variant, said, wrong in verdicts:
        right = f"no: {'; '.join(wrong)}" if wrong else "yes"
        lines.append(f"| {mutant.name} | {mutant.planted} | {variant} | {said} | {right} |")
    return "\n".join(lines) + "\n"


def _chosen(names: Sequence[str]) -> list[Mutant]:
    mutants = {mutant.name: mutant for mutant in read_table()}
    unknown = [name for name in names if name not in mutants]
    if unknown:
        sys.exit(f"mutants: no {', '.join(unknown)}; there are {', '.join(mutants)}")
    return [mutants[name] for name in names or mutants]


def run(mutants: Sequence[Mutant], output: Path) -> Iterator[Verdict]:
    """Build, measure and judge; every variant's base is measured once."""
    builds: Mapping[str, Path] = {BASE: kvm_builds.build(BASE)}
    for mutant in mutants:
        builds = {**builds, mutant.name: kvm_builds.build(mutant.name, mutant.edit)}
    variants = {variant: None for mutant in mutants for variant in mutant.variants}
    wanted = [(BASE, variant) for variant in variants]
    wanted += [(mutant.name, variant) for mutant in mutants for variant in mutant.variants]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        runs = {
            (name, variant): pool.submit(measure, builds[name], variant, output / name)
            for name, variant in wanted
        }
        for mutant in mutants:
            for variant in mutant.variants:
                base, new = (runs[name, variant].result() for name in (BASE, mutant.name))
                yield judge(mutant, variant, base, new)


def main() -> None:
    """Judge the mutants that are named, else all."""
    output = Path(sys.argv[1] if len(sys.argv) > 1 else "mutants")
    verdicts = []
    for verdict in run(_chosen(sys.argv[2:]), output):
        verdicts.append(verdict)
        mark = "wrong" if verdict.wrong else "right"
        print(f"{mark}  {verdict.mutant.name} ({verdict.variant}): {verdict.said}", flush=True)
        for line in verdict.wrong:
            print(f"       {line}", flush=True)
    (output / "mutants.md").write_text(table(verdicts))
    right = sum(not verdict.wrong for verdict in verdicts)
    print(f"{right} of {len(verdicts)} right")
    sys.exit(0 if right == len(verdicts) else 1)


if __name__ == "__main__":
    try:
        main()
    except HarnessError as error:
        sys.exit(f"mutants: {error}")
