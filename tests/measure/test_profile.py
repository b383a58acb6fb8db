"""The profile of an op: arithmetic on symbols, and the real perf."""

from __future__ import annotations

import pytest

from kvmharness.analysis.profile import SymbolCost, profiled
from kvmharness.counters.profile import parse
from kvmharness.errors import Unavailable
from kvmharness.kvm.fds import System
from kvmharness.measure.profile import kvm_stat, profile, settings
from kvmharness.model.cases import Case
from kvmharness.model.run import Sampled
from tests.counters.test_perf import needs_perf


def test_periods_add_up_by_symbol() -> None:
    script = "   200040  ffffffff812e1bf0 kvm_mmu_load\n 10 ff12e1bf9 kvm_mmu_load\n 5 0 [x]\n"
    assert parse(script) == {"kvm_mmu_load": 200050, "[x]": 5}


def test_net_is_per_op_and_hottest_first() -> None:
    case = Sampled("long64/pio", {"a": 1000, "b": 300}, 100)
    empty = Sampled("long64/empty", {"b": 10, "c": 50}, 10)
    assert profiled("ns", case, empty).rows == [
        SymbolCost("a", 10.0, 10.0),
        SymbolCost("b", 3.0, 2.0),
        SymbolCost("c", 0.0, -5.0),
    ]
    alone = profiled("ns", Sampled("long64/empty", {"a": 10}, 10), None)
    assert alone.rows == [SymbolCost("a", 1.0, 1.0)]


@pytest.mark.kvm
@needs_perf
def test_real_profile_finds_kvms_functions(system: System) -> None:
    sampled, data = profile(system, Case("long64", "pio"), settings(0.2, None))
    found = profiled(*sampled)
    assert found.unit in {"ns", "cycles"}
    assert data.startswith(b"PERFILE2")
    assert any("kvm" in row.symbol or "emulate" in row.symbol for row in found.rows)
    assert sum(row.net for row in found.rows) > 0


def test_kvm_stat_of_another_module_is_refused_with_the_reason() -> None:
    with pytest.raises(Unavailable, match="not of kvm_pvm; leave --kvm-stat out"):
        kvm_stat(None, Case("long64", "pio"), "kvm_pvm", settings(1.0, None))  # type: ignore[arg-type]
