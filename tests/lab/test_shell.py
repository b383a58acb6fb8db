"""A shell in a booted kernel: what is typed reaches it, and the terminal comes back as it was."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import termios
import time
from collections.abc import Callable

import pytest

from tests.support.kernels import CURED, need_lab, newest

Call = Callable[..., "subprocess.CompletedProcess[str]"]
SOON_S = 240.0


class Terminal:
    """A terminal with the command on it, read until something is there."""

    def __init__(self, *arguments: str) -> None:
        self.ours, self.theirs = pty.openpty()
        self.before = termios.tcgetattr(self.theirs)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kvmharness", "lab", *arguments],
            stdin=self.theirs,
            stdout=self.theirs,
            stderr=self.theirs,
            start_new_session=True,
        )
        self.text = ""

    def until(self, pattern: str) -> re.Match[str]:
        end = time.monotonic() + SOON_S
        os.set_blocking(self.ours, False)
        while time.monotonic() < end:
            try:
                self.text += os.read(self.ours, 65536).decode(errors="replace")
            except BlockingIOError:
                time.sleep(0.05)
            found = re.search(pattern, self.text)
            if found:
                return found
        raise AssertionError(f"no {pattern!r} in {self.text[-2000:]!r}")

    def type(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.ours)
        os.close(self.theirs)


@pytest.mark.lab
@pytest.mark.timeout(600)
def test_a_shell_sees_the_kernel_its_kvm_and_control_c() -> None:
    need_lab()
    terminal = Terminal(newest(CURED), "--variant", "shadow", "--machine", "tcg-svm", "--shell")
    try:
        terminal.until(r"Ctrl-A X ends it at once")
        terminal.until(r"# ")
        terminal.type("uname -r; cat /sys/module/kvm_amd/parameters/npt; ls /dev/kvm\n")
        assert terminal.until(r"\n(6\.1\.\S+)\r+\n(\S)\r+\n/dev/kvm")[2] in "N0"
        terminal.type("sleep 1000; echo was $?\n")
        terminal.until(r"echo was")
        time.sleep(2)
        terminal.type("\x03")
        terminal.until(r"was 130|\^C")
        terminal.type("\necho al''ive\n")
        terminal.until("alive")
        terminal.type("exit\n")
        assert terminal.process.wait(SOON_S) == 0, terminal.text
        assert termios.tcgetattr(terminal.theirs) == terminal.before
    finally:
        terminal.close()


def test_a_shell_wants_a_terminal_and_nothing_to_measure(kvmharness: Call) -> None:
    need_lab()
    kernel = newest(CURED)
    asked = ("lab", kernel, "--machine", "tcg-svm", "--shell")
    done = kvmharness(*asked)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no terminal; call it from one" in done.stderr
    assert "leave the other options out" in kvmharness(*asked, "--vms", "2").stderr
    several = kvmharness(*asked, "--variant", "tdp", "--variant", "shadow")
    assert "takes one kernel, variant and machine" in several.stderr
