"""The classes: rules on made-up counts here, recordings of real kernels below."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest

from kvmharness.analysis.classify import HOW, READ, ROOT, classify, uses_tdp_mmu
from kvmharness.model.counters import SIGNALS

RECORDINGS = sorted((Path(__file__).parents[1] / "recordings").glob("*.json"))

EXIT = {"kvm:kvm_exit": 1.0, "kvm:kvm_emulate_insn": 0.0}
NEW = "kvmmmu:kvm_mmu_get_page[created==1]"
FOUND = "kvmmmu:kvm_mmu_get_page[created==0]"
LOAD = "probe:kvm_mmu_load"
RESET = "probe:kvm_mmu_reset_context"
UNLOAD = "probe:kvm_mmu_unload"
FREE = "probe:kvm_mmu_free_roots"


def name(counters: dict[str, float | None], tdp_mmu: bool | None = None) -> str:
    found = classify(counters, "kvm_amd", tdp_mmu)
    assert found is not None
    return str(found.case_class)


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda p: p.stem)
def test_recorded_kernel(path: Path) -> None:
    recording = json.loads(path.read_text())
    assert recording["kernel"], "a recording names the kernel it came from"
    tdp_mmu = uses_tdp_mmu(recording["parameters"])
    for case in recording["cases"]:
        found = classify(case["counters"], recording["module"], tdp_mmu)
        assert found is not None
        assert str(found.case_class) == case["class"], case["name"]


def test_recordings_cover_the_classes() -> None:
    classes = {c["class"] for p in RECORDINGS for c in json.loads(p.read_text())["cases"]}
    assert {
        "exit/kept",
        "exit/reloaded",
        "exit/rebuilt",
        "no-exit/kept",
        "emulated/kept",
        "emulated/reloaded",
    } <= classes


@pytest.mark.parametrize(
    ("counters", "tdp_mmu", "expected"),
    [
        ({**EXIT, NEW: 3, FOUND: 0, LOAD: 1}, True, "exit/rebuilt"),
        ({**EXIT, NEW: 0, FOUND: 1, LOAD: 1}, False, "exit/reloaded"),
        ({**EXIT, NEW: 0, FOUND: 0, LOAD: 1}, True, "exit/reloaded"),
        ({**EXIT, NEW: 0, FOUND: 0, LOAD: 0}, True, "exit/kept"),
        ({**EXIT, NEW: 0, FOUND: 0, LOAD: None}, True, "exit/kept-or-reloaded"),
        ({**EXIT, NEW: 0, FOUND: 0}, None, "exit/kept-or-reloaded"),
        ({**EXIT, NEW: 0, FOUND: 0}, False, "exit/kept"),
        (
            {"kvm:kvm_exit": 0, "kvm:kvm_emulate_insn": 0, NEW: 0, FOUND: 0, LOAD: 0},
            True,
            "no-exit/kept",
        ),
        (
            {"kvm:kvm_exit": 0, "kvm:kvm_emulate_insn": 4, NEW: 0, FOUND: 1},
            False,
            "emulated/reloaded",
        ),
        # what says that the root was dropped, where kvm_mmu_load was not seen, or is blind
        ({**EXIT, NEW: 0, FOUND: 0, LOAD: None, RESET: 1}, True, "exit/reloaded"),
        ({**EXIT, NEW: 0, FOUND: 0, LOAD: 0, RESET: 1, FREE: 2}, True, "exit/reloaded"),
        ({**EXIT, NEW: 0, FOUND: 0, LOAD: 0, RESET: 0, UNLOAD: 1}, True, "exit/reloaded"),
        ({**EXIT, NEW: 3, FOUND: 0, LOAD: 0, RESET: 1}, True, "exit/rebuilt"),
        # some root was freed: it may have been another one
        ({**EXIT, NEW: 0, FOUND: 0, LOAD: 0, RESET: 0, UNLOAD: 0, FREE: 2}, True, "exit/unclear"),
        ({**EXIT, NEW: 0, FOUND: 0, LOAD: 0, RESET: 0.5}, True, "exit/unclear"),
        ({**EXIT, NEW: 0, FOUND: 0, LOAD: 0, RESET: 0, UNLOAD: 0, FREE: 0}, True, "exit/kept"),
        # conflicts
        ({**EXIT, NEW: 3, FOUND: 0, LOAD: 0}, True, "exit/unclear"),
        ({**EXIT, NEW: 0.5, FOUND: 0.5, LOAD: 1}, False, "exit/unclear"),
        (
            {"kvm:kvm_exit": 0.5, "kvm:kvm_emulate_insn": 0, NEW: 0, FOUND: 0, LOAD: 0},
            True,
            "unclear/kept",
        ),
        # KVM's statistics alone
        ({"kvm.exits": 5, "kvm.insn_emulation": 1, "kvm.pf_fixed": 4}, True, "exit/rebuilt"),
        (
            {"kvm.exits": 1, "kvm.insn_emulation": 0, "kvm.pf_fixed": 0},
            True,
            "exit/kept-or-reloaded",
        ),
    ],
)
def test_rules(counters: dict[str, float | None], tdp_mmu: bool | None, expected: str) -> None:
    assert name(counters, tdp_mmu) == expected


def test_statistic_exits_is_trusted_on_hardware_modules_only() -> None:
    counters: dict[str, float | None] = {"kvm.exits": 1.0, "kvm.insn_emulation": 4.0}
    found = classify(counters, "kvm_pvm", False)
    assert found is not None
    assert found.case_class.how == "unclear"


def test_evidence_names_what_was_used() -> None:
    found = classify({**EXIT, NEW: 3.0, "kvm.pf_fixed": 4.0}, "kvm_amd", True)
    assert found is not None
    assert found.evidence == {**EXIT, NEW: 3.0, "kvm.pf_fixed": 4.0}


def test_nothing_counted_no_class() -> None:
    assert classify({"kvm:kvm_exit": None}, "kvm_amd", True) is None


def test_every_combination_of_signals_has_an_answer() -> None:
    levels = {"yes": 1.0, "no": 0.0, "between": 0.5, "unknown": None}
    of_roots = [signal for signal in READ if signal not in ("exit", "emulated")]
    for combination in [
        *(dict(zip(("exit", "emulated"), some, strict=True)) for some in product(levels, repeat=2)),
        *(dict(zip(of_roots, some, strict=True)) for some in product(levels, repeat=len(of_roots))),
    ]:
        counters = {SIGNALS[signal][0]: levels[level] for signal, level in combination.items()}
        found = classify(counters, None, None)
        if found is not None:
            assert found.case_class.how in {rule[0] for rule in HOW} | {"unclear"}
            assert found.case_class.root in {rule[0] for rule in ROOT} | {"unclear"}


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"kvm": {"tdp_mmu": "Y"}, "kvm_amd": {"npt": "1"}}, True),
        ({"kvm": {"tdp_mmu": "Y"}, "kvm_intel": {"ept": "Y"}}, True),
        ({"kvm": {"tdp_mmu": "Y"}, "kvm_amd": {"npt": "0"}}, False),
        ({"kvm": {"tdp_mmu": "N"}, "kvm_pvm": {}}, False),
        ({"kvm": {}, "kvm_amd": {"npt": "1"}}, None),
        ({"kvm": {"halt_poll_ns": "0"}, "kvm_amd": {"npt": "1"}}, False),
        ({}, None),
    ],
)
def test_mmu_in_use(parameters: dict[str, dict[str, str]], expected: bool | None) -> None:
    assert uses_tdp_mmu(parameters) is expected


def test_a_count_below_that_of_empty_is_no_count() -> None:
    """The toggle of two vCPUs was no-exit/reloaded: its `empty` had counted the spinning."""
    counted = {"kvm:kvm_exit": 0.0, "kvm:kvm_emulate_insn": 5.0}
    empty = {"kvm:kvm_exit": 0.0, "kvm:kvm_emulate_insn": 21.0}
    found = classify(counted, "kvm_pvm", False, empty)
    assert found
    assert found.case_class.how == "unclear"
