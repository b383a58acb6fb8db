"""What `explain` refuses before anything is booted, each in one line."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmharness.errors import Unaccounted, UsageError
from kvmharness.lab import trace
from kvmharness.lab.machines import TCG_SVM

Call = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["explain", "long64/*"], "names 21 cases"),
        (["explain", "long64/cr0_wp", "6.1"], "need --lab"),
        (["explain", "long64/cr0_wp", "--variant", "tdp"], "need --lab"),
        (["explain", "long64/cr0_wp", "--lab"], "name one kernel, or two to be compared"),
        (["explain", "long64/cr0_wp", "--lab", "x", "--variant", "no"], "--variant 'no'"),
        (["explain", "long64/cr0_wp", "--lab", "/nowhere"], "/nowhere"),
        (["explain", "long64/cr0_wp", "--nested", "x"], "need --lab"),
        (["explain", "long64/cr0_wp", "--lab", "x", "--nested-variant", "tdp"], "name the kernel"),
        (["compare", "a", "b", "--explain", "long64/cr0_wp"], "add --lab"),
    ],
)
def test_what_cannot_be_explained_is_refused(
    kvmharness: Call, arguments: list[str], said: str
) -> None:
    done = kvmharness(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_package_without_the_plugin_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "PLUGIN", "nothing.so")
    with pytest.raises(UsageError, match="install a C compiler and then kvmharness anew"):
        trace.plugin()


def test_the_machine_that_is_recommended_can_be_followed() -> None:
    assert isinstance(trace.tracing(TCG_SVM, 2).emulator, trace.TracingQemu)


def test_the_plugin_is_no_module_of_pythons() -> None:
    """Python would take a file trace.so for the module trace."""
    assert trace.plugin().name.partition(".")[0] != Path(trace.__file__).stem


def test_a_sum_that_is_off_is_unclear() -> None:
    assert Unaccounted("").exit_code == 3
