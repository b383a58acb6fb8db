"""The commands that take a run again: from what its file says of how it was taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from kvmharness.analysis.load import RunFile
from kvmharness.errors import UsageError
from kvmharness.model import suites
from kvmharness.model.cases import select
from kvmharness.model.clocks import CLOCKS, QUICK, USUAL, Defaults
from kvmharness.model.host import Lab
from kvmharness.model.run import Run


def _settings(run: Run, usual: Defaults) -> list[str]:
    """Return the options for what was measured otherwise than `usual`."""
    settings = run.settings
    usual_each = (usual.samples or 0) // (usual.vms or 1)
    words = []
    if (settings.vms, settings.samples_per_vm) != (usual.vms, usual_each):
        words += ["--vms", str(settings.vms)]
        words += ["--samples", str(settings.vms * settings.samples_per_vm)]
    if settings.iterations not in (None, usual.iterations):
        words += ["--iterations", str(settings.iterations)]
    return words


def _cases(run: Run, option: str) -> list[str]:
    """Return the words that choose the run's cases; `option` stands before each that is named."""
    names = [case.name for case in run.cases]
    suite: list[str] | None = []
    if run.suite:
        try:
            suite = [case.name for case in suites.load(run.suite).cases]
        except UsageError:  # a file that is not here: all that is known is what was measured
            suite = None
    chosen = ["--suite", run.suite] if run.suite else []
    if suite == names or (not run.suite and names == [case.name for case in select([])]):
        return chosen
    named = [word for name in names for word in ([option, name] if option else [name])]
    return named if suite is None else [*chosen, *named]


def _lab(run: Run, lab: Lab) -> list[str]:
    # With two levels the kernel that was measured is the inner one.
    outer = lab.below.lab if lab.below and lab.below.lab else lab
    words = ["kvmharness", "lab", outer.kernel, "--variant", outer.variant]
    if outer is not lab:
        words += ["--nested", lab.kernel, "--nested-variant", lab.variant]
    words += ["--machine", outer.machine, *_cases(run, "--case")]
    return [*words, *_settings(run, CLOCKS[run.clock].lab)]


def _command(run: Run) -> list[str]:
    if run.host.lab:
        return _lab(run, run.host.lab)
    quick = (QUICK.vms, run.settings.samples_per_vm * run.settings.vms)
    if (run.settings.vms, QUICK.samples) == quick and run.settings.iterations is None:
        return ["kvmharness", "run", *_cases(run, ""), "--quick"]
    return ["kvmharness", "run", *_cases(run, ""), *_settings(run, USUAL)]


class Command(NamedTuple):
    """What to type, on which machine, and the file or folder that it leaves."""

    where: str
    words: list[str]
    left: str


def commands(files: Sequence[RunFile]) -> list[Command]:
    """Return what to type to take the runs again; boots of one kernel are one command."""
    boots: dict[tuple[str, ...], list[RunFile]] = {}
    found: list[Command] = []
    for file in files:
        words, host = _command(file.run), file.run.host
        if host.lab:
            boots.setdefault(tuple(words), []).append(file)
        else:
            where, left = f"on {host.name}, Linux {host.kernel.release}", f"{file.name}.json"
            found.append(Command(where, [*words, "-o", left], left))
    for given, same in boots.items():
        most = max(file.run.host.lab.boot for file in same if file.run.host.lab)
        several = ["--boots", str(most)] if most > 1 else []
        left = same[0].name
        found.append(Command("on any machine", [*given, *several, "-o", left], left))
    return found
