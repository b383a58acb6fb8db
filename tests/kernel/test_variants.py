"""How variants are spelled, what they ask for, and what proves that a kernel obeyed."""

from __future__ import annotations

import pytest

from kvmharness.errors import UsageError
from kvmharness.kernel import variants


@pytest.mark.parametrize(
    ("text", "name", "amd", "options"),
    [
        ("default", "default", [], ()),
        ("tdp", "tdp", ["kvm.tdp_mmu=1", "kvm_amd.npt=1"], ()),
        ("legacy", "legacy", ["kvm.tdp_mmu=0", "kvm_amd.npt=1"], ()),
        ("shadow", "shadow", ["kvm_amd.npt=0"], ()),
        ("mitigations=off", "default+mitigations=off", [], ("mitigations=off",)),
        ("tdp+mitigations=default", "tdp", ["kvm.tdp_mmu=1", "kvm_amd.npt=1"], ()),
        (
            "shadow+mitigations=off+mitigations=off",
            "shadow+mitigations=off",
            ["kvm_amd.npt=0"],
            ("mitigations=off",),
        ),
    ],
)
def test_spelling(text: str, name: str, amd: list[str], options: tuple[str, ...]) -> None:
    variant = variants.parse(text)
    assert variant.name == name
    assert variant.command_line("kvm_amd") == [*amd, *options]


def test_intel_has_another_name_for_it() -> None:
    assert variants.parse("shadow").command_line("kvm_intel") == ["kvm_intel.ept=0"]


def test_an_options_own_parameter_is_the_vendors() -> None:
    variant = variants.parse("shadow+unrestricted_guest=0+mitigations=off")
    assert variant.name == "shadow+unrestricted_guest=0+mitigations=off"
    assert variant.options == ("mitigations=off",)
    wanted = {"kvm": {}, "kvm_intel": {"ept": "0", "unrestricted_guest": "0"}}
    assert variant.parameters("kvm_intel") == wanted
    reason = variants.why_not_obeyed(variant.parameters("kvm_amd"), {"kvm_amd": {"npt": "N"}})
    assert reason == "kvm_amd has no parameter unrestricted_guest on this kernel"


@pytest.mark.parametrize("text", ["", "TDP", "tdp+", "tdp+mitigations", "mitigations=auto"])
def test_unknown_variant_is_one_line(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        variants.parse(text)
    assert "there are: default, tdp, legacy, shadow" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_kernel_that_obeyed() -> None:
    wanted = variants.parse("legacy").parameters("kvm_amd")
    for no, yes in (("0", "1"), ("N", "Y")):
        found = {"kvm": {"tdp_mmu": no}, "kvm_amd": {"npt": yes, "avic": "N"}}
        assert variants.why_not_obeyed(wanted, found) is None


def test_a_kernel_that_did_not() -> None:
    wanted = variants.parse("tdp").parameters("kvm_amd")
    old = {"kvm": {"halt_poll_ns": "0"}, "kvm_amd": {"npt": "1"}}
    assert variants.why_not_obeyed(wanted, old) == "kvm has no parameter tdp_mmu on this kernel"
    # Without two-dimensional paging KVM switches its TDP MMU off by itself.
    without = {"kvm": {"tdp_mmu": "N"}, "kvm_amd": {"npt": "N"}}
    assert variants.why_not_obeyed(wanted, without) == (
        "kvm.tdp_mmu=1 was asked for, the kernel says N"
    )
    assert variants.why_not_obeyed(wanted, {}) == "kvm has no parameter tdp_mmu on this kernel"
