"""Who may not: no /dev/kvm, none of its group, no perf, no home; by a real other user."""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvmharness.errors import Unavailable
from kvmharness.kvm.fds import System
from kvmharness.model import runfile
from tests.support.samples import made_up_run

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

NOBODY = pwd.getpwnam("nobody")
# The interpreter may lie where nobody can read, so the process forks after importing all.
BECOME = (
    "import importlib.readers, os, pkgutil, sys, kvmharness, kvmharness.cli as cli\n"
    "for m in pkgutil.walk_packages(kvmharness.__path__, 'kvmharness.'):\n"
    "    if not {{'core_build', '__main__', 'trace-plugin', 'report'}} & set(m.name.split('.')):\n"
    "        importlib.import_module(m.name)\n"
    "os.setgroups({groups})\n"
    "os.setgid({gid}); os.setuid({uid})\n"
    "{first}\n"
    "sys.argv[0] = 'kvmharness'; cli.main()\n"
)


def as_nobody(
    *arguments: str, groups: list[int] | None = None, first: str = "", **env: str | None
) -> subprocess.CompletedProcess[str]:
    """Run the command line as nobody; a variable that is None is not set."""
    code = BECOME.format(gid=NOBODY.pw_gid, uid=NOBODY.pw_uid, groups=groups or [], first=first)
    kept = {name: value for name, value in os.environ.items() if "COVERAGE" not in name}
    given = {name: value for name, value in (kept | env).items() if value is not None}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=given,
    )


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A folder that everybody may enter and write to, as pytest's own are not."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        path.chmod(0o777)
        yield path


@pytest.fixture
def device(open_to_all: Path) -> Callable[[int, int], Path]:
    """Make a node of KVM's number with a mode and a group, away from the real one."""

    def make(mode: int, group: int) -> Path:
        path = open_to_all / "kvm"
        os.mknod(path, 0o020000 | mode, os.makedev(10, 232))
        path.chmod(mode)
        os.chown(path, 0, group)
        return path

    return make


OTHER = grp.getgrnam("daemon").gr_gid


def refused(device: Path, groups: list[int]) -> str:
    """Return how nobody is refused a device."""
    first = (
        "from kvmharness.kvm.fds import System\n"
        f"try: System({str(device)!r})\n"
        "except Exception as e: print(e); raise SystemExit"
    )
    return as_nobody(groups=groups, first=first).stdout


def test_who_is_not_in_the_devices_group_is_told_which(
    device: Callable[[int, int], Path],
) -> None:
    said = refused(device(0o660, OTHER), [])
    assert "EACCES: not readable by this user; add it to group daemon (usermod -aG daemon" in said


def test_who_is_in_a_group_that_the_device_is_not_open_to_is_told_so(
    device: Callable[[int, int], Path],
) -> None:
    said = refused(device(0o600, OTHER), [OTHER])
    assert "EACCES: its mode is 600, open to no group; as root: chgrp kvm" in said
    assert "add it to group" not in said


def test_a_device_in_a_closed_folder_is_told_so(device: Callable[[int, int], Path]) -> None:
    path = device(0o666, OTHER)
    path.parent.chmod(0o700)
    assert "EACCES: not readable by this user; see the permissions of its folder" in refused(
        path, []
    )


def test_a_device_that_is_no_kvm_says_so() -> None:
    with pytest.raises(Unavailable, match="it is not KVM's device"):
        System(os.devnull)


@pytest.mark.parametrize("home", [None, "/nonexistent", "/proc"])
def test_reading_needs_no_home(open_to_all: Path, home: str | None) -> None:
    path = open_to_all / "a.json"
    runfile.write(path, made_up_run())
    path.chmod(0o644)
    done = as_nobody("show", str(path), HOME=home, XDG_CACHE_HOME=None)
    assert done.stderr == ""
    assert done.returncode == 0


@pytest.mark.parametrize("home", ["/nonexistent", "/proc"])
def test_a_home_that_cannot_be_written_is_one_line(home: str) -> None:
    done = as_nobody("lab", "linux-image-1.2.3-amd64", HOME=home, XDG_CACHE_HOME=None)
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.returncode in (2, 77)


@pytest.mark.parametrize("arguments", [("perf", "long64/empty"), ("doctor",), ("run", "--list")])
def test_nobody_gets_an_answer_from_every_command(arguments: tuple[str, ...]) -> None:
    done = as_nobody(*arguments, HOME=None)
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 77)
