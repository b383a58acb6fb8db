"""KVM's modules of a kernel: which files, in which order, and what they are."""

from __future__ import annotations

from pathlib import Path

from kvmharness import cache
from kvmharness.errors import LabLost, UsageError
from kvmharness.kernel.image import module_bytes
from kvmharness.kernel.resolve import Kernel
from kvmharness.kernel.variants import Module, Parameters

PLACE = "kernel/arch/x86/kvm"


def _module_name(path: str) -> str:
    """Return a module's name, e.g. kvm_amd, from its file's, e.g. kvm-amd.ko.xz."""
    return Path(path).name.partition(".ko")[0].replace("-", "_")


def load_order(modules_dep: str, wanted: str) -> list[str]:
    """Return the files, dependencies first, that loading the module `wanted` takes.

    `modules_dep` is the text of modules.dep: `file: dependency...`, the nearest first.
    """
    for line in modules_dep.splitlines():
        file, _, needs = line.partition(":")
        if _module_name(file) == wanted:
            return [*reversed(needs.split()), file]
    return []


def _overlay(folder: Path, vendor: str) -> dict[str, Path]:
    """Return the modules of a --kvm-modules folder by name.  Raises UsageError."""
    found = {_module_name(path.name): path for path in sorted(folder.glob("*.ko*"))}
    wrong = {"kvm", vendor} - set(found)
    if wrong:
        raise UsageError(
            f"--kvm-modules {folder}: no module {' or '.join(sorted(wrong))}; name the folder of "
            f"kvm.ko and {vendor.replace('_', '-')}.ko"
        )
    return found


def prepare(
    kernel: Kernel, parameters: Parameters, overlay: Path | None, into: Path
) -> tuple[list[Module], dict[str, str]]:
    """Copy, unpacked, what is to be loaded for KVM; return it in order, and name to sha256.

    `parameters` names kvm and the vendor module.  Both are empty where KVM is built in.
    Raises LabLost where the kernel has no such KVM, UsageError for a bad `overlay`.
    """
    vendor = next(name for name in parameters if name != "kvm")
    root = kernel.modules
    dep = (root / "modules.dep").read_text() if root and (root / "modules.dep").is_file() else ""
    order = load_order(dep, vendor)
    given = _overlay(overlay, vendor) if overlay else {}
    if not order:
        built_in = (root / "modules.builtin") if root else None
        text = built_in.read_text() if built_in and built_in.is_file() else None
        if text is not None and not any(_module_name(x) == vendor for x in text.split()):
            raise LabLost(f"{kernel.named}: this kernel has no {vendor}, as module or built in")
        if given:
            raise UsageError("--kvm-modules: KVM is built into this kernel; build it as modules")
        return [], {}
    modules, hashes = [], {}
    for place in order:
        name = _module_name(place)
        source = given.get(name, root / place if root else Path(place))
        target = into / f"{name}.ko"
        target.write_bytes(module_bytes(source))
        modules.append(Module(name, target.name, dict(parameters.get(name, {}))))
        if name in parameters:
            hashes[name] = cache.digest(target)
    return modules, hashes
