"""A real kernel, 6.1 from Debian's source: built by lab.config, booted, measured."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from kvmharness.kernel import build, compiler, resolve
from kvmharness.lab import machines
from tests.support import history
from tests.support.kernels import CURED, need_lab, newest

# A build from nothing takes minutes on a CI machine, from ccache or kept none.
pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(6000)]
OPS = ("empty", "cr0_wp", "cr4_smep", "cpuid")
Cli = Callable[..., CompletedProcess[str]]


@functools.cache
def minimal(named: str) -> resolve.Kernel:
    need_lab(CURED)
    compiler.check_tools()
    return resolve.resolve(named, build.AS_USUAL, print)


def measured(
    kvmharness: Cli, kernel: str, output: Path, *variants: str, machine: str = "tcg-svm"
) -> dict[str, Any]:
    cases = [f"--case=long64/{op}" for op in OPS]
    options = [f"--machine={machine}", *(f"--variant={variant}" for variant in variants)]
    done = kvmharness("lab", kernel, *cases, *options, "-o", str(output), timeout=2700)
    assert done.returncode == 0, done.stderr
    return {
        path.stem.rpartition("-")[2]: json.loads(path.read_text()) for path in output.glob("*.json")
    }


def classes(run: Any) -> dict[str, str]:
    return {case["name"]: case["class"] for case in run["cases"]}


def figures(run: Any) -> dict[str, int]:
    """Each case's median, to the instruction."""
    return {case["name"]: round(case["per_op"]["median"]) for case in run["cases"]}


@pytest.mark.parametrize(
    ("machine", "variants"),
    [("tcg-svm", ("tdp", "legacy", "shadow")), ("bochs-vmx", ("tdp",))],
)
def test_its_classes_are_the_packaged_kernels(
    kvmharness: Cli, tmp_path: Path, machine: str, variants: tuple[str, ...]
) -> None:
    lacking = machines.EMULATED[machine].emulator.missing()
    if lacking:
        pytest.skip(f"{machine} lacks {' '.join(lacking)}")
    minimal(history.PACKAGE)
    own = measured(kvmharness, history.PACKAGE, tmp_path / "own", *variants, machine=machine)
    packaged = measured(
        kvmharness, newest(CURED), tmp_path / "packaged", *variants, machine=machine
    )
    assert set(own) == set(packaged) == set(variants)
    for variant in variants:
        assert classes(own[variant]) == classes(packaged[variant]), variant


def test_the_same_source_built_twice_gives_the_same_figures(
    kvmharness: Cli, tmp_path: Path
) -> None:
    of_git = f"{history.repository()}@base"
    twins = [minimal(history.PACKAGE), minimal(of_git)]
    assert twins[0].image != twins[1].image
    assert twins[1].release.startswith(f"{twins[0].release}-g")
    first, second = (
        measured(kvmharness, kernel.named, tmp_path / name, "tdp")["tdp"]
        for name, kernel in zip(("first", "second"), twins, strict=True)
    )
    assert figures(first) == figures(second)


def test_what_it_has(kvmharness: Cli) -> None:
    kernel = minimal(history.PACKAGE)
    assert kernel.modules is not None
    assert (kernel.modules / "kernel/arch/x86/kvm/kvm-amd.ko").is_file()
    assert (kernel.modules / "kernel/arch/x86/kvm/kvm-intel.ko").is_file()
    shown = kvmharness("kernels", "show", history.PACKAGE).stdout
    assert "split (by btf" in shown
    assert resolve.bootable(kernel).name.startswith("vmlinux-")  # QEMU enters it without firmware
