"""Which MMU-role code a kernel has, and what says so.

Two independent questions.  `role_layout`: is there one `mmu_role` (unified), are `cpu_role`
and `root_role` apart (split), or has `cpu_role` moved to struct kvm_pagewalk (pagewalk)?
`wp_cure`: does a toggle of CR0.WP keep the page-table root?
Evidence in order of trust: types and functions in BTF, symbol names, the version.  KVM's own
object speaks before vmlinux, which may be another build's; where two contradict each other the
answer is that nobody knows.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kvmharness.kernel.btf import Btf, BtfError, has_string, is_split
from kvmharness.kernel.versions import LAYOUT_SINCE, cure_of_version, layout_of_version
from kvmharness.model.host import Evidence, Finding, Roles
from kvmharness.model.version import Version, version_of

if TYPE_CHECKING:
    from kvmharness.kernel.image import KernelFile

BTF = Path("/sys/kernel/btf")
KALLSYMS = Path("/proc/kallsyms")
UBUNTU_VERSION = Path("/proc/version_signature")

# The last of the patches that cure it, commit cf9f4c0eb169 ("KVM: x86/mmu: Refresh CR0.WP
# prior to checking for emulated permission faults") (in v6.4), brought this function.  It is
# global and called from several files, so compilers leave it standing; it still has this name
# in 7.3, where it takes a struct kvm_pagewalk.
CURE = "__kvm_mmu_refresh_passthrough_bits"
# Functions of the same object, mmu/mmu.c, that every version has: only where they are seen
# was that object seen, and only then does the absence of another say anything.
SIBLINGS = frozenset({"kvm_mmu_load", "kvm_mmu_reset_context"})
# Functions that tell a layout, the surest first; presence alone counts, as each may be inlined.
# commit 2ba676774dfc ("KVM: x86/mmu: cleanup computation of MMU roles for two-dimensional
# paging") (in v5.19) removed kvm_calc_mmu_role_common.
LAYOUT_SYMBOLS = {
    "kvm_calc_mmu_role_common": "unified",
    "kvm_calc_mmu_role_ext": "unified",
    "init_kvm_page_walk": "pagewalk",
    "kvm_calc_cpu_role": "split",
}
SYMBOLS = SIBLINGS | {CURE} | frozenset(LAYOUT_SYMBOLS)
# Layout, members of struct kvm_mmu, members of struct kvm_pagewalk.
LAYOUTS = (
    ("unified", {"mmu_role"}, set[str]()),
    ("split", {"cpu_role", "root_role"}, set[str]()),
    ("pagewalk", {"root_role"}, {"cpu_role"}),
)
MEMBERS = ("mmu_role", "cpu_role", "root_role")

# Why vmlinux's BTF is left alone.
OF_ANOTHER = " (kvm.ko's BTF is of another build than this vmlinux, whose types say nothing of it)"


class Facts(NamedTuple):
    """What evidence there is; None where a kind of it is missing.

    `types` says whose the types are, `foreign` that KVM's module and vmlinux are of two builds.
    """

    mmu: frozenset[str] | None = None
    pagewalk: frozenset[str] | None = None
    functions: frozenset[str] | None = None
    symbols: frozenset[str] | None = None
    version: Version | None = None
    note: str = ""
    types: str = "BTF"
    foreign: bool = False


def layout_of_members(mmu: Iterable[str], pagewalk: Iterable[str]) -> str | None:
    """Return the layout that has these members in structs kvm_mmu and kvm_pagewalk."""
    members, walk = set(mmu), set(pagewalk)
    fits = (name for name, a, b in LAYOUTS if a <= members and b <= walk)
    return next(fits, None)


def layout_of_symbols(symbols: Iterable[str], version: Version | None) -> str | None:
    """Return the layout that these functions belong to.

    kvm_calc_cpu_role is in both newer ones: without init_kvm_page_walk, which may have been
    inlined, it needs a version older than 7.3 to mean `split`.
    """
    names = set(symbols)
    found = next((layout for name, layout in LAYOUT_SYMBOLS.items() if name in names), None)
    if found == "split" and (version is None or version[:2] >= LAYOUT_SINCE[0][0]):
        return None
    return found


def layouts_of_symbols(symbols: Iterable[str]) -> frozenset[str]:
    """Return every layout that these functions could belong to; all where none of them tells."""
    may_be = frozenset(name for name, _, _ in LAYOUTS)
    for name in set(symbols) & set(LAYOUT_SYMBOLS):
        # kvm_calc_cpu_role is in both newer ones.
        told = {LAYOUT_SYMBOLS[name]}
        may_be &= told | {"pagewalk"} if "split" in told else told
    return may_be


def cure_of_names(names: frozenset[str] | None) -> bool | None:
    """Tell whether the cure's function is among them; None where its object was not seen."""
    if names is None or (CURE not in names and not names >= SIBLINGS):
        return None
    return CURE in names


