"""Two levels on real kernels: what an L2's toggle costs, and each bad end told with its level."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Callable

import pytest

from kvmharness.errors import UsageError
from kvmharness.kernel import resolve, variants
from kvmharness.kernel.variants import Variant
from kvmharness.lab import matrix, planning
from kvmharness.lab.boot import LabMachine, Monitor
from kvmharness.lab.machines import BOCHS_VMX, TCG_SVM
from kvmharness.lab.planning import Inner, LabPlan, Target
from kvmharness.model.cases import select
from kvmharness.model.run import CaseResult, Run, Settings
from tests.support.kernels import CURED, UNCURED, need_lab, newest

Call = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]
TDP = variants.parse("tdp")
SETTINGS = Settings(1, 2, 1.0, 20, 0, 1.0, 10.0)


@pytest.fixture
def cured() -> resolve.Kernel:
    need_lab(CURED)
    return resolve.resolve(newest(CURED))


def measure(target: Target) -> planning.Result:
    chosen = select(["long64/empty", "long64/cr0_wp"])
    plan = LabPlan(chosen, {"insn": SETTINGS}, None, None, None)
    (result,) = matrix.measure([target], plan, 1, lambda _, line: None)
    return result


def two(kernel: resolve.Kernel, inner: Variant = TDP, machine: LabMachine = TCG_SVM) -> Target:
    return Target(kernel, TDP, machine, inner=Inner(kernel, inner))


def case(run: Run, op: str) -> CaseResult:
    return next(c for c in run.cases if c.op == op)


def median(run: Run, op: str) -> float:
    per_op = case(run, op).per_op
    assert per_op is not None
    return per_op.median


def test_both_levels_are_measured_and_described(cured: resolve.Kernel) -> None:
    result = measure(two(cured))
    assert result.lost is None
    run = result.run
    assert run is not None
    # The loop is not left, whatever lies below; a toggle of L2 takes several exits of L1.
    assert median(run, "empty") == pytest.approx(2.3, abs=0.1)
    assert 20_000 < median(run, "cr0_wp") < 100_000
    toggle = case(run, "cr0_wp").counters
    assert (toggle["l0.kvm.exits"] or 0) > 5
    assert (toggle["l0.kvm.nested_run"] or 0) == pytest.approx(1, abs=0.1)
    assert (toggle["l0.exit:cr0_sel_write"] or 0) == pytest.approx(1, abs=0.1)
    # What L1 does between its marks, over 200 ops.
    assert (case(run, "empty").counters["l0.kvm.exits"] or 0) < 1
    lab = run.host.lab
    assert lab is not None
    assert (lab.variant, lab.emulator.name) == ("tdp", "kvmharness")
    assert lab.below is not None
    assert lab.below.kvm.parameters["kvm_amd"]["nested"] == "1"
    assert lab.below.lab is not None
    assert lab.below.lab.emulator.name == "QEMU"


def test_the_kernel_below_emulates_nothing_for_the_proof() -> None:
    """5.10 takes the prefix at load only: an L0 that had it would answer for L1's KVM."""
    need_lab(UNCURED)
    legacy = variants.parse("legacy")
    old = resolve.resolve(newest(UNCURED))
    result = measure(Target(old, legacy, TCG_SVM, inner=Inner(old, legacy)))
    assert result.lost is None
    run = result.run
    assert run is not None
    assert [c.incorrect for c in run.cases] == [None, None]
    assert (case(run, "cr0_wp").proof or {})["emulated"] > 0
    assert run.host.kvm.parameters["kvm"]["force_emulation_prefix"] == "Y"
    assert run.host.lab is not None
    assert run.host.lab.below is not None
    assert run.host.lab.below.kvm.parameters["kvm"]["force_emulation_prefix"] == "N"


def test_an_l1_that_panics_is_told_with_what_it_said(cured: resolve.Kernel) -> None:
    lost = measure(two(cured, Variant("panics", options=("rdinit=/there-is-none",)))).lost
    assert lost is not None
    assert "L1: guest: kernel panic: not syncing: VFS" in str(lost)
    assert "Kernel panic - not syncing: VFS" in lost.console.splitlines()[0]


def test_an_l1_that_hangs_is_given_up_inside(cured: resolve.Kernel) -> None:
    """It waits for what nobody types: the clock inside jumps, as nothing else is to be done."""
    lost = measure(two(cured, Variant("hangs", options=("rdinit=/bin/cat",)))).lost
    assert lost is not None
    assert "L1: guest: wrote nothing for 20 s" in str(lost)
    assert "while booting" in str(lost)


def test_an_l1_without_svm_has_no_kvm(cured: resolve.Kernel) -> None:
    class Unnested(Target):
        def parameters(self) -> dict[str, dict[str, str]]:
            return {"kvm": {}, "kvm_amd": {"nested": "0"}}

    lost = measure(Unnested(cured, TDP, TCG_SVM, inner=Inner(cured, TDP))).lost
    assert lost is not None
    assert "L1: kvm_amd: insmod" in str(lost)


def test_an_l1_that_does_not_fit_is_refused(cured: resolve.Kernel) -> None:
    small = dataclasses.replace(TCG_SVM, inner=Monitor(memory_mib=64))
    lost = measure(two(cured, machine=small)).lost
    assert lost is not None
    assert "L1: memory: a kernel with its root takes" in str(lost)
    assert "of 64; give it more" in str(lost)


def test_an_l0_that_has_no_room_for_l1_says_so(cured: resolve.Kernel) -> None:
    large = dataclasses.replace(TCG_SVM, inner=Monitor(memory_mib=1000))
    lost = measure(two(cured, machine=large)).lost
    assert lost is not None
    assert "L0: memory: the kernel inside is given 1000 MiB, and " in str(lost)
    assert "give this machine more" in str(lost)


def test_an_l0_without_nesting_is_skipped(cured: resolve.Kernel) -> None:
    @dataclasses.dataclass(frozen=True)
    class Impossible(Variant):
        def parameters(self, vendor: str) -> dict[str, dict[str, str]]:
            return {"kvm": {"nested_by_nobody": "1"}, vendor: {}}

    target = Target(cured, Impossible("none"), TCG_SVM, inner=Inner(cured, TDP))
    assert measure(target).skipped == "L0: kvm has no parameter nested_by_nobody on this kernel"


def test_a_machine_that_has_no_monitor_is_a_usage_error(
    kvmharness: Call, cured: resolve.Kernel
) -> None:
    without = dataclasses.replace(TCG_SVM, name="some", inner=None)
    with pytest.raises(UsageError, match="--nested: not in --machine some"):
        planning.targets([cured], [TDP], [without], inner=[Inner(cured, TDP)])
    done = kvmharness("lab", newest(CURED), "--nested-variant", "tdp")
    assert done.returncode == 2
    assert "--nested-variant: name the kernel too; add --nested KERNEL" in done.stderr


@pytest.mark.slow
def test_intels_two_levels_run_in_bochs(cured: resolve.Kernel) -> None:
    """Minutes: an instruction at a time.  The cured L1 owns CR0.WP at either level."""
    result = measure(two(cured, machine=BOCHS_VMX))
    assert result.lost is None
    run = result.run
    assert run is not None
    assert median(run, "cr0_wp") - median(run, "empty") == pytest.approx(2, abs=0.1)
    assert run.host.lab is not None
    assert run.host.lab.below is not None
    assert run.host.lab.below.kvm.parameters["kvm_intel"]["nested"] == "Y"
