"""A made-up run for tests that need a file, not a figure."""

from __future__ import annotations

import msgspec

from kvmharness.model.host import L0, Cpu, Emulator, Finding, Host, KernelRecord, Kvm, Lab
from kvmharness.model.run import SCHEMA, CaseClass, CaseResult, Run, Settings, Tool


def class_of(printed: str) -> CaseClass:
    """Return the class that prints as `how/root`."""
    how, root = printed.split("/")
    return msgspec.convert({"how": how, "root": root}, CaseClass)


def made_up_case(name: str, middle: float, vms: int = 5, each: int = 6) -> CaseResult:
    mode, _, op = name.partition("/")
    return CaseResult(
        name=name,
        mode=mode,
        op=op,
        params={},
        iterations=1000,
        tsc_khz=2_000_000,
        samples=[middle * (1 + 0.001 * (i % 7)) for i in range(vms * each)],
        vms=[i // each for i in range(vms * each)],
        counters={
            "kvm.exits": 0.0 if op == "empty" else 1.0,
            "kvm.insn_emulation": 0.0,
            "kvm.pf_fixed": 0.0,
            "kvm.nested_run": None,
        },
    )


def made_up_run() -> Run:
    return Run(
        schema=SCHEMA,
        started="2026-01-01T00:00:00+00:00",
        tool=Tool("0", {"long64": "00"}),
        host=Host(
            name="host<script>",
            kernel=KernelRecord("6.1.0", "#1", "x86_64", None),
            kvm=Kvm(
                12,
                "kvm_amd",
                {"kvm": {"tdp_mmu": "Y"}, "kvm_amd": {"npt": "1"}},
                Finding("split", "btf", "made up"),
                Finding(True, "btf", "made up"),
            ),
            cpu=Cpu("AuthenticAMD", "EPYC", 25, 17, 1, "0x1", 2, False, None, None, {}),
            clocksource="tsc",
            tsc_khz=2_000_000,
            memory_bytes=1 << 30,
            nested=True,
            hypervisor="KVMKVMKVM",
        ),
        settings=Settings(5, 6, 1.0, None, 1, 0.05, 10.0),
        finished="2026-01-01T00:00:01+00:00",
        cases=[made_up_case("long64/empty", 1.0), made_up_case("long64/cr0_wp", 1000.0)],
    )


def made_up_lab_run() -> Run:
    """Return the same run as if the kernel had been booted in a lab that counts instructions."""
    run = made_up_run()
    cpu = run.host.cpu
    l0 = L0("l0", KernelRecord("6.18.0", "#1", "x86_64", "quiet"), None, cpu, None)
    run.host.lab = Lab(
        "tcg-svm",
        "tdp",
        "linux-image-6.1",
        Emulator("QEMU", "7.2.22", "EPYC,+svm"),
        1024,
        {"kvm": "00", "kvm_amd": "11"},
        l0,
        capsule="c0",
    )
    run.clock = "insn"
    for case in run.cases:
        case.unit, case.tsc_khz = "insn", None
    return run


def made_up_nested_run() -> Run:
    """Return the same run as if the kernel had been a guest of another one in that lab."""
    run, outer = made_up_lab_run(), made_up_lab_run().host
    outer.kernel.release = "5.10.0"
    lab = run.host.lab
    assert lab
    lab.below, lab.emulator = outer, Emulator("kvmharness", "0", "EPYC,+svm")
    run.cases[1].counters |= {"l0.kvm.exits": 8.02, "l0.exit:npf": 0.001, "l0.exit:msr": 1.5}
    run.cases[1].counters |= {"l0.kvm.nested_run": None, "l0.kvm.mmu_cache_miss": 0.0}
    return run


def made_up_ends() -> Run:
    """Return a run with a case for each way to end, and reasons that no format holds raw."""
    run = made_up_run()
    for name, end, reason in (
        ("real16/cr0_wp", "incorrect", "KVM is <incorrect> & wrong"),
        ("real16/pio", "failed", "guest: triple fault\x1b[31m;\nrip 0x1000"),
        ("long64/cr4_smep", "skipped", "no SMEP here"),
        ("long64/wx", "noisy", "interval ±9% where ±5% was asked"),
        ("long64/cpuid#1", "samples", []),
    ):
        case = made_up_case(name, 1.0)
        if end != "noisy":
            case.samples, case.vms = [], []
        setattr(case, end, reason)
        run.cases.append(case)
    run.finished = None
    return run
