"""Comparisons of made-up runs: verdicts, what explains them, what forbids them, exit codes."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
from rich.console import Console

from kvmharness.analysis import causes, compare, differences
from kvmharness.analysis.compare import Comparison, side
from kvmharness.analysis.summary import classify_cases
from kvmharness.errors import UsageError
from kvmharness.model.host import L0, Emulator, KernelRecord
from kvmharness.model.run import Run
from kvmharness.render import compare_table, tables
from tests.support.golden import same_as_golden
from tests.support.recorded import recorded_run
from tests.support.samples import (
    class_of,
    made_up_case,
    made_up_lab_run,
    made_up_nested_run,
    made_up_run,
)

TDP_5_10 = recorded_run(
    "debian-5.10.218-tdp",
    {"long64/empty": 2.0, "long64/cr0_wp": 158000.0, "real16/cr0_wp": 120000.0},
)
TDP_6_1 = recorded_run(
    "debian-6.1.192-tdp",
    {"long64/empty": 2.0, "long64/cr0_wp": 5000.0, "real16/cr0_wp": 3900.0},
)
SHADOW_6_12 = recorded_run(
    "debian-6.12.117-shadow",
    {"long64/empty": 2.0, "long64/cr0_wp": 12000.0, "real16/cr0_wp": 3900.0},
)


def rendered(comparison: Comparison) -> str:
    out = io.StringIO()
    compare_table.show_comparison(
        comparison, Console(file=out, width=tables.WIDTH, highlight=False)
    )
    return "".join(line.rstrip() + "\n" for line in out.getvalue().splitlines())


def of(base: Run | list[Run], new: Run | list[Run], threshold: float | None = None) -> Comparison:
    base, new = (runs if isinstance(runs, list) else [runs] for runs in (base, new))
    return compare.compare(side("BASE", base), side("NEW", new), threshold)


def scaled(run: Run, factor: float) -> Run:
    run = copy.deepcopy(run)
    for case in run.cases:
        case.samples = [factor * sample for sample in case.samples]
    return run


def verdicts(comparison: Comparison) -> dict[str, str]:
    return {row.case: row.verdict for row in comparison.rows}


def test_cured_kernel_is_faster_because_the_root_is_kept() -> None:
    found = compare.compare(side("5.10-tdp", [TDP_5_10]), side("6.1-tdp", [TDP_6_1]))
    same_as_golden("compare.txt", rendered(found))
    assert found.exit_code == 0


def test_regression_is_slower_because_the_root_is_rebuilt() -> None:
    found = of(TDP_6_1, TDP_5_10)
    assert found.exit_code == 1
    assert compare_table.sentence(found).startswith(
        "NEW is 31.6x slower at long64/cr0_wp because the root is rebuilt (exit/kept → "
    )


def classed(**classes: str) -> Run:
    """Return a cured kernel's run with another class at these ops of long64."""
    run = copy.deepcopy(TDP_6_1)
    for case in run.cases:
        if case.mode == "long64" and case.op in classes:
            case.class_ = class_of(classes[case.op])
    return run


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("exit/kept", "exit/reloaded"),
        ("exit/kept", "exit/rebuilt"),
        ("no-exit/kept", "exit/kept"),
        ("no-exit/kept", "emulated/kept"),
        ("exit/kept-or-reloaded", "exit/rebuilt"),
    ],
)
def test_a_worse_class_at_equal_cost_is_a_regression(before: str, after: str) -> None:
    old, new = classed(cr0_wp=before), classed(cr0_wp=after)
    found = of(old, new)
    assert verdicts(found)["long64/cr0_wp"] == "worse"
    assert found.exit_code == 1
    assert compare_table.sentence(found) == (
        f"the class is worse in NEW at long64/cr0_wp ({before} → {after}), though the cost shows "
        "no change"
    )
    back = of(new, old)
    assert verdicts(back)["long64/cr0_wp"] == "better"
    assert back.exit_code == 0
    assert "the class is better in NEW at long64/cr0_wp" in compare_table.sentence(back)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("exit/kept", "exit/kept-or-reloaded"),
        ("exit/kept", "exit/unclear"),
        ("exit/kept", "emulated/kept"),
        ("exit/kept", "no-exit/rebuilt"),  # one word either way: the cost decides
    ],
)
def test_a_class_that_may_be_as_good_is_no_regression(before: str, after: str) -> None:
    found = of(classed(cr0_wp=before), classed(cr0_wp=after))
    assert set(verdicts(found).values()) == {"same"}


