"""Explaining a real L0 while the kernel inside it measures: exact, and L1 told from both others."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvmharness.analysis.explain import costs
from kvmharness.commands import explaining
from kvmharness.errors import UsageError
from kvmharness.kernel.build import AS_USUAL
from kvmharness.model.cases import Case
from tests.support.kernels import CURED, need_lab, newest

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]


def test_every_instruction_of_two_levels_is_accounted_for() -> None:
    need_lab(CURED)
    name = newest(CURED)
    inner = explaining.inner(name, AS_USUAL, "tdp")
    wanted = explaining.wanted([name], AS_USUAL, ["tdp"], [], inner)
    (kernel,) = explaining.explain(wanted, Case("long64", "cr0_wp"), 1).kernels
    assert sum(node.own for node in kernel.nodes) == sum(kernel.samples)
    roots = {node.name: node.own for node in kernel.nodes if node.parent is None}
    # The loop, once an op, and what begins and ends a sample.
    assert roots["[guest]"] / kernel.ops == pytest.approx(4, abs=1)
    assert roots["[L1]"] / kernel.ops > 1_000
    rows = {row.symbol: row for row in costs(kernel).rows}
    assert rows["nested_svm_vmrun"].calls == pytest.approx(1, abs=0.21)


def test_kvms_modules_are_l1s(tmp_path: Path) -> None:
    need_lab(CURED)
    inner = explaining.inner(newest(CURED), AS_USUAL, None)
    with pytest.raises(UsageError, match="leave one out"):
        explaining.wanted([newest(CURED)], AS_USUAL, [], [tmp_path], inner)
