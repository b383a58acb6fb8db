"""Shell completion as a shell asks for it, and what it costs to answer."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from kvmharness.model.cases import MODES
from tests.test_imports import HEAVY

# What the entry point does, with the modules loaded printed when it ends.
CODE = (
    "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); "
    "from kvmharness.cli import main; main(prog_name='kvmharness')"
)


def ask(**asked: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CODE],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def complete(*words: str, shell: str = "bash") -> tuple[list[str], set[str]]:
    """Return what the last of `words` is completed to, and the packages loaded for it."""
    done = ask(
        _KVMHARNESS_COMPLETE=f"{shell}_complete",
        COMP_WORDS=" ".join(words),
        COMP_CWORD=str(len(words) - 1) if shell != "fish" else words[-1],
    )
    assert "Traceback" not in done.stderr
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    return done.stdout.splitlines(), loaded


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("kvmharness", "exp"), ["plain,explain", "plain,export"]),
        (("kvmharness", "run", "long64/cr0_w"), ["plain,long64/cr0_wp"]),
        (("kvmharness", "perf", "real16/cr0_t"), ["plain,real16/cr0_ts"]),
        (("kvmharness", "run", "cpui"), [f"plain,{mode}/cpuid" for mode in MODES]),
        (("kvmharness", "run", "--suite", "s"), ["plain,scaling"]),
        (("kvmharness", "run", "--suite", "my/"), ["file,my/"]),
        (("kvmharness", "export", "--format", "j"), ["plain,junit"]),
        (("kvmharness", "show", "he"), ["file,he"]),
    ],
)
def test_bash_is_answered(words: tuple[str, ...], answer: list[str]) -> None:
    found, loaded = complete(*words)
    assert found == answer
    assert not loaded & (HEAVY | {"msgspec", "cffi", "_cffi_backend"})


def test_zsh_and_fish_are_told_what_an_op_is() -> None:
    zsh, _ = complete("kvmharness", "run", "long64/cr0_wp", shell="zsh")
    assert zsh == ["plain", "long64/cr0_wp", "one write of CR0 that flips WP"]
    fish, _ = complete("kvmharness", "run", "long64/cr0_wp", shell="fish")
    assert "one write of CR0 that flips WP" in " ".join(fish)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_gets_its_script(shell: str) -> None:
    done = ask(_KVMHARNESS_COMPLETE=f"{shell}_source")
    assert "_KVMHARNESS_COMPLETE" in done.stdout