def decide_layout(facts: Facts) -> Finding:
    """Answer `role_layout` from the most trusted evidence that can tell."""
    if facts.mmu is not None:
        layout = layout_of_members(facts.mmu, facts.pagewalk or ())
        may_be = layouts_of_symbols(facts.symbols or ())
        if layout is not None and layout not in may_be:
            said = " or ".join(sorted(may_be)) or "two layouts at once"
            return _unknown(f"{facts.types} says {layout}, KVM's functions say {said}{facts.note}")
        if layout is not None:
            has = " and ".join(name for name in MEMBERS if name in facts.mmu)
            also = ", struct kvm_pagewalk cpu_role" if layout == "pagewalk" else ""
            return Finding(layout, "btf", f"struct kvm_mmu has {has}{also}{facts.note}")
    layout = layout_of_symbols(facts.symbols or (), facts.version)
    if layout is not None:
        seen = ", ".join(sorted(set(LAYOUT_SYMBOLS) & (facts.symbols or set())))
        return Finding(layout, "kallsyms", f"functions {seen}{facts.note}")
    layout = layout_of_version(facts.version) if facts.version else None
    if facts.version and layout is not None:
        return Finding(layout, "version", _by_version(facts.version, facts.note))
    return Finding(None, None, f"no types, symbols or version that tell{facts.note}")


def _unknown(conflict: str) -> Finding:
    return Finding(None, None, conflict)


def decide_cure(facts: Facts) -> Finding:
    """Answer `wp_cure` from the most trusted evidence that can tell.

    BTF's writer leaves functions out, so its absence there counts only after the symbols.
    """
    rows: tuple[tuple[Evidence, bool | None, str], ...] = (
        ("btf", cure_of_names(facts.functions) or None, "BTF"),
        ("kallsyms", cure_of_names(facts.symbols), "the symbols"),
        ("btf", cure_of_names(facts.functions), "BTF"),
    )
    by_version = cure_of_version(facts.version) if facts.version else None
    if rows[0][1] and rows[1][1] is False:
        return _unknown(f"BTF says that {CURE} is there, KVM's symbols say that it is not")
    for evidence, value, where in rows:
        if value:
            return Finding(True, evidence, f"function {CURE} is in {where}{facts.note}")
        if value is False:
            detail = f"function {CURE} is not in {where}, its siblings are{facts.note}"
            # Renamed, inlined by link-time optimisation, or reverted: from here they look alike.
            if facts.version and by_version:
                return Finding(None, None, f"{detail}; yet {facts.version.text} came with it")
            return Finding(False, evidence, detail)
    if facts.version and by_version is not None:
        return Finding(by_version, "version", _by_version(facts.version, facts.note))
    return Finding(None, None, f"no functions or version that tell{facts.note}")


def _by_version(version: Version, note: str) -> str:
    return f"version {version.text} only; a distribution may have backported{note}"


def _own_strings(data: bytes) -> Facts:
    """Look names up in a module's BTF whose base is not at hand.

    It holds the strings that vmlinux's lacks.  A role's name is nothing but that member's, a
    function's nothing but that function's; where struct kvm_mmu itself is vmlinux's, no name
    of its members is here, and the members stay unknown.
    """
    functions = frozenset(name for name in SIBLINGS | {CURE} if has_string(data, name))
    members = frozenset(name for name in MEMBERS if has_string(data, name))
    note = " (of the module's BTF, without vmlinux's, only the names that vmlinux lacks are known)"
    if not members or not has_string(data, "kvm_mmu"):
        return Facts(functions=functions, note=note)
    if not has_string(data, "kvm_pagewalk"):
        return Facts(members, None, functions, note=note)
    return Facts(members - {"cpu_role"}, members & {"cpu_role"}, functions, note=note)


