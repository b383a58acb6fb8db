"""The Debian package: lintian finds no error in it, and it holds what it should."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = ("dpkg-buildpackage", "dh", "lintian")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        any(shutil.which(tool) is None for tool in TOOLS) or not Path("/usr/bin/python3").exists(),
        reason=f"needs Debian's {', '.join(TOOLS)} and python3",
    ),
]


def said(*command: str | Path) -> str:
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


def test_the_package_is_whole_and_without_lintians_errors() -> None:
    package = ROOT / said(ROOT / "scripts/deb.sh").split()[-1]
    assert "E: " not in said("lintian", package)
    held = said("dpkg-deb", "--contents", package)
    for path in (
        "usr/bin/kvmharness",
        "usr/lib/kvmharness/kvmharness/blobs/long64.bin",
        "usr/lib/kvmharness/kvmharness/suites/quick.toml",
        "usr/lib/kvmharness/msgspec/__init__.py",
        "usr/share/man/man1/kvmharness-run.1.gz",
        "usr/share/bash-completion/completions/kvmharness",
        "usr/share/zsh/vendor-completions/_kvmharness",
    ):
        assert path in held
    assert "direct_url" not in held
