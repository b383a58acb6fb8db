"""A kernel of a few hundred bytes for the tests of what loads and bounds one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from kvmharness.kernel.resolve import Kernel

SOURCE = Path(__file__).with_suffix(".S")


def build(folder: Path) -> Kernel:
    """Assemble it and return it as a kernel to boot."""
    object_, image = folder / "pvh.o", folder / "vmlinux"
    subprocess.run(["cc", "-c", "-o", object_, SOURCE], check=True)
    link = ["ld", "-Ttext=0x1000000", "-e", "entry", "--build-id=none", "-z", "noexecstack"]
    subprocess.run([*link, "-o", image, object_], check=True)
    return Kernel("a kernel", "a-kernel", image, None, "6.1")


@pytest.fixture(scope="session")
def pvh_kernel(tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    if shutil.which("cc") is None or shutil.which("ld") is None:
        pytest.skip("nothing here to assemble a kernel with")
    return build(tmp_path_factory.mktemp("pvh"))