def test_a_large_factor_is_said_in_plain_digits() -> None:
    said = compare_table.sentence(of(scaled(TDP_6_1, 36203), TDP_6_1))
    assert said.startswith("NEW is 36,203x faster at long64/cr0_wp")


def test_the_headline_is_of_the_case_that_matters_not_of_the_largest_ratio() -> None:
    base, new = copy.deepcopy(TDP_6_1), copy.deepcopy(TDP_6_1)
    for case in new.cases:
        factor = {"long64/cr0_wp": 0.5, "real16/cr0_wp": 0.01}.get(case.name, 1.5)
        case.samples = [factor * sample for sample in case.samples]
    found = of(base, new)
    assert verdicts(found)["long64/empty"] == "slower"
    said = compare_table.sentence(found)
    assert said.startswith("NEW is 2x faster at long64/cr0_wp")
    # The exit code is 1, and the headline does not hide why.
    assert said.endswith("; yet slower at long64/empty")


def test_another_variant_is_what_is_compared_and_no_warning() -> None:
    found = of(TDP_6_1, SHADOW_6_12)
    assert found.compared == [
        "kernel 6.1.0-56-amd64 tdp → 6.12.117+deb12-amd64 shadow",
        "kvm.tdp_mmu 1 → 0",
        "kvm_amd.npt 1 → 0",
    ]
    assert found.differing == []


def hosts() -> tuple[Run, Run]:
    """Two runs with every kind of difference between hosts, and every way for a case to end."""
    base, new = made_up_run(), made_up_run()
    new.host.name = "\x1b[31mother[/bold]"
    new.host.kernel = KernelRecord("6.4.0", "#2", "x86_64", "quiet mitigations=off kvm.tdp_mmu=Y")
    base.host.kernel.cmdline = "quiet"
    base.host.cpu.mitigations = {
        "meltdown": "Not affected",
        "retbleed": "Vulnerable",
        "spectre_v2": "Mitigation: Retpolines, STIBP: disabled",
    }
    new.host.cpu.mitigations = {
        "its": "Not affected",
        "retbleed": "Mitigation: untrained return thunk",
        "spectre_v2": "Mitigation: Retpolines; STIBP: disabled; BHI: Not affected",
        "tsa": "Mitigation: Clear CPU buffers",
    }
    new.host.cpu.microcode, new.host.cpu.governor, new.host.cpu.turbo = "0x2", "powersave", True
    new.host.cpu.smt_active, new.host.clocksource = True, "hpet"
    new.host.kvm.parameters["kvm"] |= {"tdp_mmu": "N", "only_here": "1"}
    new.host.kvm.parameters["kvm_amd"] = {"npt": "1", "avic": "Y"}
    base.host.kvm.parameters["kvm_amd"] = {"npt": "1", "avic": "N"}
    names = ("cpuid", "pio", "cr4_pge", "cr4_smep", "cr4_smap", "efer_nx", "hypercall", "cr3_same")
    for run in (base, new):
        run.tool.guests = {"long64": "00", "real16": run.host.name}
        run.cases += [made_up_case(f"long64/{name}", 500.0) for name in names]
        run.cases.append(made_up_case("real16/cr0_wp", 500.0))
    cases = {case.name.partition("/")[2]: case for case in new.cases[:-1]}
    cases["cpuid"].samples = [530.0 + 0.1 * i for i in range(30)]
    cases["pio"].samples = [450.0 + 60 * (vm % 4) for vm in cases["pio"].vms]
    cases["cr4_pge"].vms = [0] * 30
    cases["cr4_smep"].discard("a write with WP set went through")
    cases["cr4_smap"].samples, cases["cr4_smap"].vms = [], []
    cases["cr4_smap"].failed = "guest: triple fault; rip 0x1000"
    cases["efer_nx"].samples, cases["efer_nx"].vms = [], []
    cases["efer_nx"].skipped = "KVM offers no NX"
    new.cases.remove(cases["hypercall"])
    base.cases = [case for case in base.cases if case.op != "cr3_same"]
    return base, new


def test_every_difference_and_every_way_to_end_is_said() -> None:
    base, new = hosts()
    classify_cases(base)
    classify_cases(new)
    found = of(base, new)
    text = rendered(found)
    same_as_golden("compare-hosts.txt", text)
    assert found.exit_code == 1
    assert "\x1b" not in text


