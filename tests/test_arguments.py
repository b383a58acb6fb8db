"""Names with spaces, quotes and newlines reach each child as one argument, no shell as words."""

from __future__ import annotations

import ast
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from kvmharness import child
from kvmharness.analysis.load import RunFile
from kvmharness.kernel import resolve
from kvmharness.lab import engine, qemu
from kvmharness.lab.boot import Boot, LabMachine
from kvmharness.lab.machines import EMULATED
from kvmharness.render import mail
from tests.support.samples import made_up_run
from tests.test_imports import children, files

NASTY = "a b'c\"d\ne,f;g $(touch planted) *"


def test_a_child_gets_each_word_as_it_is() -> None:
    told = child.run(["printf", "%s\\0", NASTY, ""]).stdout
    assert told.split("\0") == [NASTY, "", ""]


def test_no_child_is_started_by_a_shell() -> None:
    for name, path in files().items():
        for call in children(path):
            words = {keyword.arg for keyword in call.keywords}
            assert "shell" not in words, (name, call.lineno)
            assert ast.unparse(call.func) not in ("os.system", "os.popen"), (name, call.lineno)


def test_who_is_to_die_with_us_gets_its_words_as_they_are() -> None:
    """It goes by way of a shell, whose words they are not."""
    command = engine.dies_with_us(["printf", "%s\\0", NASTY])
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{NASTY}\0"


@pytest.mark.skipif(not os.path.exists("/usr/bin/qemu-system-x86_64"), reason="needs QEMU's name")
def test_an_emulator_is_given_a_folder_of_any_name(tmp_path: Path) -> None:
    folder = tmp_path / NASTY
    folder.mkdir()
    (folder / "vmlinuz").write_bytes(b"no kernel")
    (folder / "part").write_bytes(b"")
    kernel = resolve.Kernel(NASTY, "label", folder / "vmlinuz", None, "6.1")
    machine: LabMachine = EMULATED["tcg-svm"]
    boot = Boot(kernel, machine, [folder / "part"], (), folder, 1.0)
    words = qemu.TCG.command(boot)
    assert str(folder / "vmlinuz") in words
    ports = [word for word in words if word.startswith("file,id=console,path=")]
    # QEMU's own way to say that a comma is none.
    path = str(folder / "console.log").replace(",", ",,")
    assert ports == [f"file,id=console,path={path},append=on"]


def test_commands_that_are_printed_are_quoted() -> None:
    run = made_up_run()
    name = NASTY.replace("\n", " ")
    text = mail.render([RunFile(name, run)]).replace("\\\n", " ")
    (line,) = (line for line in text.splitlines() if line.startswith("  kvmharness run"))
    assert shlex.split(line)[-1] == f"{name}.json"
    assert not Path("planted").exists()


def test_files_of_any_name_are_read_and_written(tmp_path: Path) -> None:
    from kvmharness.model import runfile  # noqa: PLC0415 - beside what it tries

    path = tmp_path / f"{NASTY}.json"
    runfile.write(path, made_up_run())
    assert runfile.read(path).host.name == made_up_run().host.name
