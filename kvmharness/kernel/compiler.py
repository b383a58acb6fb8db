"""The compiler that builds a kernel, and whether a tree and it get on."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from kvmharness import child
from kvmharness.child import environment
from kvmharness.errors import BuildFailed, UsageError

# Debian's packages of what a build calls.
TOOLS = {"make": "make", "flex": "flex", "bison": "bison", "bc": "bc", "perl": "perl"}


@dataclass(frozen=True)
class Compiler:
    """A C compiler: the command, gcc or clang, its version's numbers, its version's line."""

    command: tuple[str, ...]
    kind: str
    version: tuple[int, ...]
    line: str

    @property
    def make(self) -> str:
        """What kbuild takes as CC: by ccache where that is installed."""
        cached = () if "ccache" in self.command[0] or not shutil.which("ccache") else ("ccache",)
        return shlex.join((*cached, *self.command))


def chosen() -> Compiler:
    """Return the compiler that the environment's CC names, else gcc.  Raises UsageError."""
    command = tuple(shlex.split(os.environ.get("CC", ""))) or ("gcc",)
    try:
        done = child.run([*command, "--version"], check=True)
    except (OSError, subprocess.CalledProcessError):
        raise UsageError(
            f"CC={shlex.join(command)}: it is no compiler; set CC to one, e.g. CC=gcc-12"
        ) from None
    line = done.stdout.partition("\n")[0]
    numbers = re.findall(r"\b(\d+)\.(\d+)\.(\d+)", line)
    if not numbers:
        raise UsageError(f"CC={shlex.join(command)}: {line!r} names no version; set CC to another")
    kind = "clang" if "clang" in line else "gcc"
    return Compiler(command, kind, tuple(map(int, numbers[-1])), line)


def check_tools() -> None:
    """Raise UsageError, naming Debian's packages, where what a kernel build calls is missing."""
    lacking = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "elf.c")
        source.write_text("#include <gelf.h>\n")
        try:
            done = subprocess.run(
                ["cc", "-E", source], capture_output=True, check=False, env=environment()
            )
            lacking += ["libelf-dev"] if done.returncode else []
        except OSError:
            lacking.append("gcc")
    if lacking:
        raise UsageError(
            "build: tools are missing; apt-get install --no-install-recommends " + " ".join(lacking)
        )


def _read(tree: Path, name: str) -> str:
    try:
        return (tree / name).read_text(errors="replace")
    except OSError:
        return ""


def _least(tree: Path, compiler: Compiler) -> str | None:
    """Return the least version that a tree takes, from what it says of itself."""
    script = tree / "scripts/min-tool-version.sh"  # from 5.12 on
    tool = "gcc" if compiler.kind == "gcc" else "llvm"
    if script.is_file():
        done = child.run(["sh", str(script), tool])
        return done.stdout.strip() or None
    table = _read(tree, "Documentation/process/changes.rst")
    name = "GNU C" if compiler.kind == "gcc" else r"Clang/LLVM \(optional\)"
    found = re.search(rf"^{name}\s+([\d.]+)", table, re.MULTILINE)
    return found[1] if found else None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split("."))


def _too_new(tree: Path, compiler: Compiler) -> str | None:
    """Return why a tree is too old for its compiler, as its source shows."""
    if compiler.kind != "gcc":
        return None
    # gcc 12 sees the use after free that commit 52a9dab6d892 ("libsubcmd: Fix use-after-free for
    # realloc(..., 0)") (in v5.17) mended; objtool is built with -Werror.
    util = _read(tree, "tools/lib/subcmd/subcmd-util.h")
    if compiler.version >= (12,) and "realloc(ptr, 1)" in util:
        return "its objtool does not build with gcc 12 or newer"
    # gcc 15 takes C as of 2023, where bool is a keyword; what boots has flags of its own.
    flags = _read(tree, "arch/x86/boot/compressed/Makefile")
    if compiler.version >= (15,) and flags and "-std=" not in flags:
        return "its boot code is no C as gcc 15 or newer takes it"
    return None


def check(named: str, tree: Path, compiler: Compiler) -> None:
    """Raise BuildFailed where a tree wants an older or a newer compiler."""
    least = _least(tree, compiler)
    version = ".".join(map(str, compiler.version))
    if least and compiler.version < _numbers(least):
        raise BuildFailed(
            f"build {named}: {compiler.kind} {version} is too old, it takes {least} or newer; "
            "set CC to another"
        )
    why = _too_new(tree, compiler)
    if why:
        raise BuildFailed(f"build {named}: {why}, and this is {version}; set CC to an older one")


def why_no_btf(tree: Path) -> str | None:
    """Return why a tree cannot be built with BTF here, None if it can."""
    try:
        said = child.run(["pahole", "--version"], check=True)
    except (OSError, subprocess.CalledProcessError):
        return "no pahole here; apt-get install pahole"
    found = re.search(r"(\d+)\.(\d+)", said.stdout)
    # From 1.24 on it writes 64-bit enumerations, which resolve_btfids of a tree before 6.0
    # cannot read: it must be told not to, as stable trees do.
    reads = "ENUM64" in _read(tree, "include/uapi/linux/btf.h")
    flags = _read(tree, "scripts/pahole-flags.sh") + _read(tree, "scripts/link-vmlinux.sh")
    new = found is not None and (int(found[1]), int(found[2])) >= (1, 24)
    if new and not reads and "enum64" not in flags:
        return f"pahole {said.stdout.strip().removeprefix('v')} is too new for this tree"
    return None
