"""Run the KVM tests inside a kernel booted in a lab: what `pytest --lab KERNEL` does."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

from kvmharness.errors import LabLost
from kvmharness.kernel import modules, resolve, variants
from kvmharness.lab import boot, machines, matrix
from tests.support.kernels import newest

ROOT = Path(__file__).parents[2]
# Importing the tests through 9p on an emulated CPU takes minutes, in which nothing is said.
SILENT_S = 900.0
# 6.1, say: the newest that is packaged, since mirrors drop old ones.
SERIES = re.compile(r"\d+(\.\d+)?")
OPTIONS = "-v -m kvm -p no:cacheprovider --basetemp=/run/tests -o timeout=900"


def _command(kernel: resolve.Kernel, folder: Path, kind: machines.MachineKind, only: str) -> str:
    """Return the shell command that loads KVM, runs the tests and leaves their exit status."""
    wanted = variants.parse("default").parameters(kind.vendor)
    loaded, _ = modules.prepare(kernel, wanted, None, folder)
    load = [f"insmod /{boot.JOB_AT}/{module.file}" for module in loaded]
    python = shlex.quote(f"/{boot.HOST}{sys.executable}")
    chosen = f"-k {shlex.quote(only)}" if only else ""
    return "; ".join(
        [
            *load,
            f"cd {shlex.quote(f'/{boot.HOST}{ROOT}')}",
            "export TMPDIR=/run PYTHONDONTWRITEBYTECODE=1 KVMHARNESS_REQUIRE_KVM=1",
            f"{python} -m pytest {OPTIONS} {chosen} 2>&1",
            f"echo $? > /{boot.JOB_AT}/status",
        ]
    )


def run_tests(named: str, only: str) -> int:
    """Boot, run the tests marked kvm (those that `only` selects), return pytest's status."""
    kind = machines.choose(None)
    kernel = resolve.resolve(newest(named) if SERIES.fullmatch(named) else named)
    with matrix.Workshop() as workshop:
        folder = workshop.job()
        job = boot.Boot(
            kernel, kind, folder, _command(kernel, folder, kind, only), silent_s=SILENT_S
        )
        try:
            boot.Runner().run(job, lambda line: print(f"{named}: {line}", flush=True))
        except LabLost as error:
            print(f"{error.console}\nlost: {error}")
            return 4
        console = (folder / boot.CONSOLE).read_text(errors="replace")
        print(console[max(console.find("=== test session") - 20, 0) :])
        status = folder / "status"
        if not status.is_file():
            print("lost: the machine ended before the tests did", file=sys.stderr)
            return 4
        return int(status.read_text())
