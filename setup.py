"""Build what setuptools cannot describe in pyproject.toml: the compiled core and the guests."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext

# Setuptools' own, under its old name: it has no other.
from distutils.command.install_data import install_data  # isort: skip

ROOT = Path(__file__).parent
GUESTS = ROOT / "guests"
LAB = ROOT / "kvmharness" / "lab"
# A PC's BIOS loads a disk's first sector there.
BOOT_SECTOR = "0x7c00"
# What the package looks up in a blob.
PUBLIC = ("op_", "prove_", "page_", "undefined", "boot_")


def guest_code_address() -> str:
    """Ask the preprocessor for GUEST_CODE, so that the linker needs no second copy."""
    probe = b'#include "shared.h"\nGUEST_CODE'
    command = [os.environ.get("CC", "cc"), "-E", "-P", f"-I{GUESTS}", "-"]
    done = subprocess.run(command, input=probe, stdout=subprocess.PIPE, check=True)
    return done.stdout.decode().strip()


def assemble(source: Path, destination: Path, address: str) -> dict[str, object]:
    """Assemble one source into its ELF file and flat blob; return its row of the index."""
    from elftools.elf.elffile import ELFFile  # noqa: PLC0415 - a build requirement, not setup.py's

    elf = destination / f"{source.stem}.elf"
    with tempfile.TemporaryDirectory() as scratch:
        obj = Path(scratch, "guest.o")
        compiler = [os.environ.get("CC", "cc"), "-c", f"-I{GUESTS}", "-o", str(obj), str(source)]
        subprocess.run(compiler, check=True)
        linker = ["ld", f"-Ttext={address}", f"-e{address}", "--build-id=none", "-o", str(elf)]
        subprocess.run([*linker, str(obj)], check=True)
    with elf.open("rb") as file:
        image = ELFFile(file)
        blob = image.get_section_by_name(".text").data()
        table = image.get_section_by_name(".symtab").iter_symbols()
        symbols = {symbol.name: symbol["st_value"] for symbol in table}
    (destination / f"{source.stem}.bin").write_bytes(blob)
    public = {n: at for n, at in symbols.items() if n.startswith(PUBLIC)}
    return {"sha256": hashlib.sha256(blob).hexdigest(), "symbols": public}


def compile_plugin(source: Path, destination: Path) -> None:
    """Compile a plugin of the lab's for QEMU; without it all works but what it is for."""
    options = ["-O2", "-Wall", "-shared", "-fPIC", "-fvisibility=hidden", f"-I{GUESTS}"]
    compiler = [os.environ.get("CC", "cc"), *options, "-o", str(destination), str(source)]
    if subprocess.run(compiler, check=False).returncode:
        print(f"kvmharness: {source.name}, a plugin for QEMU, was not built", file=sys.stderr)


class BuildWithGuests(build_ext):
    """Assemble guests/*.S, and compile the plugins for QEMU, beside the extension."""

    def run(self) -> None:
        super().run()
        base = ROOT if self.inplace else Path(self.build_lib)
        (base / "kvmharness" / "lab").mkdir(parents=True, exist_ok=True)
        compile_plugin(LAB / "trace.c", base / "kvmharness" / "lab" / "trace-plugin.so")
        destination = base / "kvmharness" / "blobs"
        destination.mkdir(parents=True, exist_ok=True)
        address = guest_code_address()
        index = {s.stem: assemble(s, destination, address) for s in sorted(GUESTS.glob("*.S"))}
        index["disk"] = assemble(GUESTS / "boot/disk.S", destination, BOOT_SECTOR)
        compile_plugin(LAB / "opcodes.c", destination / "opcodes.so")
        (destination / "index.json").write_text(json.dumps(index, indent=1) + "\n")


class InstallManual(install_data):
    """Install the manual pages and the shells' completions, made of the commands' help."""

    def run(self) -> None:
        made = ROOT / "build" / "manual"
        command = [sys.executable, str(ROOT / "scripts" / "manual.py"), str(made)]
        subprocess.run(command, check=True)
        for path in sorted(path for path in made.rglob("*") if path.is_file()):
            self.data_files.append((str(path.parent.relative_to(made)), [str(path)]))
        super().run()


setup(
    cffi_modules=["kvmharness/kvm/core_build.py:ffibuilder"],
    cmdclass={"build_ext": BuildWithGuests, "install_data": InstallManual},
    # What there is besides is made by then.
    data_files=[("share/doc/kvmharness", ["README.md", "CHANGELOG.md"])],
)