def test_several_runs_a_side_are_blocks_and_need_no_allowance() -> None:
    base = [scaled(TDP_6_1, factor) for factor in (1.0, 1.0004, 1.0008)]
    new = [scaled(TDP_6_1, factor) for factor in (1.0002, 1.0006, 1.0003)]
    text = rendered(of(base, new, 0.01))
    same_as_golden("compare-runs.txt", text)
    assert "one run on a side" not in text


def test_two_boots_of_one_kernel_are_the_same() -> None:
    for run, factor in ((TDP_6_1, 1.0004), (SHADOW_6_12, 1.008)):
        constant = scaled(run, 1.0)
        for case in constant.cases:
            case.samples = [case.samples[0]] * len(case.samples)
        found = of(constant, scaled(constant, factor))
        assert set(verdicts(found).values()) == {"same"}
        assert found.exit_code == 0
        assert "costs the same as BASE in every case" in compare_table.sentence(found)


def test_what_one_boot_cannot_tell_three_can() -> None:
    def boots(factor: float) -> list[Run]:
        return [scaled(SHADOW_6_12, factor * boot) for boot in (1.0, 1.0001, 1.0002)]

    one = of(boots(1.0)[0], boots(1.008)[0])
    assert "slower" not in verdicts(one).values()
    several = of(boots(1.0), boots(1.008))
    assert set(verdicts(several).values()) == {"slower"}


def test_runs_of_one_boot_say_nothing_of_boots() -> None:
    def runs(factor: float, boots: str) -> list[Run]:
        found = [scaled(SHADOW_6_12, factor * run) for run in (1.0, 1.0001, 1.0002)]
        for run, boot in zip(found, boots, strict=True):
            run.clock, run.host.lab, run.host.boot_id = "tsc", None, boot
        return found

    # 0.25 % lies within what is allowed for boots by this clock.
    one = of(runs(1.0, "aaa"), runs(1.0025, "bbb"), threshold=0.001)
    assert "slower" not in verdicts(one).values()
    assert one.boot_allowance
    assert "runs of one boot on a side" in rendered(one)
    several = of(runs(1.0, "aab"), runs(1.0025, "ccd"), threshold=0.001)
    assert set(verdicts(several).values()) == {"slower"}
    assert not several.boot_allowance


def clock(run: Run) -> None:
    run.clock = "insn"
    for case in run.cases:
        case.unit = "insn"


def cpu(run: Run) -> None:
    run.host.cpu.stepping = 2


def blob(run: Run) -> None:
    run.tool.guests["long64"] = "11"


def lab(run: Run) -> None:
    run.host.lab = made_up_lab_run().host.lab


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (clock, "another clock: tsc → insn"),
        (cpu, "another CPU: AuthenticAMD family 25 model 17 stepping 1 → "),
        (blob, "another guest blob: the sha256 of long64 differs"),
        (lab, "another CPU of the lab: no lab → EPYC,+svm in QEMU 7.2.22"),
    ],
)
def test_what_must_not_be_compared(change: Callable[[Run], None], reason: str) -> None:
    base, new = made_up_run(), made_up_run()
    change(new)
    found = of(base, new)
    assert set(verdicts(found).values()) == {"not comparable"}
    assert all(row.said.startswith(reason) for row in found.rows)
    assert found.exit_code == 3
    assert compare_table.sentence(found).startswith("NEW cannot be compared with BASE: another ")


def test_of_two_levels_the_lower_one_is_compared_too() -> None:
    base, new = made_up_nested_run(), made_up_nested_run()
    assert new.host.lab
    assert new.host.lab.below
    new.host.lab.below.kernel.release = "6.1.0"
    assert differences.compared([base], [new]) == [
        "kernel 6.1.0 tdp on 5.10.0 tdp → 6.1.0 tdp on 6.1.0 tdp"
    ]
    assert differences.why_not_comparable([base], [new]) is None
    one = differences.why_not_comparable([made_up_lab_run()], [new])
    assert one == (
        "another CPU of the lab: EPYC,+svm in QEMU 7.2.22 → "
        "EPYC,+svm in kvmharness 0 in QEMU 7.2.22"
    )


