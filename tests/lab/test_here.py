"""Two levels on this machine: every step but L1's own, which no KVM here can nest.

L1 is a stub that repeats what a real one said: its run and its outcome.  That a real one runs by
the same path shows in test_nested.py, where this machine is a lab's L0.
"""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from kvmharness.kernel import variants
from kvmharness.kernel.resolve import Kernel
from kvmharness.lab import capsule, here, machines, packing, vmm
from kvmharness.lab.job import OUTCOME, RUN, JobOutcome
from kvmharness.lab.job import Inner as InnerJob
from kvmharness.lab.packing import Inside, Measured
from kvmharness.lab.planning import LabPlan
from kvmharness.lab.wire import Sender
from kvmharness.measure.settings import for_lab
from kvmharness.model import runfile
from kvmharness.model.cases import select
from kvmharness.render import levels
from tests.support.pvh import pvh_kernel
from tests.support.samples import made_up_run

__all__ = ["pvh_kernel"]

Call = Callable[..., "subprocess.CompletedProcess[str]"]
Measure = Callable[..., here.Ended]

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(120)]


@pytest.fixture
def measure(pvh_kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Measure:
    """Have the stub say `outcome` behind a run, or, with a command line, do as that says."""

    def run(outcome: JobOutcome, command_line: str = "r", with_run: bool = True) -> here.Ended:
        said = io.BytesIO()
        sender = Sender(said)
        sender.say("measuring")
        if with_run:
            sender.send(RUN, runfile.encode(made_up_run()))
        sender.send(OUTCOME, msgspec.json.encode(outcome))
        root = tmp_path / "root"
        root.write_bytes(said.getvalue())

        def inside(*_: object) -> Inside:
            linux, files = vmm.pack(pvh_kernel.image, [root], command_line, 32)
            return Inside(InnerJob(linux, 3.0), files, {"kvm": "0"})

        monkeypatch.setattr(packing, "inside", inside)
        monkeypatch.setattr(capsule, "base", lambda: None)
        monkeypatch.setattr(capsule, "perf", lambda: None)
        monkeypatch.setattr(capsule, "digest", lambda parts: None)
        plan = LabPlan(select(["long64/cr0_wp"]), {"tsc": for_lab("tsc")}, None, None, None)
        measured = Measured(pvh_kernel, variants.parse("default"), "kvm_amd", "tsc")
        return here.measure(measured, plan, tmp_path, lambda line: None)

    return run


def test_what_l1_measured_comes_back_with_both_levels(measure: Measure) -> None:
    ended = measure(JobOutcome("done"))
    assert ended.lost is None
    assert ended.run is not None
    assert ended.run.cases[0].per_op is not None
    lab = ended.run.host.lab
    assert lab is not None
    assert (lab.machine, lab.emulator.name, lab.kernel) == ("nested", "kvmharness", "a kernel")
    assert lab.below is not None
    assert lab.below.lab is None
    assert levels.head(lab) == [
        f"two levels: this is L1; L0 is this machine's Linux {lab.below.kernel.release}"
    ]


@pytest.mark.parametrize(
    ("state", "command_line", "said"),
    [
        ("lost", "r", "a-kernel: L1: kvm_amd: insmod: made up"),
        ("done", "h", "a-kernel: L1: guest: wrote nothing for 3 s"),
        ("done", "p", "a-kernel: L1: it restarted while booting"),
        ("done", "off", "a-kernel: L1: it turned itself off while booting"),
    ],
)
def test_each_bad_end_is_told_with_its_level(
    measure: Measure, state: str, command_line: str, said: str
) -> None:
    reason = "kvm_amd: insmod: made up" if state == "lost" else None
    outcome = msgspec.convert({"state": state, "reason": reason}, JobOutcome)
    ended = measure(outcome, command_line, with_run=False)
    assert ended.run is None
    assert str(ended.lost).startswith(said)


def test_without_nesting_it_is_a_usage_error(kvmharness: Call) -> None:
    if machines.nested_vendor():
        pytest.skip("this machine nests")
    done = kvmharness("nested", "linux-image-6.1.0-56-amd64")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "kvmharness: nested: no kvm_intel or kvm_amd here with nested=1; use `kvmharness lab L0 "
        "--nested linux-image-6.1.0-56-amd64`\n"
    )
