"""The targets of a lab: kernels, variants, machines and boots, and what each is called."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvmharness.errors import UsageError
from kvmharness.kernel import variants
from kvmharness.kernel.resolve import Kernel
from kvmharness.lab import planning
from kvmharness.lab.machines import BOCHS_VMX, TCG_SVM
from kvmharness.lab.planning import Target

KERNEL = Kernel("a", "6.1", Path("vmlinuz"), None, "6.1")
TDP, SHADOW = (variants.parse(name) for name in ("tdp", "shadow"))


def labels(targets: list[Target]) -> list[str]:
    return [target.label for target in targets]


def test_what_there_is_one_of_is_not_named() -> None:
    found = planning.targets([KERNEL], [TDP, SHADOW], [TCG_SVM])
    assert labels(found) == ["6.1-tdp", "6.1-shadow"]


def test_machines_and_boots_are_named_where_there_are_several() -> None:
    found = planning.targets([KERNEL], [TDP], [TCG_SVM, BOCHS_VMX], 2)
    assert labels(found) == [
        "6.1-tdp-tcg-svm-boot1",
        "6.1-tdp-tcg-svm-boot2",
        "6.1-tdp-bochs-vmx-boot1",
        "6.1-tdp-bochs-vmx-boot2",
    ]
    assert [target.boot for target in found] == [1, 2, 1, 2]
    planning.check_labels(found)


def test_two_kernels_of_one_name_are_refused() -> None:
    other = Kernel("b", "6.1", Path("other"), None, "6.1")
    with pytest.raises(UsageError, match="measure them by two calls"):
        planning.check_labels(planning.targets([KERNEL, other], [TDP], [TCG_SVM]))
