"""perf and KVM's own statistics count the same things: the pairs of docs/classes.md."""

from __future__ import annotations

from contextlib import closing

import pytest

from kvmharness.counters.events import present
from kvmharness.counters.kvmstats import KvmStats
from kvmharness.counters.perfstat import PerfStat
from kvmharness.guest.vm import GuestVm
from kvmharness.kvm.fds import System
from kvmharness.measure.host import vendor_module
from kvmharness.model.cases import Case
from tests.counters.test_perf import needs_perf

EMULATION = ("kvm.insn_emulation", "kvm:kvm_emulate_insn")
EXITS = ("kvm.exits", "kvm:kvm_exit")
PAIRS = {
    "kvm_pvm": (EMULATION,),
    "kvm_amd": (EMULATION, EXITS),
    "kvm_intel": (EMULATION, EXITS),
}
OPS = 2000
# The doorbell and what the switching lets through.
SLACK = 40


def counted(system: System, op: str) -> dict[str, int]:
    """Count an op by perf and by KVM's statistics at once."""
    events, _ = present()
    with GuestVm(system, Case("long64", op)) as guest:
        guest.measure(10, 1)
        with closing(PerfStat(events)) as stat, closing(KvmStats()) as stats:
            stat.attach(guest)
            stats.attach(guest)
            counts = guest.measure(OPS, 1, [stat, stats]).counts
    assert stat.failure is None
    return counts


@pytest.mark.kvm
@needs_perf
@pytest.mark.parametrize("op", ["empty", "cr0_wp", "cpuid", "pio"])
def test_statistics_and_tracepoints_agree(system: System, op: str) -> None:
    pairs = PAIRS.get(vendor_module() or "")
    if pairs is None:
        pytest.skip(f"no pairs are declared for {vendor_module()}")
    counts = counted(system, op)
    for statistic, tracepoint in pairs:
        assert counts[statistic] == pytest.approx(counts[tracepoint], abs=SLACK, rel=0.01)


@pytest.mark.kvm
@needs_perf
def test_toggle_on_kvm_pvm_is_emulated_and_looks_its_root_up(system: System) -> None:
    if vendor_module() != "kvm_pvm":
        pytest.skip("a statement about kvm_pvm")
    counts = counted(system, "cr0_wp")
    assert counts["kvm:kvm_exit"] == 0
    assert counts["kvmmmu:kvm_mmu_get_page[created==0]"] == pytest.approx(OPS, rel=0.01)
    assert counts["kvmmmu:kvm_mmu_get_page[created==1]"] <= SLACK
    assert counts["kvm.exits"] == pytest.approx(OPS, rel=0.01)
