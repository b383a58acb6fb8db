"""Bochs: classes on real kernels, every way to end provoked, nothing left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from kvmharness.errors import UsageError
from kvmharness.kernel import resolve
from kvmharness.kernel.resolve import Kernel
from kvmharness.lab import bochs, bootdisk, engine
from kvmharness.lab.boot import CONSOLE, RESULTS, Boot
from kvmharness.lab.engine import Left, Runner
from kvmharness.lab.machines import BOCHS_VMX
from kvmharness.model import runfile
from kvmharness.model.run import Run
from tests.support.figures import case, median
from tests.support.kernels import CURED, REQUIRE, UNCURED, need_lab, newest
from tests.support.pvh import pvh_kernel
from tests.support.small_disk import small_disk

__all__ = ["pvh_kernel"]

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1800)]
INITRD = b"an initrd of 24 bytes..."
CASES = ("long64/empty", "long64/cr0_wp", "long64/cpuid", "real16/cr0_wp", "long64/cr4_pke")


@pytest.fixture(autouse=True)
def need_bochs() -> None:
    missing = bochs.BOCHS.missing()
    if missing and os.environ.get(REQUIRE) == "1":
        pytest.fail(f"{REQUIRE}=1 but {missing} are not installed")
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def boot(folder: Path, kernel: Kernel, *words: str, silent_s: float = 60.0) -> Boot:
    """Return a boot of a kernel with an initrd of a few bytes."""
    initrd = folder / "initrd.cpio"
    initrd.write_bytes(INITRD)
    return Boot(kernel, BOCHS_VMX, [initrd], words, folder, silent_s)


class Straight(Boot):
    """A boot whose command line is the words given and no more."""

    def command_line(self) -> str:
        return " ".join(self.options)


def run(one: Boot, heard: Callable[[str], None] = lambda line: None) -> Left:
    straight = Straight(*(getattr(one, name) for name in Boot.__dataclass_fields__))
    return Runner().run(straight, heard)


def why_lost(left: Left) -> str:
    assert left.lost is not None
    return str(left.lost)


# A kernel of a few hundred bytes: the boot sector, and how a run of Bochs ends.


def words_of(values: bytes) -> int:
    padded = values + bytes(-len(values) % 4)
    words = (int.from_bytes(padded[at : at + 4], "little") for at in range(0, len(padded), 4))
    return sum(words) & 0xFFFFFFFF


def test_a_kernel_finds_all_that_it_was_given(pvh_kernel: Kernel, tmp_path: Path) -> None:
    one = boot(tmp_path, pvh_kernel, "off", "and=more")
    left = run(one)
    assert "the machine ended before the inside began" in why_lost(left)
    line, magic, entries, own, initrd, size = (tmp_path / CONSOLE).read_text().splitlines()
    assert (line, magic) == ("off and=more", "336ec578")
    assert int(entries, 16) >= 2
    assert int(own, 16) == 1000 * (0x01234567 + 0x89ABCDEF) & 0xFFFFFFFF
    assert int(initrd, 16) == words_of(INITRD)
    assert int(size, 16) == len(INITRD)


def test_a_triple_fault_ends_the_machine_as_power_off_does(
    pvh_kernel: Kernel, tmp_path: Path
) -> None:
    left = run(boot(tmp_path, pvh_kernel, "panic"))
    assert "the machine ended before the inside began" in why_lost(left)


def test_a_hang_is_ended(
    pvh_kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BOOT_SILENT_S", 3.0)
    left = run(boot(tmp_path, pvh_kernel, "hang"))
    assert "silent for 3 s while booting" in why_lost(left)


def test_a_lock_that_a_killed_bochs_left_does_not_matter(
    pvh_kernel: Kernel, tmp_path: Path
) -> None:
    (tmp_path / f"{bochs.DISK}.lock").touch()
    run(boot(tmp_path, pvh_kernel, "off"))
    assert (tmp_path / CONSOLE).read_text().startswith("off\n")


def test_a_disk_that_another_bochs_holds_is_told(pvh_kernel: Kernel, tmp_path: Path) -> None:
    left = run(
        boot(tmp_path, pvh_kernel, "off"), lambda _: (tmp_path / f"{bochs.DISK}.lock").touch()
    )
    assert "Bochs ended with status 1: " in why_lost(left)
    assert "could not open hard drive image file" in why_lost(left)


def test_a_disk_that_is_torn_is_told_by_the_boot_sector(pvh_kernel: Kernel, tmp_path: Path) -> None:
    def tear(_: str) -> None:
        disk = tmp_path / bochs.DISK
        data = bytearray(disk.read_bytes())
        at = bootdisk.loader().fields["boot_pieces"]
        data[at + 4 : at + 8] = (1 << 27).to_bytes(4, "little")  # a sector that it does not have
        disk.write_bytes(data)

    left = run(boot(tmp_path, pvh_kernel, "off"), tear)
    assert left.lost is not None
    assert left.lost.console == "boot sector: the disk cannot be read"


def test_an_unknown_cpu_is_told_as_bochs_says_it(pvh_kernel: Kernel, tmp_path: Path) -> None:
    def change(_: str) -> None:
        setup = tmp_path / bochs.SETUP
        setup.write_text(setup.read_text().replace(BOCHS_VMX.cpu, "no_such_cpu"))

    left = run(boot(tmp_path, pvh_kernel, "off"), change)
    assert "Bochs ended with status 1: " in why_lost(left)
    assert "cpu" in why_lost(left)


def test_a_kernel_that_cannot_be_entered_is_refused(tmp_path: Path) -> None:
    image = tmp_path / "vmlinux"
    image.write_bytes(b"no kernel")
    with pytest.raises(UsageError, match="it has no PVH entry"):
        run(boot(tmp_path, Kernel("none", "none", image, None, "6.1"), "off"))


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "small", "16m") as folder:
        yield folder


def test_a_disk_image_for_which_there_is_no_room_is_told(pvh_kernel: Kernel, small: Path) -> None:
    (small / "full").write_bytes(bytes((16 << 20) - (64 << 10)))
    with pytest.raises(OSError, match="No space left on device"):
        run(boot(small, pvh_kernel, "off"))


def test_output_for_which_there_is_no_room_is_a_lost_machine(
    pvh_kernel: Kernel, small: Path
) -> None:
    def fill(_: str) -> None:
        with contextlib.suppress(OSError), (small / "full").open("wb", buffering=0) as full:
            while True:
                full.write(bytes(1 << 12))

    left = run(boot(small, pvh_kernel, "off"), fill)
    assert left.files == {}
    assert left.lost is not None


# What a harness that is killed leaves: no Bochs.

HANGING = """
import sys
from pathlib import Path
from tests.lab.test_bochs import boot, run
from tests.support.pvh import build
folder = Path(sys.argv[1])
run(boot(folder, build(folder), "hang"), lambda line: print(line, flush=True))
"""


def bochs_in(folder: Path) -> list[int]:
    """Return the processes of Bochs that run in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            here = os.readlink(process / "cwd") == str(folder)
        except OSError:
            continue
        if here and (process / "comm").read_text().startswith("bochs"):
            found.append(int(process.name))
    return found


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_bochs_dies_with_the_harness(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-c", HANGING, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as harness:
        assert wait_until((tmp_path / CONSOLE).exists)
        assert bochs_in(tmp_path)
        harness.send_signal(number)
        harness.wait()
        assert wait_until(lambda: not bochs_in(tmp_path))


# Debian's kernels.


def run_lab(folder: Path, series: Sequence[str], *arguments: str) -> str:
    command = [sys.executable, "-m", "kvmharness", "lab", *map(newest, series)]
    command += ["--machine", "bochs-vmx", *arguments, "-o", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1700)
    # 3: two VMs may differ by more than the interval that is asked for.
    assert done.returncode in {0, 3}, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Measure both kernels with both TDP MMUs; return the folder of the run files."""
    need_lab()
    folder = tmp_path_factory.mktemp("bochs") / "runs"
    chosen = [f"--case={name}" for name in CASES]
    run_lab(folder, [UNCURED, CURED], "--variant=tdp", "--variant=legacy", *chosen, "--vms=2")
    return folder


def run_of(folder: Path, series: str, variant: str) -> Run:
    (path,) = folder.glob(f"{series}.*-{variant}.json")
    return runfile.read(path)


@pytest.mark.parametrize(
    ("series", "variant", "expected"),
    [
        (UNCURED, "tdp", "exit/rebuilt"),
        (UNCURED, "legacy", "exit/reloaded"),
        (CURED, "tdp", "no-exit/kept"),
        (CURED, "legacy", "no-exit/kept"),
    ],
)
def test_the_regression_and_its_cure_are_told_by_their_class(
    measured: Path, series: str, variant: str, expected: str
) -> None:
    one = run_of(measured, series, variant)
    assert str(case(one, "long64/cr0_wp").class_) == expected
    assert str(case(one, "real16/cr0_wp").class_) == expected
    assert str(case(one, "long64/empty").class_) == "no-exit/kept"
    assert str(case(one, "long64/cpuid").class_) == "exit/kept"


def test_a_toggle_that_the_guest_owns_costs_its_two_instructions(measured: Path) -> None:
    one = run_of(measured, CURED, "tdp")
    assert median(one, "long64/empty") == 2.06
    assert median(one, "long64/cr0_wp") == 4.06


def test_exits_are_told_by_intels_names(measured: Path) -> None:
    toggle = case(run_of(measured, UNCURED, "legacy"), "long64/cr0_wp")
    assert toggle.exit_reasons["CR_ACCESS"] == pytest.approx(1, abs=0.01)


def test_what_bochs_cpu_lacks_is_skipped_with_that_reason(measured: Path) -> None:
    assert "no PKU here" in (case(run_of(measured, CURED, "tdp"), "long64/cr4_pke").skipped or "")


def test_a_run_says_in_what_it_was_measured(measured: Path) -> None:
    one = run_of(measured, CURED, "tdp")
    assert one.clock == "insn"
    lab = one.host.lab
    assert lab is not None
    assert (lab.machine, lab.variant) == ("bochs-vmx", "tdp")
    assert (lab.emulator.name, lab.emulator.cpu) == ("Bochs", BOCHS_VMX.cpu)
    assert set(lab.modules) == {"kvm", "kvm_intel"}
    assert one.host.kvm.parameters["kvm_intel"]["ept"] == "Y"
    assert one.host.kvm.module == "kvm_intel"


def test_a_second_boot_gives_the_same_figures(tmp_path: Path) -> None:
    chosen = ("--case=long64/empty", "--case=long64/cr0_wp", "--case=long64/cpuid")
    folders = tmp_path / "first", tmp_path / "second"
    for folder in folders:
        run_lab(folder, [UNCURED], "--variant=legacy", *chosen, "--vms=2")
    first, second = (run_of(folder, UNCURED, "legacy") for folder in folders)
    for name in ("long64/empty", "long64/cr0_wp", "long64/cpuid"):
        assert median(first, name) == median(second, name)


# What a kernel of Debian's does when it cannot go on.


def test_a_kernel_that_panics_is_lost_with_its_first_lines(tmp_path: Path) -> None:
    """The initrd is none, and there is no other root."""
    kernel = resolve.resolve(newest(CURED))
    left = Runner().run(boot(tmp_path, kernel), lambda line: None)
    assert left.lost is not None
    assert "the machine ended before the inside began" in str(left.lost)
    assert "Kernel panic - not syncing: VFS: Unable to mount root fs" in left.lost.console


def test_a_kernel_without_serial_ports_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BOOT_SILENT_S", 20.0)
    kernel = resolve.resolve(newest(CURED))
    left = Runner().run(boot(tmp_path, kernel, "8250.nr_uarts=0"), lambda line: None)
    assert left.lost is not None
    assert not (tmp_path / RESULTS).exists()
