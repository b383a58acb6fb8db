"""Explain what docs/explain.md speaks of: three pairs of kernels, each a table and three graphs.

5.10 with the legacy MMU and with the TDP MMU; 6.1 and 6.12; 6.1's KVM with the cure switched
off and on, built by one_patch.py, which says what it needs.

    python bench/explain_examples.py [FOLDER]     default: docs/explain
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from explain_exact import newest
from kvm_builds import RELEASE
from one_patch import builds

from kvmharness.errors import HarnessError

CASE = "long64/cr0_wp"
# What explain writes and a page does not need.
LEFT_OUT = ("*.folded", "*.callgrind", "explain.json")


def explain(folder: Path, *arguments: str) -> None:
    """Explain into a folder: what is printed as table.txt, and the graphs."""
    print(folder.name, file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "kvmharness", "explain", CASE, "--lab", *arguments]
    done = subprocess.run(
        [*command, "-o", str(folder)], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.returncode)
    shown = [line.rstrip() for line in done.stdout.splitlines() if not line.startswith("written:")]
    (folder / "table.txt").write_text("\n".join(shown) + "\n")
    for pattern in LEFT_OUT:
        for path in folder.glob(pattern):
            path.unlink()


def main() -> None:
    """Explain all three."""
    output = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/explain")
    output.mkdir(parents=True, exist_ok=True)
    old, new, newer = (newest(series) for series in ("5.10", "6.1", "6.12"))
    explain(output / "5.10-legacy-tdp", old, "--variant", "legacy", "--variant", "tdp")
    explain(output / "6.1-6.12", new, newer, "--variant", "tdp")
    modules = builds()
    folders = [f"--kvm-modules={modules[name]}" for name in ("uncured", "cured")]
    kernel = f"linux-image-{RELEASE}"
    explain(output / "6.1-uncured-cured", kernel, "--variant", "tdp", *folders)


if __name__ == "__main__":
    try:
        main()
    except HarnessError as error:
        sys.exit(f"explain_examples: {error}")
