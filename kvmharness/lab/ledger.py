"""A folder of runs, each under a name that stands for all that went into it.

So what is there is not measured again, whoever measured it and however that ended; what changes
anything has another name.  A job that failed leaves a note in place of its run.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import platform
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from kvmharness import __version__, cache, files
from kvmharness.analysis import repeated
from kvmharness.errors import LabLost, UsageError
from kvmharness.kernel import modules
from kvmharness.lab import capsule
from kvmharness.lab.capsule import Part
from kvmharness.lab.planning import LabPlan, Target
from kvmharness.model import note, runfile
from kvmharness.model.note import DIFFERING, NOTE, PART, RUN, Note, State
from kvmharness.model.run import Run

LOCK = ".lock"
# What `files` calls a file of ours that it has not finished.
SCRATCH = re.compile(r"\..+-[0-9a-f]{16}(\.differing\d*)?\.(json|note|part|explained)\.[0-9a-f]{8}")

Kept = Literal["new", "same", "differs", "noted"]


@dataclass(frozen=True)
class Answer:
    """What became of a job, as it travels: the run's bytes, or why there is none.

    A job that was lost may have a part of its run; `sha256` is of its bytes.  `job` is the name
    of what was measured, told by whoever measured it; `where` is that machine.
    """

    job: str
    state: State
    reason: str = ""
    run: bytes = b""
    sha256: str = ""
    console: str = ""
    where: str = ""


def _modules(target: Target, plan: LabPlan) -> dict[str, str]:
    """Return the sha256 of what is loaded for KVM; a kernel that has none for this vendor: {}."""
    try:
        loaded, _ = modules.prepare(target.kernel, target.parameters(), plan.kvm_modules)
    except LabLost:
        return {}
    return {module.name: cache.digest(path) for module, path in loaded}


def name_of(target: Target, plan: LabPlan, parts: Sequence[Part]) -> str:
    """Return the name of a job: its label, and a hash of all that its figures depend on.

    Raises UsageError for a kernel whose files cannot be read.
    """
    machine = target.machine
    facts = {
        "tool": __version__,
        "image": cache.digest(target.kernel.image),
        "modules": _modules(target, plan),
        "variant": [target.variant.name, *target.variant.command_line(machine.vendor)],
        "machine": [machine.name, machine.cpu, machine.emulator.name, machine.emulator.version()],
        "memory": machine.emulator.memory_mib,
        "options": machine.emulator.options,
        "cases": [case.name for case in plan.cases],
        "settings": msgspec.to_builtins(plan.settings[machine.clock]),
        "boot": target.boot,
        "capsule": capsule.digest(parts),
        # By the clock of instructions the machine around it is no matter.
        "host": None if machine.clock == "insn" else platform.node(),
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return f"{target.label}-{digest[:16]}"


class Ledger:
    """A folder of runs.  Several processes may fill one at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self) -> None:
        """Make the folder, and clear it of what a process that was killed had half written.

        Raises UsageError where nothing can be written there.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"write {self.folder}: {error.strerror}; name another folder"
            ) from None
        with self._locked():
            # Whoever writes holds the lock, so nobody is at these.
            for left in self.folder.iterdir():
                if SCRATCH.fullmatch(left.name):
                    left.unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            with cache.locked(self.folder / LOCK):
                yield
        except OSError as error:
            raise UsageError(
                f"write {self.folder}: {error.strerror}; name another folder"
            ) from None

    def run(self, job: str) -> Run | None:
        """Return a job's run, None where there is none that can be read."""
        with suppress(UsageError):
            return runfile.read(self.folder / f"{job}{RUN}")
        return None

    def note(self, job: str) -> Note | None:
        """Return the note of a job that failed, None where there is none that can be read."""
        return note.read(self.folder / f"{job}{NOTE}")

    def keep(self, answer: Answer, why: Note) -> tuple[Kept, list[str]]:
        """Write what became of a job; `why` is what to write where it has no run.

        A run whose figures are not those of the one that is there is kept beside it, and the
        differences are returned.  Raises UsageError where nothing can be written.
        """
        with self._locked():
            if answer.state == "done":
                return self._keep_run(answer)
            if self.run(answer.job) is None:
                files.write_whole(self.folder / f"{answer.job}{NOTE}", note.encode(why))
                if answer.run:
                    files.write_whole(self.folder / f"{answer.job}{PART}", answer.run)
            return "noted", []

    def _keep_run(self, answer: Answer) -> tuple[Kept, list[str]]:
        path = self.folder / f"{answer.job}{RUN}"
        old, new = self.run(answer.job), runfile.decode(answer.run, answer.job)
        if old is not None and old.clock == "insn":
            found = repeated.differences(old, new)
            if found:
                files.write_whole(self._free(answer.job), answer.run)
                return "differs", found
            return "same", []
        # What is no run keeps its content beside it, and so does a run by a clock of time.
        files.Output(path).write(answer.run)
        for beside in (NOTE, PART):
            path.with_name(f"{answer.job}{beside}").unlink(missing_ok=True)
        return "new", []

    def _free(self, job: str) -> Path:
        """Return the first name that is free for a run that differs from the job's."""
        names = (f"{job}{DIFFERING}{n or ''}{RUN}" for n in itertools.count())
        return next(path for name in names if not (path := self.folder / name).exists())
