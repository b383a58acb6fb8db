"""The Debian package: lintian finds no error in it, and it holds what it should."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from kvmharness.model import runfile
from tests.support.samples import made_up_run

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


# What somebody does who has nothing but the package.
USED = """
set -e
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends /root/kvmharness.deb >/dev/null
cd /tmp
kvmharness --version
kvmharness run --list
kvmharness show a.json
kvmharness report a.json -o report.html
kvmharness compare a.json b.json
test -s report.html -a -s /usr/share/man/man1/kvmharness-run.1.gz
"""


@pytest.mark.lab
@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("debootstrap") is None, reason="needs root and debootstrap"
)
def test_it_installs_in_a_clean_system_and_works_there(tmp_path: Path) -> None:
    package = ROOT / said(ROOT / "scripts/deb.sh").split()[-1]
    release = dict(
        line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if line
    )
    system = tmp_path / "system"
    said("debootstrap", "--variant=minbase", release["VERSION_CODENAME"], system)
    shutil.copy(package, system / "root/kvmharness.deb")
    for name in ("a", "b"):
        run = made_up_run()
        run.started += name
        runfile.write(system / f"tmp/{name}.json", run)
    found = said("chroot", system, "sh", "-c", USED)
    assert f"kvmharness, version {package.name.split('_')[1].replace('~', '.')}" in found
    assert "long64/cr0_wp" in found
    assert "costs the same" in found