def test_what_carries_a_labs_job_is_no_difference() -> None:
    base, new = made_up_lab_run(), made_up_lab_run()
    base.host.kernel.cmdline = "quiet virtme.exec=`Zm9v` init=/a/virtme-ng-init kvm.tdp_mmu=1"
    new.host.kernel.cmdline = "quiet virtme.exec=`YmFy` init=/b/virtme-ng-init nopti"
    base.host.memory_bytes, new.host.memory_bytes = 1011441664, 1007349760
    assert of(base, new).differing == ["kernel command line: nothing → nopti"]


def test_how_kernels_were_configured_is_told_where_both_say() -> None:
    base, new = made_up_lab_run(), made_up_lab_run()
    base.host.kernel.config = {"SMP": "y", "HZ_250": "y"}
    assert of(base, new).differing == []
    new.host.kernel.config = {"SMP": "y", "RETHUNK": "y"}
    assert of(base, new).differing == ["configuration: HZ_250=y → RETHUNK=y"]


def test_another_qemu_or_l0_cpu_counts_as_the_clock_says() -> None:
    base, new = made_up_lab_run(), made_up_lab_run()
    assert new.host.lab is not None
    new.host.lab.l0 = L0(
        "l0",
        KernelRecord("6.19.0", "#1", "x86_64", "quiet"),
        None,
        copy.deepcopy(new.host.cpu),
        None,
    )
    new.host.lab.l0.cpu.model = 1
    found = of(base, new)
    assert set(verdicts(found).values()) == {"same"}  # instructions are counted, not timed
    assert any(line.startswith("L0 kernel: 6.18.0") for line in found.differing)
    for run in (base, new):
        run.clock = "tsc"
    assert "another CPU of L0" in of(base, new).rows[0].said
    new = made_up_lab_run()
    assert new.host.lab is not None
    new.host.lab.emulator = Emulator("QEMU", "10.0", "EPYC,+svm")
    assert "another CPU of the lab" in of(made_up_lab_run(), new).rows[0].said


def test_a_side_must_not_mix_kernels() -> None:
    with pytest.raises(UsageError, match="BASE: holds runs of 2 kernels") as error:
        side("BASE", [TDP_6_1, SHADOW_6_12])
    assert "\n" not in str(error.value)


def test_a_side_that_mixes_cpus_is_not_comparable() -> None:
    odd = made_up_run()
    odd.started, odd.host.cpu.model = "another boot", 1
    found = of([made_up_run(), odd], made_up_run())
    assert set(verdicts(found).values()) == {"not comparable"}


def test_a_guest_lost_in_one_of_several_boots_is_not_spoken_for_by_the_others() -> None:
    base = [scaled(TDP_6_1, factor) for factor in (1.0, 1.0001)]
    new = [scaled(TDP_6_1, factor) for factor in (1.0, 1.0001)]
    lost = new[1].cases[1]
    lost.failed, lost.samples, lost.vms = "guest: triple fault; rip 0x1000", [], []
    found = of(base, new)
    assert verdicts(found)[lost.name] == "not comparable"
    assert found.exit_code == 3
    text = rendered(found)
    assert "failed in NEW: 1 of 2 runs: guest: triple fault" in text
    assert f"1 of {len(found.rows)} cases not comparable" in text


def test_copies_of_a_run_are_one_boot() -> None:
    with pytest.raises(UsageError, match="holds a run twice"):
        of([made_up_run(), made_up_run()], made_up_run())


def test_samples_of_other_lengths_hold_other_shares_of_what_surrounds_them() -> None:
    other = scaled(TDP_6_1, 1.0)
    for case in other.cases:
        case.iterations = 10
    found = of(TDP_6_1, other)
    assert set(verdicts(found).values()) == {"not comparable"}
    assert "use the same --iterations" in rendered(found)


def test_incorrect_in_new_is_a_regression_even_where_base_has_nothing() -> None:
    base, new = made_up_run(), made_up_run()
    base.cases.pop()
    new.cases[1].discard("WP did not hold")
    found = of(base, new)
    assert verdicts(found) == {"long64/empty": "same", "long64/cr0_wp": "incorrect"}
    assert found.exit_code == 1


def test_nothing_in_both_is_unclear() -> None:
    base, new = made_up_run(), made_up_run()
    new.cases = [made_up_case("long64/pio", 1.0)]
    found = of(base, new)
    assert found.exit_code == 3
    assert "no case has figures on both sides" in compare_table.sentence(found)
    assert "left out: long64/empty, long64/cr0_wp: only in BASE" in rendered(found)


