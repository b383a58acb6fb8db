"""Exits by reason, as the kernel prints them."""

from __future__ import annotations

from pathlib import Path

from kvmharness.counters.reasons import ExitReasons
from kvmharness.counters.reasons import parse as parse_reasons
from kvmharness.counters.tracefs import Instance


def test_exit_reasons_are_counted_by_the_kernels_names() -> None:
    # Lines as the kernel prints them: SVM's, and VMX's.
    trace = (
        "# tracer: nop\n"
        " python-88 [001] d..1. 12.3: kvm_exit: vcpu 0 reason write_cr0 rip 0x10c6 info1 0x0\n"
        " python-88 [001] d..1. 12.4: kvm_exit: vcpu 0 reason CR_ACCESS rip 0x10c6 info1 0x0\n"
        " python-88 [001] d..1. 12.5: kvm_exit: vcpu 0 reason CR_ACCESS rip 0x10c6 info1 0x0\n"
    )
    assert parse_reasons(trace) == {"write_cr0": 1, "CR_ACCESS": 2}


def test_exit_reasons_without_tracefs_are_absent_with_the_reason(tmp_path: Path) -> None:
    with Instance(tmp_path) as instance:
        reasons = ExitReasons(instance)
        reasons.begin()
        assert reasons.end() == {}
    assert reasons.absent == {"exit_reasons": "tracefs: No such file or directory; run as root"}