def _members(btfs: list[Btf], struct: str) -> frozenset[str] | None:
    """Return a struct's members; a base built for a module alone keeps empty structs."""
    found = (btf.struct(struct) for btf in btfs)
    full = next((each for each in found if each is not None and each.members), None)
    return None if full is None else frozenset(member.name for member in full.members)


def _is_distilled_of(base: Btf, vmlinux: Btf) -> bool:
    """Tell whether the base that a module carries tells of vmlinux's structs, by their sizes."""
    sizes, known = base.sizes(), vmlinux.sizes()
    alike = [known.get(name) == size for name, size in sizes.items()]
    return sum(alike) * 2 >= len(alike)


def _btf_facts(kernel: KernelFile) -> Facts:
    """Gather from BTF; corrupt BTF is noted, and leaves the question to other evidence."""
    own, vmlinux = kernel.module_btf, kernel.vmlinux_btf
    try:
        btfs = [Btf.parse(vmlinux)] if vmlinux is not None else []
        if own is not None and not is_split(own):
            btfs = [Btf.parse(own), *btfs]
        elif own is not None and kernel.module_base_btf is not None:
            base = Btf.parse(kernel.module_base_btf)
            if btfs and not _is_distilled_of(base, btfs[0]):
                return _own_strings(own)._replace(note=OF_ANOTHER, foreign=True)
            btfs = [Btf.parse(own, base), *btfs]
        elif own is not None and not btfs:
            return _own_strings(own)
        elif own is not None:
            split = Btf.parse(own, btfs[0])
            if not split.fits_base():
                return _own_strings(own)._replace(note=OF_ANOTHER, foreign=True)
            btfs = [split]
        if not btfs:
            return Facts()
        names = (name for name in SIBLINGS | {CURE} if any(btf.function(name) for btf in btfs))
        of_module = own is not None and btfs[0].own_struct("kvm_mmu") is not None
        return Facts(
            _members(btfs, "kvm_mmu"),
            _members(btfs, "kvm_pagewalk"),
            frozenset(names),
            types="kvm.ko's BTF" if of_module else "vmlinux's BTF",
        )
    except BtfError as error:
        return Facts(note=f" (BTF is of no use: {error})")


def roles_of(kernel: KernelFile) -> Roles:
    """Return what a kernel's files tell."""
    facts = _btf_facts(kernel)
    if kernel.symbols is not None:
        # Compilers mark what they changed by a suffix, as in kvm_calc_cpu_role.isra.0.
        names = frozenset(name.partition(".")[0] for name in kernel.symbols)
        facts = facts._replace(symbols=names & SYMBOLS)
    if not facts.foreign:  # whose version would it be
        facts = facts._replace(version=version_of(kernel.release, kernel.build))
    return Roles(decide_layout(facts), decide_cure(facts))


def kallsyms_names(text: bytes) -> frozenset[str]:
    """Return those of SYMBOLS that are functions in /proc/kallsyms's text."""
    names = "|".join(sorted(SYMBOLS)).encode()
    pattern = rb"^[0-9a-f]+ [tTwW] (" + names + rb")(?:\.[^\s]*)?(?:\s|$)"
    return frozenset(match[1].decode() for match in re.finditer(pattern, text, re.MULTILINE))


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def running() -> Roles:
    """Return what the running kernel tells, in about 0.3 s; evidence it lacks is skipped."""
    # A lab, which is told the answer, does without: the import is a tenth of its work.
    from kvmharness.kernel.image import KernelFile  # noqa: PLC0415

    uname = os.uname()
    text = _read(KALLSYMS)
    signature = (_read(UBUNTU_VERSION) or b"").decode(errors="replace")
    kernel = KernelFile(
        "the running kernel",
        release=uname.release,
        build=f"{uname.version} {signature}",
        vmlinux_btf=_read(BTF / "vmlinux"),
        module_btf=_read(BTF / "kvm"),
        symbols=None if text is None else kallsyms_names(text),
    )
    return roles_of(kernel)


def of_path(path: Path | str) -> Roles:
    """Return what a kernel's file, package or directory tells (see kernel/image.py).

    Raises UsageError where it cannot be read as one.
    """
    from kvmharness.kernel import image  # noqa: PLC0415 - as above

    return roles_of(image.read(Path(path)))