def test_free_op_has_no_ratio() -> None:
    new = made_up_run()
    new.cases[0].samples = [0.0] * 30
    assert of(made_up_run(), new).rows[0].said == "a median is 0"


def told(class_: str | None, **counters: float) -> causes.Account:
    counted = {f"kvm.{name}": count for name, count in counters.items()}
    return causes.Account(class_of(class_) if class_ else None, counted)


@pytest.mark.parametrize(
    ("base", "new", "direction", "end"),
    [
        (
            told("exit/kept"),
            told("no-exit/kept"),
            "faster",
            " because the write no longer exits (exit/kept → no-exit/kept)",
        ),
        (
            told("no-exit/kept"),
            told("exit/rebuilt"),
            "slower",
            " because the root is rebuilt and the write exits (no-exit/kept → exit/rebuilt)",
        ),
        # A class that became dearer does not explain a gain, nor do counters that rose.
        (
            told("exit/kept", exits=1),
            told("exit/rebuilt", exits=5),
            "faster",
            "; the counters do not say why",
        ),
        (
            told("exit/kept", exits=5, tlb_flush=0),
            told("exit/kept", exits=1, tlb_flush=1),
            "faster",
            ", with exits 5.00 → 1.00",
        ),
        (
            told("exit/kept", exits=1),
            told("exit/kept", exits=1.02),
            "slower",
            "; the counters do not say why",
        ),
        (told(None), told(None), "slower", "; nothing was counted that could say why"),
    ],
)
def test_because_needs_proof(
    base: causes.Account, new: causes.Account, direction: causes.Direction, end: str
) -> None:
    assert causes.cause(base, new, direction) == end


def test_runs_that_disagree_on_the_class_have_none() -> None:
    cases = [made_up_case("long64/cr0_wp", 1.0) for _ in range(3)]
    for case, class_, exits in zip(
        cases, ("exit/kept", "exit/kept", "exit/rebuilt"), (1, 3, 9), strict=True
    ):
        case.class_, case.counters = class_of(class_), {"kvm.exits": exits, "kvm.pf_fixed": None}
    assert causes.account(cases) == told(None, exits=3)
    assert causes.account(cases[:2]) == told("exit/kept", exits=2)


def counting_instructions(middle: float, **counters: float) -> Run:
    run = made_up_lab_run()
    run.clock = "insn"
    case = made_up_case("long64/cr0_wp", middle)
    case.samples = [middle] * len(case.samples)
    case.counters |= {f"opcode.{name}": value for name, value in counters.items()}
    run.cases = [case]
    return run


@pytest.mark.parametrize(
    ("middle", "counters", "verdict", "said"),
    [
        (5000.0, {"wbinvd": 1}, "unweighed", "same instructions, but WBINVD 0.00 → 1.00"),
        (4000.0, {"wbinvd": 1}, "unweighed", "fewer instructions, but WBINVD 0.00 → 1.00"),
        (5000.0, {"vmrun": 0}, "unweighed", "same instructions, but entries 1.00 → 0.00"),
        (5100.0, {"vmrun": 0}, "unweighed", "more instructions, but entries 1.00 → 0.00"),
        (5100.0, {"wrmsr": 1}, "slower", "MSR writes 0.00 → 1.00"),
        (5000.0, {}, "same", ""),
        (5000.0, {"wrmsr": 0.05}, "same", ""),
        # An entry more takes less than the instructions saved do, at best.
        (500000.0, {"vmrun": 0}, "slower", ""),
    ],
)
def test_what_instructions_do_not_weigh(
    middle: float, counters: dict[str, float], verdict: str, said: str
) -> None:
    none = {"wbinvd": 0.0, "wrmsr": 0.0, "vmrun": 1.0}
    found = of(
        counting_instructions(5000.0, **none), counting_instructions(middle, **{**none, **counters})
    )
    (row,) = found.rows
    assert row.verdict == verdict
    assert said in row.said
    if verdict == "unweighed":
        assert found.exit_code == 3
        assert said in compare_table.sentence(found)


def test_samples_that_climb_within_each_vm_are_told() -> None:
    base, new = counting_instructions(5000.0), counting_instructions(5000.0)
    new.cases[0].samples = [30000.0 + 1000 * (i % 6) for i in range(30)]
    found = of(base, new)
    assert "its samples climb within a VM, 30,000 → 35,000" in compare_table.sentence(found)
    new.cases[0].samples[6:12] = [30000.0] * 6
    assert "climb" not in compare_table.sentence(of(base, new))
