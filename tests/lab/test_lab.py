"""The lab on real kernels: classes proved, every way to be lost provoked, nothing left behind."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from kvmharness import cache
from kvmharness.errors import LabLost
from kvmharness.kernel import resolve, variants
from kvmharness.kernel.variants import Variant
from kvmharness.lab import engine, matrix, planning, qemu
from kvmharness.lab.boot import LabMachine
from kvmharness.lab.machines import TCG_SVM
from kvmharness.lab.planning import LabPlan, Target
from kvmharness.lab.workshop import Workshop
from kvmharness.model import runfile
from kvmharness.model.cases import select
from kvmharness.model.run import Run, Settings
from tests.support.figures import case, median
from tests.support.kernels import CURED, UNCURED, need_lab, newest

Call = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]
CASES = ("long64/empty", "long64/cr0_wp", "long64/cpuid")


@pytest.fixture(autouse=True)
def lab() -> None:
    need_lab()


def run_lab(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kvmharness", "lab", "--machine", "tcg-svm", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Measure both kernels by the command line, at once; return the folder and the output."""
    need_lab()
    folder = tmp_path_factory.mktemp("lab") / "runs"
    names = [newest(UNCURED), newest(CURED)]
    chosen = [f"--case={name}" for name in CASES]
    done = run_lab(*names, "--variant", "tdp", *chosen, "--vms", "2", "-o", str(folder))
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def run_of(measured: tuple[Path, str], series: str) -> Run:
    (path,) = measured[0].glob(f"{series}.*-tdp.json")
    return runfile.read(path)


def test_the_regression_and_its_cure_are_told_by_their_class(measured: tuple[Path, str]) -> None:
    uncured, cured = (run_of(measured, series) for series in (UNCURED, CURED))
    assert str(case(uncured, "long64/cr0_wp").class_) == "exit/rebuilt"
    assert str(case(cured, "long64/cr0_wp").class_) == "exit/kept"
    assert uncured.host.kvm.role_layout.value == "unified"
    assert cured.host.kvm.role_layout.value == "split"
    for run in (uncured, cured):
        assert str(case(run, "long64/empty").class_) == "no-exit/kept"
        assert str(case(run, "long64/cpuid").class_) == "exit/kept"


def test_the_figures_are_those_of_the_classes(measured: tuple[Path, str]) -> None:
    uncured, cured = (run_of(measured, series) for series in (UNCURED, CURED))
    assert median(uncured, "long64/cr0_wp") > 20 * median(cured, "long64/cr0_wp")
    # The loop's decrement and jump, and its share of the six instructions around a sample.
    assert median(uncured, "long64/empty") == median(cured, "long64/empty") == 2.06


@pytest.mark.parametrize("name", ["long64/cr0_wp", "long64/cpuid"])
def test_qemu_saw_the_vmruns_that_kvm_counted(measured: tuple[Path, str], name: str) -> None:
    for run in (run_of(measured, series) for series in (UNCURED, CURED)):
        counters = case(run, name).counters
        # A tick of the kernel's timer is an exit too, and these are other samples.
        assert counters["opcode.vmrun"] == pytest.approx(counters["kvm:kvm_entry"], abs=0.02)


def test_a_run_of_the_lab_says_what_it_is(measured: tuple[Path, str]) -> None:
    folder, out = measured
    run = run_of(measured, CURED)
    assert run.clock == "insn"
    assert run.finished is not None
    assert all(c.unit == "insn" and c.tsc is None and c.tsc_khz is None for c in run.cases)
    assert all(len(c.samples) == 26 for c in run.cases)
    lab = run.host.lab
    assert lab is not None
    assert (lab.machine, lab.variant, lab.kernel) == ("tcg-svm", "tdp", newest(CURED))
    assert set(lab.modules) == {"kvm", "kvm_amd"}
    assert lab.l0.kernel.release == os.uname().release
    assert lab.emulator.cpu == TCG_SVM.cpu
    assert "kvm.tdp_mmu=1" in (run.host.kernel.cmdline or "")
    assert run.host.kvm.parameters["kvm"]["tdp_mmu"] == "Y"
    assert run.host.name == "lab"
    # Remarks fit the terminal that COLUMNS names.
    assert " ".join(out.split()).count("They rank kernels; they are no nanoseconds.") == 2
    assert len(list(folder.glob("*.log"))) == 2


SETTINGS = Settings(1, 2, 1.0, 20, 0, 1.0, 10.0)
DEFAULT = variants.parse("default")


