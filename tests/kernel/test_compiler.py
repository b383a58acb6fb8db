"""Compilers: this machine's own, and stand-ins that only say a version (others cannot be had)."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvmharness.errors import BuildFailed, UsageError
from kvmharness.kernel import compiler


def stand_in(folder: Path, line: str) -> Path:
    path = folder / "cc-that-says"
    path.write_text(f'#!/bin/sh\necho "{line}"\n')
    path.chmod(0o755)
    return path


def chosen(monkeypatch: pytest.MonkeyPatch, folder: Path, line: str) -> compiler.Compiler:
    monkeypatch.setenv("CC", str(stand_in(folder, line)))
    return compiler.chosen()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "linux"
    for name, text in (
        ("scripts/min-tool-version.sh", 'case "$1" in gcc) echo 5.1.0;; llvm) echo 11.0.0;; esac'),
        ("tools/lib/subcmd/subcmd-util.h", "ret = realloc(ptr, size);"),
        ("arch/x86/boot/compressed/Makefile", "KBUILD_CFLAGS += -std=gnu11"),
    ):
        path = folder / name
        path.parent.mkdir(parents=True)
        path.write_text(text + "\n")
    return folder


def test_this_machines_own(monkeypatch: pytest.MonkeyPatch, tree: Path) -> None:
    monkeypatch.delenv("CC", raising=False)
    found = compiler.chosen()
    assert found.command == ("gcc",)
    assert found.kind == "gcc"
    assert found.version >= (5, 1)
    compiler.check("linux", tree, found)


@pytest.mark.parametrize(
    ("line", "kind", "version"),
    [
        ("gcc (Debian 12.2.0-14+deb12u1) 12.2.0", "gcc", (12, 2, 0)),
        ("gcc-14 (GCC) 14.2.1 20240912 (Red Hat 14.2.1-3)", "gcc", (14, 2, 1)),
        ("Ubuntu clang version 15.0.7", "clang", (15, 0, 7)),
    ],
)
def test_what_a_compiler_says(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    line: str,
    kind: str,
    version: tuple[int, ...],
) -> None:
    found = chosen(monkeypatch, tmp_path, line)
    assert (found.kind, found.version) == (kind, version)


@pytest.mark.parametrize("command", ["/nonexistent/gcc", "false", "true"])
def test_what_is_no_compiler(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv("CC", command)
    with pytest.raises(UsageError, match="set CC to"):
        compiler.chosen()


def test_too_old_and_too_new(monkeypatch: pytest.MonkeyPatch, tree: Path) -> None:
    old = chosen(monkeypatch, tree, "gcc (GCC) 4.9.2")
    with pytest.raises(BuildFailed, match=r"gcc 4\.9\.2 is too old, it takes 5\.1\.0 or newer"):
        compiler.check("linux", tree, old)
    new = chosen(monkeypatch, tree, "gcc (GCC) 15.1.0")
    compiler.check("linux", tree, new)
    (tree / "arch/x86/boot/compressed/Makefile").write_text("KBUILD_CFLAGS += -O2\n")
    with pytest.raises(BuildFailed, match="its boot code is no C as gcc 15"):
        compiler.check("linux", tree, new)
    (tree / "tools/lib/subcmd/subcmd-util.h").write_text("ret = realloc(ptr, 1);\n")
    with pytest.raises(BuildFailed, match=r"objtool does not build .* this is 12\.2\.0; set CC"):
        compiler.check("linux", tree, chosen(monkeypatch, tree, "gcc (GCC) 12.2.0"))
    compiler.check("linux", tree, chosen(monkeypatch, tree, "gcc (GCC) 11.4.0"))


def test_a_tree_before_it_had_the_script_says_it_in_a_table(
    monkeypatch: pytest.MonkeyPatch, tree: Path
) -> None:
    (tree / "scripts/min-tool-version.sh").unlink()
    table = tree / "Documentation/process/changes.rst"
    table.parent.mkdir(parents=True)
    table.write_text("GNU C                  4.9              gcc --version\n")
    with pytest.raises(BuildFailed, match=r"it takes 4\.9 or newer"):
        compiler.check("linux", tree, chosen(monkeypatch, tree, "gcc (GCC) 4.8.5"))


def test_a_pahole_that_writes_what_a_tree_cannot_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tree: Path
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools), prepend=":")
    pahole = tools / "pahole"
    pahole.write_text('#!/bin/sh\necho "v1.24"\n')
    pahole.chmod(0o755)
    assert compiler.why_no_btf(tree) == "pahole 1.24 is too new for this tree"
    flags = tree / "scripts/link-vmlinux.sh"
    flags.write_text("extra_paholeopt=--skip_encoding_btf_enum64\n")
    assert compiler.why_no_btf(tree) is None
    flags.unlink()
    pahole.write_text('#!/bin/sh\necho "v1.22"\n')
    assert compiler.why_no_btf(tree) is None
