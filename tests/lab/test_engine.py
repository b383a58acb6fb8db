"""Every way in which a machine may end, by a shell script in place of an emulator."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kvmharness.errors import LabLost
from kvmharness.kernel.resolve import Kernel
from kvmharness.lab import engine
from kvmharness.lab.boot import CONSOLE, RESULTS, Boot, LabMachine
from kvmharness.lab.engine import Left, Runner
from kvmharness.lab.job import OUTCOME, RUN
from kvmharness.lab.wire import Sender
from tests.support.small_disk import small_disk

Run = Callable[..., Left]


@dataclass(frozen=True)
class Script:
    """An emulator that is a shell script in the job's folder."""

    text: str
    terminal: bool = False
    saves: bool = False
    name: str = "sh"
    memory_mib: int = 1
    options: tuple[str, ...] = ()
    slowest: float = 1.0

    def missing(self) -> list[str]:
        return []

    def version(self) -> str:
        return "1"

    def identity(self, boot: Boot) -> None:
        del boot

    def command(self, boot: Boot) -> list[str]:
        return ["sh", "-c", f"cd {shlex.quote(str(boot.folder))}\n{self.text}"]

    def interactive(self, boot: Boot) -> list[str]:
        return self.command(boot)

    def ended(self, status: int, said: str) -> str | None:
        return f"sh ended with status {status}: {said.strip()}" if status else None


def boot(folder: Path, text: str, silent_s: float = 100.0, terminal: bool = False) -> Boot:
    machine = LabMachine("script", Script(text, terminal), "none", "kvm_amd", "insn")
    kernel = Kernel("a kernel", "a-kernel", folder / "vmlinux", None, "6.1")
    return Boot(kernel, machine, [], [], folder, silent_s)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def call(text: str, **options: object) -> Left:
        return Runner().run(boot(tmp_path, text, **options), lambda line: None)  # type: ignore[arg-type]

    return call


def sending(folder: Path, name: str, *files: str) -> str:
    """Write what a Sender sends into a file; return the shell command that sends it."""
    with (folder / name).open("wb", buffering=0) as port:
        sender = Sender(port)
        sender.say("measuring")
        for file in files:
            sender.send(file, file.encode())
    return f"cat {name} >> {RESULTS}"


def lost(left: Left) -> LabLost:
    assert left.lost is not None
    return left.lost


def test_a_machine_that_turns_itself_off_leaves_its_files(run: Run, tmp_path: Path) -> None:
    left = run(sending(tmp_path, "all", RUN, OUTCOME))
    assert left == Left({RUN: RUN.encode(), OUTCOME: OUTCOME.encode()})


def test_one_that_cannot_turn_itself_off_is_ended(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "OFF_S", 0.2)
    left = run(f"{sending(tmp_path, 'all', OUTCOME)}; sleep 100")
    assert (left.lost, set(left.files)) == (None, {OUTCOME})


def test_silence_is_a_hang_and_what_came_before_is_kept(run: Run, tmp_path: Path) -> None:
    left = run(f"{sending(tmp_path, 'some', RUN)}; sleep 100", silent_s=0.3)
    assert "a kernel: silent for 0.3 s while measuring" in str(left.lost)
    assert set(left.files) == {RUN}


