"""KVM's modules of a kernel: which files, in which order, and what they are."""

from __future__ import annotations

import hashlib
from pathlib import Path

from kvmharness import cache, child
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


def _vendor(parameters: Parameters) -> str:
    return next(name for name in parameters if name != "kvm")


def overlay(folder: Path, parameters: Parameters) -> dict[str, Path]:
    """Return the modules of a --kvm-modules folder by name; `parameters` names those it must have.

    Raises UsageError.
    """
    vendor = _vendor(parameters)
    found = {_module_name(path.name): path for path in sorted(folder.glob("*.ko*"))}
    wrong = {"kvm", vendor} - set(found)
    if wrong:
        raise UsageError(
            f"--kvm-modules {folder}: no module {' or '.join(sorted(wrong))}; name the folder of "
            f"kvm.ko and {vendor.replace('_', '-')}.ko"
        )
    return found


def _without_types(path: Path) -> None:
    """Take the types (.BTF) out of a module: to read them takes most of its time to load.

    Which MMU-role code it has is read off the host's own copy.  Raises UsageError.
    """
    command = ["strip", "--strip-debug", "--preserve-dates", "--remove-section=.BTF", str(path)]
    done = child.run(command)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no reason given"])[0]
        raise UsageError(f"strip {path.name}: {why}; is it a kernel module?")


def _unpacked(source: Path) -> tuple[Path, str]:
    """Return a module ready to be loaded, and the sha256 of it as it was.  Kept in the cache."""

    def make(into: Path) -> None:
        data = module_bytes(source)
        (into / "module.ko").write_bytes(data)
        (into / "sha256").write_text(hashlib.sha256(data).hexdigest())
        _without_types(into / "module.ko")

    made = cache.made_once(cache.folder("kvm") / cache.digest(source)[:16], make)
    return made / "module.ko", (made / "sha256").read_text()


def prepare(
    kernel: Kernel, parameters: Parameters, folder: Path | None
) -> tuple[list[tuple[Module, Path]], dict[str, str]]:
    """Return what is to be loaded for KVM, in order, with its files, and name to sha256.

    `parameters` names kvm and the vendor module, `folder` is that of other modules for them.
    Both are empty where KVM is built in.  Raises LabLost where the kernel has no such KVM,
    UsageError for a bad `folder`.
    """
    vendor = _vendor(parameters)
    root = kernel.modules
    dep = (root / "modules.dep").read_text() if root and (root / "modules.dep").is_file() else ""
    order = load_order(dep, vendor)
    given = overlay(folder, parameters) if folder else {}
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
        path, sha256 = _unpacked(given.get(name, root / place if root else Path(place)))
        modules.append((Module(name, f"{name}.ko", dict(parameters.get(name, {}))), path))
        if name in parameters:
            hashes[name] = sha256
    return modules, hashes