def plan(output: Path | None = None) -> LabPlan:
    return LabPlan(
        select(["long64/empty"]), {"insn": SETTINGS}, None, None, output, snapshots=False
    )


def measure(
    kernel: resolve.Kernel, variant: Variant = DEFAULT, machine: LabMachine = TCG_SVM
) -> planning.Result:
    (result,) = matrix.measure([Target(kernel, variant, machine)], plan(), 1, lambda _, line: None)
    return result


@pytest.fixture
def cured() -> resolve.Kernel:
    return resolve.resolve(newest(CURED))


@pytest.mark.parametrize("flavour", ["cloud", "rt"])
def test_a_kernel_without_9p_or_virtio_is_enough(flavour: str) -> None:
    name = newest(CURED).replace("-amd64", f"-{flavour}-amd64")
    result = measure(resolve.resolve(name))
    assert result.lost is None
    assert result.run is not None
    assert median(result.run, "long64/empty") == pytest.approx(2.3)


def test_a_kernel_that_lacks_what_the_lab_needs_is_refused(
    cured: resolve.Kernel, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text("CONFIG_KVM=y\n# CONFIG_TTY is not set\n")
    bare = tmp_path / "vmlinuz"
    bare.symlink_to(cured.image)
    result = measure(dataclasses.replace(cured, image=bare, modules=tmp_path))
    assert "built without CONFIG_X86_64, " in str(result.lost)
    assert "CONFIG_TTY" in str(result.lost)


def test_a_variant_that_the_kernel_cannot_do_is_skipped(cured: resolve.Kernel) -> None:
    @dataclasses.dataclass(frozen=True)
    class Impossible(Variant):
        def parameters(self, vendor: str) -> dict[str, dict[str, str]]:
            return {"kvm": {"no_such_thing": "1"}, vendor: {}}

    result = measure(cured, Impossible("impossible"))
    assert result.skipped == "kvm has no parameter no_such_thing on this kernel"
    assert result.run is None


def test_a_cpu_without_svm_is_lost(cured: resolve.Kernel) -> None:
    result = measure(cured, machine=dataclasses.replace(TCG_SVM, cpu="EPYC,-svm"))
    assert "kvm_amd: insmod" in str(result.lost)


def lost(result: planning.Result) -> LabLost:
    assert result.lost is not None
    return result.lost


def test_a_kernel_that_panics_is_lost_with_its_first_lines(cured: resolve.Kernel) -> None:
    why = lost(measure(cured, Variant("panics", options=("rdinit=/there-is-none",))))
    assert "the machine ended before the inside began" in str(why)
    assert "Kernel panic - not syncing: VFS" in why.console.splitlines()[0]
    assert "Call Trace" in why.console


def test_a_kernel_that_finds_no_second_port_is_lost(cured: resolve.Kernel) -> None:
    result = measure(cured, Variant("one port", options=("8250.nr_uarts=1",)))
    assert "the machine ended before the inside began" in str(result.lost)


def test_an_unknown_cpu_is_told_as_qemu_says_it(cured: resolve.Kernel) -> None:
    result = measure(cured, machine=dataclasses.replace(TCG_SVM, cpu="no-such-cpu"))
    assert "QEMU ended with status 1: " in str(result.lost)
    assert "no-such-cpu" in str(result.lost)


def test_a_kernel_without_kvm_is_lost_and_the_others_go_on(
    cured: resolve.Kernel, tmp_path: Path
) -> None:
    (tmp_path / "modules.dep").write_text("kernel/fs/9p/9p.ko:\n")
    (tmp_path / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\n")
    without = dataclasses.replace(cured, modules=tmp_path, label="without")
    targets = planning.targets([without, cured], [DEFAULT], [TCG_SVM])
    found = {r.target: r for r in matrix.measure(targets, plan(), 2, lambda _, line: None)}
    assert "has no kvm_amd, as module or built in" in str(found[targets[0]].lost)
    assert found[targets[1]].run is not None


def test_a_kernel_that_came_without_its_modules_says_so(
    cured: resolve.Kernel, tmp_path: Path
) -> None:
    """The reason that /dev/kvm is not there is no firmware's, and no cloud's."""
    alone = tmp_path / "vmlinuz"
    alone.write_bytes(cured.image.read_bytes())
    done = run_lab(str(alone), "--case", "long64/empty")
    assert done.returncode == 4
    assert "this kernel came without modules, and has no KVM built in" in done.stderr


def test_modules_that_are_not_there_are_a_slip_and_nothing_is_booted(
    cured: resolve.Kernel, tmp_path: Path
) -> None:
    done = run_lab(cured.named, "--case", "long64/empty", "--kvm-modules", str(tmp_path))
    assert done.returncode == 2
    assert "no module kvm or kvm_amd" in done.stderr
    assert "booting" not in done.stderr


def test_a_boot_that_hangs_is_lost(cured: resolve.Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "BOOT_SILENT_S", 2.0)
    stopped = dataclasses.replace(qemu.TCG, accelerator=(*qemu.TCG.accelerator, "-S"))
    result = measure(cured, machine=dataclasses.replace(TCG_SVM, emulator=stopped))
    assert "silent for 2 s while booting" in str(result.lost)
    assert not machines_running()


def test_a_guest_that_hangs_ends_its_case_inside(cured: resolve.Kernel) -> None:
    """The limit inside passes by what is executed, long before the one outside."""
    long = msgspec.structs.replace(SETTINGS, iterations=2**32 - 1, timeout_s=0.05)
    chosen = select(["long64/empty"])
    target = Target(cured, DEFAULT, TCG_SVM)
    asked = LabPlan(chosen, {"insn": long}, None, None, None)
    (result,) = matrix.measure([target], asked, 1, lambda _, line: None)
    assert result.run is not None
    assert "rang no doorbell within 0.05 s" in (result.run.cases[0].failed or "")


def test_an_emulator_that_is_killed_is_lost(cured: resolve.Kernel) -> None:
    def kill(_: Target, line: str) -> None:
        if line == "starting":
            for pid in machines_running():
                os.kill(pid, signal.SIGKILL)

    target = Target(cured, DEFAULT, TCG_SVM)
    (result,) = matrix.measure([target], plan(), 1, kill)
    assert "QEMU ended with status -9" in str(result.lost)


def test_a_user_who_is_not_root_boots_too(cured: resolve.Kernel, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("it is so in every other test")
    # With a cache and a home of its own, which nobody may write.
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    command = [
        "setpriv",
        "--reuid",
        "65534",
        "--regid",
        "65534",
        "--clear-groups",
        "--bounding-set",
        "-all",
        "env",
        f"XDG_CACHE_HOME={tmp_path}",
        f"HOME={tmp_path}",
        f"TMPDIR={tmp_path}",
        sys.executable,
        "-m",
        "kvmharness",
        "lab",
        str(cured.image.parents[1]),
        "--case",
        "long64/empty",
        "--machine",
        "tcg-svm",
        "-o",
        str(tmp_path / "runs"),
    ]
    if not readable_by_others(Path(sys.executable), cured.image):
        pytest.skip("Python or the kernel lies where only root may read")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "long64/empty" in done.stdout


def readable_by_others(*paths: Path) -> bool:
    folders = {parent for path in paths for parent in path.resolve().parents}
    return all(folder.stat().st_mode & 0o005 == 0o005 for folder in folders)


def machines_running(of: int | None = None) -> list[int]:
    """Return the ids of the machines that run in the cache's jobs, those of one harness."""
    jobs = f"{cache.folder('jobs')}/{of or os.getpid()}-"
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if jobs in line and line.startswith("qemu-system"):
            found.append(int(path.parent.name))
    return found


def wait_until(condition: Callable[[], object], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_machine_outlives_the_harness(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kvmharness", "lab", newest(CURED), "-o", str(tmp_path)]
    with subprocess.Popen(
        [*command, "--machine", "tcg-svm"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as harness:
        assert wait_until(lambda: machines_running(harness.pid), 60)
        harness.send_signal(number)
        harness.wait(30)
    assert harness.returncode == (-9 if number == signal.SIGKILL else 130)
    assert wait_until(lambda: not machines_running(harness.pid), 5)
    left = [p for p in cache.folder("jobs").iterdir() if p.name.startswith(f"{harness.pid}-")]
    assert bool(left) == (number == signal.SIGKILL)
    with Workshop():  # the next one sweeps up
        assert not any(path.exists() for path in left)


def test_a_truncated_package_is_one_line(tmp_path: Path, kvmharness: Call) -> None:
    deb = tmp_path / "linux-image.deb"
    deb.write_bytes(b"!<arch>\ndebian-binary   1410122664  0     0     100644  4         `\n2.0\n")
    done = kvmharness("lab", str(deb))
    assert (done.returncode, done.stdout) == (2, "")
    assert "unpack linux-image.deb: " in done.stderr
    assert done.stderr.count("\n") == 1
    assert not [p for p in cache.folder("debs").iterdir() if p.is_dir() and p.name[0] == "."]