def test_a_kernel_that_never_says_anything_is_a_hang(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BOOT_SILENT_S", 0.3)
    assert "silent for 0.3 s while booting" in str(run("sleep 100").lost)


def test_who_goes_on_talking_is_not_ended(run: Run, tmp_path: Path) -> None:
    some, all_ = (sending(tmp_path, "some", RUN), sending(tmp_path, "all", OUTCOME))
    talk = f"for n in 1 2 3 4 5 6 7 8; do sleep 0.1; echo $n >> {CONSOLE}; done"
    assert run(f"{some}; {talk}; {all_}", silent_s=0.5).lost is None


@pytest.fixture
def taken_cpu() -> Iterator[int]:
    """A CPU that a real-time spinner takes: the kernel leaves the others a twentieth of it."""
    cpu = max(os.sched_getaffinity(0))
    command = ["taskset", "-c", str(cpu), "chrt", "-f", "1", "sh", "-c", "while :; do :; done"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as spinner:
        time.sleep(0.2)
        if spinner.poll() is not None:
            pytest.skip("real-time priority is not allowed here")
        yield cpu
        spinner.kill()


def test_who_gets_no_cpu_is_not_silent(run: Run, tmp_path: Path, taken_cpu: int) -> None:
    some, all_ = (sending(tmp_path, "some", RUN), sending(tmp_path, "all", OUTCOME))
    busy = "read now _ </proc/uptime; end=$((${now%.*} + 7))"
    busy += "; while [ ${now%.*} -lt $end ]; do read now _ </proc/uptime; done"
    began = time.monotonic()
    left = run(f"{some}; taskset -p -c {taken_cpu} $$ >said; {busy}; {all_}", silent_s=3.5)
    assert left.lost is None
    # It took longer than that, or this has shown nothing.  A wait is told once it is over: each is
    # a second, or some where others too want what the spinner leaves.
    assert time.monotonic() - began > 5


def test_a_panic_is_shown_from_its_first_line(run: Run) -> None:
    said = lost(
        run(
            f"echo '[ 1.0] fine' > {CONSOLE}; echo '[ 1.1] Kernel panic - not syncing: why' "
            f">> {CONSOLE}; seq 100 >> {CONSOLE}"
        )
    )
    assert "the machine ended before the inside began" in str(said)
    lines = said.console.splitlines()
    assert lines[:2] == ["[ 1.1] Kernel panic - not syncing: why", "1"]
    assert len(lines) == engine.SHOWN_LINES


def test_without_a_panic_the_last_lines_are_shown(run: Run) -> None:
    assert lost(run(f"seq 100 > {CONSOLE}")).console.splitlines()[-1] == "100"


def test_results_that_were_cut_short_are_said_to_be(run: Run, tmp_path: Path) -> None:
    sending(tmp_path, "all", RUN, OUTCOME)
    cut = f"sed '/^file {RUN}/n; /^file {RUN}/,/^end/ s/^e/f/' all | head -n 3 > cut"
    left = run(f"{cut}; cat cut > {RESULTS}; echo 'end run.json 9 0' >> {RESULTS}")
    assert "what it sent came damaged: run.json" in str(left.lost)
    assert left.files == {}


def test_a_machine_that_ends_early_is_lost(run: Run, tmp_path: Path) -> None:
    left = run(sending(tmp_path, "some", RUN))
    assert "the machine ended before its job did" in str(left.lost)
    assert set(left.files) == {RUN}


def test_an_emulator_that_fails_says_why(run: Run) -> None:
    assert "sh ended with status 3: no such CPU" in str(run("echo no such CPU >&2; exit 3").lost)


def test_an_emulator_that_is_killed_is_lost(run: Run) -> None:
    assert "sh ended with status -9" in str(run("kill -9 $$").lost)


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A file system of one page."""
    with small_disk(tmp_path / "small", "4k") as folder:
        yield folder


def test_a_full_disk_under_the_results_is_lost(full: Path, tmp_path: Path) -> None:
    sending(tmp_path, "all", RUN, *("x" * 3000 for _ in range(3)), OUTCOME)
    text = f"seq 800 > {CONSOLE}; cat {tmp_path}/all > {RESULTS}; exit 0"
    left = Runner().run(boot(full, text), lambda line: None)
    assert "the machine ended before" in str(left.lost)


def test_an_emulator_may_have_a_terminal(run: Run, tmp_path: Path) -> None:
    done = sending(tmp_path, "all", OUTCOME)
    left = run(f"test -t 0 && test -t 1 && seq 100000 && {done}", terminal=True)
    assert left.lost is None


def test_a_stop_ends_what_runs_and_lets_nothing_begin(tmp_path: Path) -> None:
    runner = Runner()
    found: list[Left] = []

    def work() -> None:
        found.append(runner.run(boot(tmp_path, "echo > began; sleep 100"), lambda line: None))

    thread = threading.Thread(target=work)
    thread.start()
    wait_until((tmp_path / "began").exists)
    runner.stop()
    thread.join(10)
    assert "sh ended with status -9" in str(found[0].lost)
    with pytest.raises(LabLost, match="interrupted before it was booted"):
        runner.run(boot(tmp_path, "true"), lambda line: None)


def test_nothing_outlives_a_harness_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.lab.test_engine import boot, Runner\n"
        "text = 'echo $$ > pid; exec sleep 100'\n"
        "Runner().run(boot(Path(sys.argv[1]), text), lambda line: None)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) as harness:
        wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        pid = int((tmp_path / "pid").read_text())
        assert Path("/proc", str(pid)).exists()
        harness.kill()
    wait_until(lambda: not alive(pid))


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
