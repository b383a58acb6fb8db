"""KVM's statistics: from the descriptor on the real /dev/kvm, and from debugfs."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from kvmharness.counters.kvmstats import Debugfs, KvmStats, StatsFd
from kvmharness.errors import KvmError
from kvmharness.guest.vm import GuestVm
from kvmharness.kvm.fds import System, Vcpu, Vm
from kvmharness.measure.host import vendor_module
from kvmharness.model.cases import Case


def counted(system: System, op: str, iterations: int) -> dict[str, int]:
    """Return KVM's statistics over two samples of an op."""
    with GuestVm(system, Case("long64", op)) as guest:
        guest.measure(10, 1)
        with closing(KvmStats()) as stats:
            stats.attach(guest)
            counts = guest.measure(iterations, 2, [stats]).counts
    assert stats.absent == {}
    return counts


@pytest.mark.kvm
def test_port_writes_are_counted_one_by_one(system: System) -> None:
    counts = counted(system, "pio", 1000)
    # Whoever emulates the port write, each one leaves to user space once.
    assert counts["kvm.exits"] >= 2000
    assert counts["kvm.exits"] < 2200


@pytest.mark.kvm
def test_empty_loop_exits_almost_never(system: System) -> None:
    counts = counted(system, "empty", 10_000)
    assert counts["kvm.exits"] / 20_000 < 0.01


@pytest.mark.kvm
def test_cpuid_exits_on_vmx_and_svm(system: System) -> None:
    if vendor_module() not in {"kvm_intel", "kvm_amd"}:
        pytest.skip(f"{vendor_module()} may emulate CPUID without an exit")
    counts = counted(system, "cpuid", 1000)
    assert counts["kvm.exits"] >= 2000


@pytest.mark.kvm
def test_histograms_and_present_values_are_left_out(system: System) -> None:
    if not system.check_extension("BINARY_STATS_FD"):
        pytest.skip("this kernel is before 5.14: no KVM_GET_STATS_FD")
    with GuestVm(system, Case("long64", "empty")) as guest:
        reader = StatsFd(guest.vcpus[0])
        names = reader.read()
        reader.close()
    assert "exits" in names
    assert "halt_poll_success_hist" not in names
    assert "guest_mode" not in names


class _Refusing:
    """Stands in for a VM of a kernel before 5.14, which this machine does not run."""

    fd = 7

    def get_stats_fd(self) -> int:
        raise KvmError("KVM_GET_STATS_FD", 25)


class _OldGuest:
    vm: Vm = _Refusing()  # type: ignore[assignment]
    vcpus: Sequence[Vcpu] = [_Refusing()]  # type: ignore[list-item]
    thread_ids: Sequence[int] = [1]


def test_debugfs_reads_plain_counts_only(tmp_path: Path) -> None:
    # A folder laid out as debugfs does it: a mock, for kernels before 5.14.
    folder = tmp_path / f"{threading.get_native_id()}-7"
    folder.mkdir()
    (folder / "exits").write_text("12\n")
    (folder / "halt_poll_hist").write_text("1 2 3\n")
    (folder / "vcpu0").mkdir()
    vm: Vm = _Refusing()  # type: ignore[assignment]
    assert Debugfs(vm, tmp_path).read() == {"exits": 12}


def test_no_source_at_all_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Debugfs.__init__, "__defaults__", (tmp_path / "none",))
    stats = KvmStats()
    stats.attach(_OldGuest())
    (reason,) = stats.absent.values()
    assert "KVM_GET_STATS_FD: ENOTTY" in reason
    assert "No such file" in reason
    stats.begin()
    assert stats.end() == {}
