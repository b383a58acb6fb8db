"""Source lines of code that was compiled a moment ago, as a module is: relocatable."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from kvmharness.kernel import lines
from kvmharness.kernel.resolve import Kernel

# As long as the other section: its lines could be those of either.
SOURCE = """\
__asm__(".skip 64");
int twice(int x)
{
	return 2 * x;
}
__attribute__((section(".text.unlikely"))) int cold(int x)
{
	return x ? twice(x) : 7;
}
"""


def compiled(folder: Path, *options: str) -> Path:
    source = folder / "tree/arch/x86/kvm/x.c"
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(SOURCE)
    made = folder / "kvm.ko"
    subprocess.run(["cc", "-c", "-O1", *options, "-o", made, source], check=True)
    return made


def size(path: Path, name: str) -> int:
    with path.open("rb") as file:
        table = ELFFile(file).get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection)
        (symbol,) = table.get_symbol_by_name(name) or []
        return int(symbol["st_size"])


def test_instructions_are_added_up_by_line(tmp_path: Path) -> None:
    path = compiled(tmp_path, "-g")
    own = {("twice", at): 10 for at in range(size(path, "twice"))}
    own |= {("cold", 0): 5, ("not_there", 0): 99}
    found, why = lines.lines(own, [path])
    assert why is None
    # What lies in another section cannot be told apart, and is left out.
    assert {(line.function, line.file) for line in found} == {("twice", "arch/x86/kvm/x.c")}
    assert sum(line.own for line in found) == 10 * size(path, "twice")
    assert {line.line for line in found} <= {3, 4, 5}


def test_without_debug_info_it_is_said(tmp_path: Path) -> None:
    assert lines.lines({("twice", 0): 1}, [compiled(tmp_path)]) == ([], lines.NONE)
    assert lines.lines({("twice", 0): 1}, []) == ([], lines.NONE)


def test_what_is_no_object_file_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "kvm.ko").write_bytes(b"\x7fELF nonsense")
    assert lines.lines({("twice", 0): 1}, [tmp_path / "kvm.ko"]) == ([], lines.NONE)


def test_without_the_tool_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "TOOL", "no-such-tool")
    assert lines.lines({}, []) == ([], "no no-such-tool; apt-get install binutils")


def test_a_build_tree_has_modules_and_the_kernel(tmp_path: Path) -> None:
    image = tmp_path / "arch/x86/boot/bzImage"
    kvm = tmp_path / "arch/x86/kvm"
    for folder in (image.parent, kvm):
        folder.mkdir(parents=True)
    for path in (image, kvm / "kvm.ko", tmp_path / "vmlinux"):
        path.touch()
    kernel = Kernel("x", "x", image, None, "6.1")
    assert lines.files_of(kernel, None) == [kvm / "kvm.ko", tmp_path / "vmlinux"]
    assert lines.files_of(kernel, kvm) == [kvm / "kvm.ko", tmp_path / "vmlinux"]
