"""roles.py: the decision tables, and both questions asked of real kernels."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kvmharness.kernel import roles, versions
from kvmharness.kernel.image import KernelFile
from kvmharness.kernel.roles import CURE, SIBLINGS, Facts
from kvmharness.model.version import Version
from tests.kernel.test_btf import Writer, role_btf

V5_10 = Version(5, 10, 218, "5.10.218")
V6_1_HIDDEN = Version(6, 1, None, "6.1")
V6_12 = Version(6, 12, 43, "6.12.43")
V7_3 = Version(7, 3, 4, "7.3.4")
CURED = SIBLINGS | {CURE}


def names(*members: str) -> frozenset[str]:
    return frozenset(members)


@pytest.mark.parametrize(
    ("version", "layout", "cure"),
    [
        (Version(4, 19, 300, ""), None, False),
        (V5_10, "unified", False),
        (Version(5, 18, 19, ""), "unified", False),
        (Version(5, 19, 0, ""), "split", False),
        (V6_1_HIDDEN, "split", None),
        (Version(6, 1, 28, ""), "split", False),
        (Version(6, 1, 29, ""), "split", True),
        (Version(6, 2, 15, ""), "split", False),
        (Version(6, 2, 16, ""), "split", True),
        (Version(6, 3, 2, ""), "split", False),
        (Version(6, 3, 3, ""), "split", True),
        (Version(6, 4, None, ""), "split", True),
        (Version(7, 2, 13, ""), "split", True),
        (V7_3, "pagewalk", True),
        (Version(10, 0, 0, ""), "pagewalk", True),
    ],
)
def test_by_version(version: Version, layout: str | None, cure: bool | None) -> None:
    assert versions.layout_of_version(version) == layout
    assert versions.cure_of_version(version) is cure


@pytest.mark.parametrize(
    ("facts", "value", "evidence"),
    [
        (Facts(mmu=names("mmu_role", "root")), "unified", "btf"),
        (Facts(mmu=names("cpu_role", "root_role")), "split", "btf"),
        (Facts(mmu=names("root_role", "w"), pagewalk=names("cpu_role")), "pagewalk", "btf"),
        # Types win over the version, and over symbols that do not contradict them.
        (Facts(mmu=names("mmu_role"), symbols=SIBLINGS, version=V7_3), "unified", "btf"),
        (
            Facts(names("root_role"), names("cpu_role"), symbols=names("kvm_calc_cpu_role")),
            "pagewalk",
            "btf",
        ),
        # Types of one object and functions of another.
        (
            Facts(mmu=names("mmu_role"), symbols=names("kvm_calc_cpu_role"), version=V7_3),
            None,
            None,
        ),
        (
            Facts(names("cpu_role", "root_role"), symbols=names("kvm_calc_mmu_role_ext")),
            None,
            None,
        ),
        # A struct that fits none leaves it to the next evidence.
        (Facts(mmu=names("w"), version=V7_3), "pagewalk", "version"),
        (Facts(mmu=names("root_role"), pagewalk=names("x")), None, None),
        (Facts(symbols=names("kvm_calc_mmu_role_ext")), "unified", "kallsyms"),
        (Facts(symbols=names("kvm_calc_cpu_role"), version=V6_12), "split", "kallsyms"),
        (Facts(symbols=names("kvm_calc_cpu_role", "init_kvm_page_walk")), "pagewalk", "kallsyms"),
        # Without init_kvm_page_walk, which may be inlined, 7.3 is not proved to be split.
        (Facts(symbols=names("kvm_calc_cpu_role"), version=V7_3), "pagewalk", "version"),
        (Facts(symbols=names("kvm_calc_cpu_role")), None, None),
        (Facts(symbols=SIBLINGS, version=V5_10), "unified", "version"),
        (Facts(version=V6_1_HIDDEN), "split", "version"),
        (Facts(), None, None),
    ],
)
def test_layout(facts: Facts, value: str | None, evidence: str | None) -> None:
    finding = roles.decide_layout(facts)
    assert (finding.value, finding.evidence) == (value, evidence)
    assert finding.detail


@pytest.mark.parametrize(
    ("facts", "value", "evidence"),
    [
        (Facts(functions=names(CURE)), True, "btf"),
        (Facts(functions=CURED, symbols=CURED), True, "btf"),
        (Facts(functions=CURED), True, "btf"),
        (Facts(functions=CURED, symbols=names()), True, "btf"),
        # Seen in one object, and not in the other.
        (Facts(functions=CURED, symbols=SIBLINGS), None, None),
        # Left out of BTF, but there.
        (Facts(functions=SIBLINGS, symbols=CURED), True, "kallsyms"),
        (Facts(functions=SIBLINGS, symbols=SIBLINGS, version=V5_10), False, "kallsyms"),
        (Facts(functions=SIBLINGS, version=V5_10), False, "btf"),
        # Its object was not seen: absence says nothing.
        (Facts(functions=names(), symbols=names(), version=V6_12), True, "version"),
        (Facts(symbols=names("kvm_mmu_load"), version=V5_10), False, "version"),
        (Facts(symbols=names(), version=V6_1_HIDDEN), None, None),
        # Absent from a release that has it: renamed, inlined or reverted.
        (Facts(symbols=SIBLINGS, version=V6_12), None, None),
        (Facts(symbols=SIBLINGS, version=Version(6, 1, 192, "6.1.192")), None, None),
        # Not known to have it: the symbols decide.
        (Facts(symbols=SIBLINGS, version=V6_1_HIDDEN), False, "kallsyms"),
        (Facts(symbols=SIBLINGS), False, "kallsyms"),
        (Facts(), None, None),
    ],
)
def test_cure(facts: Facts, value: bool | None, evidence: str | None) -> None:
    finding = roles.decide_cure(facts)
    assert (finding.value, finding.evidence) == (value, evidence)
    assert finding.detail


def test_kallsyms() -> None:
    text = (
        b"0000000000000000 T kvm_mmu_load\t[kvm]\n"
        b"ffffffff812a0970 t kvm_calc_cpu_role.isra.0\n"
        b"ffffffff812a0970 T __pfx_kvm_mmu_reset_context\n"
        b"ffffffff812a0970 r kvm_mmu_reset_context\n"
        b"ffffffff812a0970 T __kvm_mmu_refresh_passthrough_bits_not\n"
    )
    assert roles.kallsyms_names(text) == {"kvm_mmu_load", "kvm_calc_cpu_role"}


def test_two_questions_two_evidences() -> None:
    kernel = KernelFile(
        "x",
        release="5.10.0-30-amd64",
        vmlinux_btf=role_btf("mmu_role"),
        symbols=SIBLINGS | {"kvm_init_mmu.cold"},
    )
    found = roles.roles_of(kernel)
    assert (found.role_layout.value, found.role_layout.evidence) == ("unified", "btf")
    assert (found.wp_cure.value, found.wp_cure.evidence) == (False, "kallsyms")


def test_corrupt_btf_falls_to_the_next_evidence() -> None:
    kernel = KernelFile("x", release="6.12.1", vmlinux_btf=role_btf("mmu_role")[:-1])
    found = roles.roles_of(kernel)
    assert (found.role_layout.value, found.role_layout.evidence) == ("split", "version")
    assert "BTF is of no use" in found.role_layout.detail


@pytest.mark.parametrize(
    ("structs", "layout"),
    [
        ({"kvm_mmu": ("mmu_role",)}, "unified"),
        ({"kvm_mmu": ("cpu_role", "root_role")}, "split"),
        ({"kvm_mmu": ("root_role",), "kvm_pagewalk": ("cpu_role",)}, "pagewalk"),
        ({"other": ("cpu_role", "root_role")}, None),
    ],
)
def test_module_without_its_vmlinux(
    structs: dict[str, tuple[str, ...]], layout: str | None
) -> None:
    writer = Writer(names_from=1000, ids_from=100)
    for name, members in structs.items():
        writer.structure(name, *((member, 1) for member in members))
    for name in sorted(CURED):
        writer.function(name)
    found = roles.roles_of(KernelFile("x", module_btf=writer.data()))
    assert found.role_layout.value == layout
    assert (found.wp_cure.value, found.wp_cure.evidence) == (True, "btf")
    assert "without vmlinux's" in found.wp_cure.detail


def test_module_with_a_base_of_its_own() -> None:
    base = Writer()
    base.integer("u32")
    base.structure("kvm_mmu")  # out of tree, a base keeps a struct's name and size only
    split = Writer(names_from=len(base.strings), ids_from=base.next_id)
    split.function(CURE)
    kernel = KernelFile(
        "x",
        vmlinux_btf=role_btf("cpu_role", "root_role"),
        module_btf=split.data(),
        module_base_btf=base.data(),
    )
    found = roles.roles_of(kernel)
    assert (found.role_layout.value, found.wp_cure.value) == ("split", True)


def test_a_module_of_another_kernel_is_not_told_by_vmlinux() -> None:
    """As a 5.10 kvm.ko, which has no BTF, in a package of 6.1."""
    kernel = KernelFile(
        "x",
        release="6.1.0-56-amd64",
        vmlinux_btf=role_btf("cpu_role", "root_role"),
        symbols=SIBLINGS | {"kvm_calc_mmu_role_common"},
    )
    layout = roles.roles_of(kernel).role_layout
    assert (layout.value, layout.evidence) == (None, None)
    assert layout.detail == "vmlinux's BTF says split, KVM's functions say unified"


def test_split_btf_over_a_base_that_is_not_its_own_is_no_evidence() -> None:
    base = Writer()
    for number in range(40):
        base.structure(f"of_another_build_{number}")
    split = Writer(names_from=len(base.strings), ids_from=base.next_id)
    split.function(CURE)
    split.function("kvm_mmu_load")
    kernel = KernelFile(
        "x",
        release="6.12.1",
        vmlinux_btf=role_btf("cpu_role", "root_role"),
        module_btf=split.data(),
    )
    layout = roles.roles_of(kernel).role_layout
    assert (layout.value, layout.evidence) == (None, None)
    assert "of another build than this vmlinux" in layout.detail
    # What the module's own functions say is its own.
    told = roles.roles_of(kernel._replace(symbols=CURED | {"kvm_calc_mmu_role_common"}))
    assert (told.role_layout.value, told.role_layout.evidence) == ("unified", "kallsyms")
    assert told.wp_cure.value is True


def test_a_base_of_its_own_that_is_not_of_this_vmlinux_is_no_evidence() -> None:
    base, other = Writer(), Writer()
    for number in range(9):
        base.structure(f"of_another_build_{number}")
        other.structure(f"of_this_build_{number}")
    split = Writer(names_from=len(base.strings), ids_from=base.next_id)
    split.function(CURE)
    kernel = KernelFile(
        "x", vmlinux_btf=other.data(), module_btf=split.data(), module_base_btf=base.data()
    )
    assert "of another build" in roles.roles_of(kernel).role_layout.detail


def test_running_kernel() -> None:
    found = roles.running()
    for finding in (found.role_layout, found.wp_cure):
        assert (finding.value is None) == (finding.evidence is None)
        assert finding.detail
    assert found.role_layout.value in {"unified", "split", "pagewalk", None}


def test_running_kernel_without_btf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = "".join(f"0000000000000000 t {name}\t[kvm]\n" for name in sorted(CURED))
    (tmp_path / "kallsyms").write_text(text)
    monkeypatch.setattr(roles, "BTF", tmp_path)
    monkeypatch.setattr(roles, "KALLSYMS", tmp_path / "kallsyms")
    found = roles.running()
    assert found.role_layout.evidence in {"version", None}
    assert (found.wp_cure.value, found.wp_cure.evidence) == (True, "kallsyms")


# What stands where: the name of a package, the two answers and their evidence.
PACKAGES = {
    "linux-image-5.10.": ("unified", "btf", False, "kallsyms"),
    "linux-image-6.1.0-": ("split", "btf", True, "btf"),
    "linux-image-6.12.": ("split", "btf", True, "btf"),
    "linux-image-6.18.": ("split", "btf", True, "btf"),
    "linux-binary-7.2.": ("split", "btf", True, "version"),
    "linux-modules-7.2.": ("split", "kallsyms", True, "btf"),
    "linux-binary-7.3.": ("pagewalk", "btf", True, "version"),
    "linux-modules-7.3.": ("pagewalk", "kallsyms", True, "btf"),
}


@pytest.mark.parametrize("prefix", PACKAGES)
def test_debian_package(prefix: str) -> None:
    folder = os.environ.get("KVMHARNESS_KERNELS")
    if not folder:
        pytest.skip("KVMHARNESS_KERNELS names no folder of Debian kernel packages")
    packages = sorted(Path(folder).glob(f"{prefix}*.deb"))
    if not packages:
        pytest.skip(f"no {prefix}*.deb in {folder}")
    found = roles.of_path(packages[0])
    assert (
        found.role_layout.value,
        found.role_layout.evidence,
        found.wp_cure.value,
        found.wp_cure.evidence,
    ) == PACKAGES[prefix]
