"""One patch, two modules: what the CR0.WP cure alone does, with nothing else different.

Builds KVM's modules of Debian's 6.1 twice from its own source, headers and configuration, as
they are and with the cure switched off by one line, and measures both in the same kernel by
the lab.  It needs gcc-12, make, and Debian's packages, which are fetched into the cache.

    python bench/one_patch.py [FOLDER]     run files go there; default: one-patch
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import kvm_builds
from kvm_builds import Edit

from kvmharness.errors import HarnessError

# kvm_post_set_cr0(), as commit 01b31714bd90 ("KVM: x86: Do not unload MMU roots when only
# toggling CR0.WP with TDP enabled") (in v6.4, v6.1.29) left it: without this branch a toggle
# goes on to kvm_mmu_reset_context().  Its roots are not rebuilt all the same: commit
# edbdb43fc96b ("KVM: x86: Preserve TDP MMU roots until they are explicitly invalidated") (in
# v6.4, in 6.1.y too) keeps them alive to be found again.
SWITCHED_OFF = Edit(
    "x86.c",
    "if (tdp_enabled && (cr0 ^ old_cr0) == X86_CR0_WP) {",
    "if (0 && tdp_enabled && (cr0 ^ old_cr0) == X86_CR0_WP) {",
)


def builds() -> dict[str, Path]:
    """Return the folders of KVM's modules, "cured" and "uncured", built where they are not yet."""
    return {
        "cured": kvm_builds.build("unchanged"),
        "uncured": kvm_builds.build("uncured", [SWITCHED_OFF]),
    }


def main() -> None:
    """Build both, measure both."""
    output = Path(sys.argv[1] if len(sys.argv) > 1 else "one-patch")
    for name, modules in builds().items():
        lab = [sys.executable, "-m", "kvmharness", "lab", kvm_builds.KERNEL]
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
