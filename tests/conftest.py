"""What the tests share: the gate to /dev/kvm, and stubs that misbehave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator

import pytest

from kvmharness.errors import GuestError, LabLost, Unavailable
from kvmharness.guest.state import Blob
from kvmharness.kvm.fds import System
from kvmharness.kvm.raw import lib
from tests.support.golden import UPDATE

REQUIRE = "KVMHARNESS_REQUIRE_KVM"


def why_no_kvm() -> str | None:
    try:
        System().close()
    except Unavailable as error:
        return str(error)
    return None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--lab", metavar="KERNEL", help="Run the KVM tests inside this kernel, booted in a lab."
    )
    parser.addoption("--lab-machine", metavar="NAME", help="In which one. [the best one here]")
    parser.addoption(
        "--update-golden", action="store_true", help="Write the files of tests/golden/ anew."
    )


def _hear_signals() -> None:
    """Have what we start end by signals, though nohup or a shell's & had us ignore them."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, usual)


def pytest_configure(config: pytest.Config) -> None:
    _hear_signals()
    if config.getoption("--update-golden"):
        os.environ[UPDATE] = "1"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say of a guest or a kernel that failed what it said last, and how to see it again."""
    report = yield
    if report.failed and any(item.get_closest_marker(mark) for mark in ("kvm", "lab")):
        error = call.excinfo.value if call.excinfo else None
        if isinstance(error, LabLost) and error.console:
            report.sections.append(("console of the kernel", error.console))
        if isinstance(error, GuestError):
            report.sections.append(("guest", f"{item.name}: {error}"))
        report.sections.append(("again", f"pytest '{item.nodeid}'"))
    return report


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """With --lab, run nothing here but the same tests inside."""
    kernel = config.getoption("--lab")
    if kernel is None:
        return None
    from tests.support.in_lab import run_tests  # noqa: PLC0415 - most runs boot nothing

    machine = config.getoption("--lab-machine")
    return run_tests(kernel, config.getoption("keyword"), machine)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = why_no_kvm()
    if reason is None or os.environ.get(REQUIRE) == "1":
        return  # with REQUIRE the tests run and fail on what is missing
    for item in items:
        if item.get_closest_marker("kvm"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def system() -> Iterator[System]:
    with System() as opened:
        yield opened


@pytest.fixture
def stub() -> Callable[..., Blob]:
    """Make a guest of raw machine code that starts where every guest does."""

    def make(code: bytes, guest: str = "long64") -> Blob:
        symbols = dict.fromkeys(("op_cr0_wp", "op_empty"), lib.GUEST_CODE)
        return Blob(guest, code, "", symbols)

    return make


@pytest.fixture(autouse=True)
def _all_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tables have the columns they want, whatever the terminal that the tests run in."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def kvmharness() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line as a user does, in a process of its own."""

    def call(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # type: ignore[call-overload, no-any-return]
            [sys.executable, "-m", "kvmharness", *arguments],
            capture_output=True,
            text=True,
            check=False,
            # Given, since readline, which pytest loads, sets COLUMNS behind os.environ.
            **{"timeout": 60, "env": dict(os.environ), **options},
        )

    return call
