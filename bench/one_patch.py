"""One patch, two modules: what the CR0.WP cure alone does, with nothing else different.

Builds KVM's modules of Debian's 6.1 twice from its own source, headers and configuration, as
they are and with the cure switched off by one line, and measures both in the same kernel by
the lab.  It needs gcc-12, make, and Debian's packages, which are fetched into the cache.

    python bench/one_patch.py [FOLDER]     run files go there; default: one-patch
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from kvmharness import cache
from kvmharness.errors import HarnessError
from kvmharness.kernel import debian

RELEASE = "6.1.0-56-amd64"
SOURCE = "linux-source-6.1"
PACKAGES = [
    SOURCE,
    f"linux-headers-{RELEASE}",
    "linux-headers-6.1.0-56-common",
    "linux-kbuild-6.1",
]
MODULES = ("kvm.ko", "kvm-amd.ko", "kvm-intel.ko")
# kvm_post_set_cr0(), as commit 01b31714bd90 ("KVM: x86: Do not unload MMU roots when only
# toggling CR0.WP with TDP enabled") (in v6.4, v6.1.29) left it: without this branch a toggle
# goes on to kvm_mmu_reset_context().  Its roots are not rebuilt all the same: commit
# edbdb43fc96b ("KVM: x86: Preserve TDP MMU roots until they are explicitly invalidated") (in
# v6.4, in 6.1.y too) keeps them alive to be found again.
FILE = Path("arch/x86/kvm/x86.c")
CURED = "if (tdp_enabled && (cr0 ^ old_cr0) == X86_CR0_WP) {"
UNCURED = "if (0 && tdp_enabled && (cr0 ^ old_cr0) == X86_CR0_WP) {"


def lay_out(into: Path) -> None:
    """Make a tree to build arch/x86/kvm in: headers, kbuild and KVM's own source together."""
    unpacked = into / "packages"
    unpacked.mkdir()
    for deb in debian.download(PACKAGES, into):
        subprocess.run(["dpkg-deb", "-x", deb, unpacked], check=True)
        deb.unlink()
    sources = unpacked / "usr/src"
    tree = into / "tree"
    headers = sources / f"linux-headers-{RELEASE}"
    shutil.copytree(sources / "linux-headers-6.1.0-56-common", tree, symlinks=True)
    for name in ("scripts", "tools"):
        link = tree / name
        link.unlink() if link.is_symlink() else shutil.rmtree(link)
        shutil.copytree(unpacked / "usr/lib/linux-kbuild-6.1" / name, link, symlinks=True)
    for name in (".config", ".kernelvariables", "Module.symvers"):
        shutil.copy2(headers / name, tree / name)
    for name in ("include", "arch"):
        shutil.copytree(headers / name, tree / name, symlinks=True, dirs_exist_ok=True)
    wanted = [f"{SOURCE}/arch/x86/kvm", f"{SOURCE}/virt"]
    archive = sources / f"{SOURCE}.tar.xz"
    command = ["tar", "xf", str(archive), "-C", str(tree), "--strip-components=1", *wanted]
    subprocess.run(command, check=True)


def build(tree: Path, log: Path, into: Path) -> None:
    """Build KVM's modules and keep them in a folder."""
    print(f"building {log.stem}", file=sys.stderr, flush=True)
    jobs = f"-j{len(os.sched_getaffinity(0))}"
    target = ["M=arch/x86/kvm", f"KERNELRELEASE={RELEASE}", "modules"]
    with log.open("w") as file:
        done = subprocess.run(
            ["make", "-C", tree, jobs, *target], stdout=file, stderr=file, check=False
        )
    if done.returncode:
        sys.exit(f"one_patch: make failed; see {log}")
    for name in MODULES:
        shutil.copy2(tree / "arch/x86/kvm" / name, into / name)


def switched_off(text: str) -> str:
    """Return the source with the cure switched off, or end where it is not as expected."""
    if text.count(CURED) != 1:
        sys.exit(f"one_patch: {FILE} of {SOURCE} has changed; see kvm_post_set_cr0()")
    return text.replace(CURED, UNCURED)


def builds() -> dict[str, Path]:
    """Return the folders of KVM's modules, "cured" and "uncured", built where they are not yet."""
    if shutil.which("gcc-12") is None:
        sys.exit("one_patch: no gcc-12, which Debian built 6.1 with; apt-get install gcc-12")
    home = cache.made_once(cache.folder("one-patch") / RELEASE, lay_out)
    built: dict[str, Path] = {}
    tree = home / "tree"
    source = tree / FILE
    original = home / "x86.c"
    if not original.exists():
        shutil.copy2(source, original)
    for name, text in (
        ("cured", original.read_text()),
        ("uncured", switched_off(original.read_text())),
    ):
        source.write_text(text)
        built[name] = home / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        log = built[name].with_suffix(".log")
        cache.made_once(built[name], functools.partial(build, tree, log))
    return built


def main() -> None:
    """Build both, measure both."""
    output = Path(sys.argv[1] if len(sys.argv) > 1 else "one-patch")
    for name, modules in builds().items():
        lab = [sys.executable, "-m", "kvmharness", "lab", f"linux-image-{RELEASE}"]
        cases = [f"--case=long64/{op}" for op in ("empty", "cr0_wp", "cr4_smep", "cpuid")]
        variants = ["--variant", "tdp", "--variant", "legacy", "--variant", "shadow"]
        options = ["--kvm-modules", str(modules), "-o", str(output / name)]
        status = subprocess.run([*lab, *cases, *variants, *options], check=False).returncode
        if status:
            sys.exit(status)


if __name__ == "__main__":
    try:
        main()
    except HarnessError as error:
        sys.exit(f"one_patch: {error}")
