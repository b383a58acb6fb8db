"""The command line as a user meets it: output, exit codes, Ctrl-C, kill -9."""

from __future__ import annotations

import json
import os
import pwd
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmharness.errors import Unavailable
from kvmharness.kvm.fds import System
from kvmharness.measure.doctor import examine
from kvmharness.model import runfile
from kvmharness.model.cases import MODES
from tests.support.samples import made_up_run

Call = Callable[..., "subprocess.CompletedProcess[str]"]

FAST = ("--vms", "2", "--samples", "4", "--iterations", "20", "--precision", "100")


def one_line(text: str) -> str:
    assert text.count("\n") == 1, text
    assert "Traceback" not in text
    return text


@pytest.mark.kvm
def test_run_writes_what_it_shows(kvmharness: Call, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    cases = ("long64/cr0_wp", "long64/cpuid", "long64/empty")
    done = kvmharness("run", *cases, "-o", str(path), *FAST)
    assert done.stderr == ""
    assert done.returncode in (0, 3), done.stdout
    assert "long64/cr0_wp" in done.stdout
    run = runfile.read(path)
    assert [c.op for c in run.cases] == ["cr0_wp", "cpuid", "empty"]
    assert all(len(c.samples) == 4 and c.per_op for c in run.cases)
    assert run.finished
    shown = kvmharness("show", str(path))
    assert shown.returncode == 0
    assert shown.stdout == done.stdout


@pytest.mark.kvm
def test_json_on_stdout_is_the_file(kvmharness: Call) -> None:
    done = kvmharness("run", "long64/empty", "--json", *FAST)
    assert json.loads(done.stdout)["cases"][0]["name"] == "long64/empty"


@pytest.mark.kvm
def test_guest_that_takes_too_long_is_exit_4(kvmharness: Call) -> None:
    # One that exits and one that does not.  No toggle: where it does not exit, Bochs flushes its
    # TLB for longer than a lab waits.
    done = kvmharness(
        "run",
        "long64/cpuid",
        "long64/empty",
        "--iterations",
        "4000000000",
        "--timeout",
        "0.2",
        "--vms",
        "1",
    )
    assert done.returncode == 4
    assert "failed: long64/cpuid: guest: rang no doorbell within 0.2 s" in done.stdout
    assert "failed: long64/empty: guest: rang no doorbell within 0.2 s" in done.stdout


def start(path: Path, appears: Path | None = None) -> subprocess.Popen[str]:
    """Start a run that takes long; return when it has saved for the first time."""
    command = [sys.executable, "-m", "kvmharness", "run", "long64/empty", "long64/cr0_wp", "-o"]
    # Many short VMs: the file is written after each round.
    options = ["--vms", "500", "--samples", "500", "--iterations", "50"]
    running = subprocess.Popen([*command, str(path), *options], text=True, stdout=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not (appears or path).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return running


@pytest.mark.kvm
def test_interrupt_keeps_what_was_measured(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with start(path) as running:
        running.send_signal(signal.SIGINT)
        out, _ = running.communicate(timeout=30)
    assert running.returncode == 130
    assert "cut short" in out
    run = runfile.read(path)
    assert run.finished is None
    assert run.cases[0].per_op is not None


@pytest.mark.kvm
def test_a_killed_run_leaves_the_finished_result_before_it(tmp_path: Path) -> None:
    path, kept = tmp_path / "a.json", tmp_path / "a.json~"
    finished = made_up_run()
    runfile.write(path, finished)
    with start(path, kept) as running:
        running.kill()
    assert runfile.read(kept) == finished
    assert runfile.read(path).finished is None


@pytest.mark.kvm
def test_sigterm_is_as_good_as_ctrl_c(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with start(path) as running:
        running.terminate()
        running.communicate(timeout=30)
    assert running.returncode == 130
    assert runfile.read(path).cases[0].per_op is not None


def test_full_stdout_is_one_line_and_exit_2() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "kvmharness", "run", "--list"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 2
    assert "stdout: No space left on device" in one_line(done.stderr)


@pytest.mark.kvm
def test_killed_run_leaves_a_readable_file(kvmharness: Call, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with start(path) as running:
        running.kill()
    assert runfile.read(path).cases[0].samples
    shown = kvmharness("show", str(path))
    assert shown.returncode == 0
    assert "cut short" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "nothing/*"), "matches nothing"),
        (("run", "-o", "/nonexistent/a.json"), "No such file or directory"),
        (("run", "-o", "/"), "it is a folder"),
        (("run", "--samples", "10000", "--vms", "1"), "use --vms"),
        (("run", "--timeout", "0.01"), "use --timeout 1 or more"),
        (("perf", "long64/pio", "--kvm-stat", "-o", "x"), "leave --output out"),
        (("perf", "nothing/*"), "matches nothing"),
        (("show", "/nonexistent/a.json"), "No such file or directory"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    kvmharness: Call, arguments: tuple[str, ...], says: str
) -> None:
    done = kvmharness(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert says in one_line(done.stderr)


@pytest.mark.kvm
def test_pin_to_a_missing_cpu_is_exit_2(kvmharness: Call) -> None:
    done = kvmharness("run", "--pin", "9999", "long64/empty")
    assert done.returncode == 2
    assert "--pin 9999" in one_line(done.stderr)


@pytest.mark.parametrize(
    "option", [("--pin", "x"), ("--pin", "²"), ("--timeout", "nan"), ("--pin", "9" * 30)]
)
def test_bad_option_is_exit_2_without_a_traceback(
    kvmharness: Call, option: tuple[str, str]
) -> None:
    done = kvmharness("run", *option)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_list_needs_no_kvm(kvmharness: Call) -> None:
    done = kvmharness("run", "--list", "*/cr0_wp")
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        f"{guest}/cr0_wp" for guest in MODES
    ]


def test_show_of_a_made_up_run_says_nested(kvmharness: Call, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    runfile.write(path, made_up_run())
    done = kvmharness("show", str(path))
    assert done.returncode == 0
    assert "nested: this kernel runs under a hypervisor (KVMKVMKVM)" in done.stdout


def test_missing_device_says_what_to_do() -> None:
    with pytest.raises(Unavailable, match="open /dev/kvm-none: ENOENT: load kvm_intel or"):
        System("/dev/kvm-none")


def test_another_device_is_not_kvm() -> None:
    with pytest.raises(Unavailable, match="/dev/null: KVM_GET_API_VERSION: ENOTTY"):
        System(os.devnull)


def test_other_api_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # No kernel since 2.6.22 has another version, so the answer is replaced here.
    monkeypatch.setattr(System, "get_api_version", lambda self: 11)
    with pytest.raises(Unavailable, match="KVM_GET_API_VERSION: 11 where 12 is needed"):
        System(os.devnull)


def test_doctor_without_a_device_still_answers() -> None:
    checks = list(examine("/dev/kvm-none"))
    assert not checks[0].ok
    assert any(check.name == "TSC" for check in checks)


@pytest.mark.kvm
def test_doctor_of_this_machine(kvmharness: Call) -> None:
    done = kvmharness("doctor")
    assert done.returncode == 0
    assert "API version 12" in done.stdout


def test_doctor_names_the_packages_that_a_lab_lacks(kvmharness: Call, tmp_path: Path) -> None:
    out = kvmharness("doctor", env={**os.environ, "PATH": str(tmp_path)}).stdout
    rows = dict(re.findall(r"lack  lab (\S+): not installed: .*\n      mend: (.*)", out))
    install = "apt-get install --no-install-recommends "
    assert rows["tcg-svm"].startswith(install)
    assert "qemu-system-x86" in rows["tcg-svm"].split()
    assert "bochs" in rows["bochs-vmx"].split()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user without rights")
def test_user_without_permission_is_exit_77() -> None:
    if not os.path.exists("/dev/kvm") or os.stat("/dev/kvm").st_mode & 0o006:
        pytest.skip("/dev/kvm is missing or open to all")
    nobody = pwd.getpwnam("nobody")
    # The interpreter may lie where nobody cannot read, so the process forks after importing.
    code = (
        f"import os, sys, importlib, pkgutil, kvmharness, kvmharness.cli as c\n"
        f"for m in pkgutil.walk_packages(kvmharness.__path__, 'kvmharness.'):\n"
        f"    if not {{'core_build', '__main__', 'trace-plugin'}} & set(m.name.split('.')):\n"
        f"        importlib.import_module(m.name)\n"
        f"os.setgroups([]); os.setgid({nobody.pw_gid}); os.setuid({nobody.pw_uid})\n"
        f"sys.argv = ['kvmharness', 'run']; c.main()\n"
    )
    # Nobody may write no coverage, and would say so.
    env = {name: value for name, value in os.environ.items() if "COVERAGE" not in name}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=env,
    )
    assert done.returncode == 77
    # What else it says is of this machine's device (tests/reliability/test_unprivileged.py).
    assert "open /dev/kvm: EACCES: " in one_line(done.stderr)
