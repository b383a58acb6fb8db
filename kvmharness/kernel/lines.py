"""Source lines of a kernel's code, where files with debug info are at hand."""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from kvmharness import child
from kvmharness.kernel.resolve import Kernel
from kvmharness.model.explanation import Line

TOOL, TEXT = "addr2line", ".text"
NONE = (
    "no file with debug info is at hand (a package has none); name a kernel build tree, or "
    "--kvm-modules that were built with CONFIG_DEBUG_INFO"
)
# Of all lines, those that take most.
MOST = 200
# An instruction by its function's symbol and the offset in it.
Place = tuple[str, int]


@dataclass(frozen=True)
class _At:
    """Where a file has a symbol: the section, by name in a module and "" in a whole kernel."""

    file: Path
    section: str
    address: int


def files_of(kernel: Kernel, modules: Path | None) -> list[Path]:
    """Return the files that may have debug info: KVM's modules first, then the whole kernel."""
    tree = kernel.image.parent
    roots = [tree, *list(tree.parents)[:4]]
    found = sorted(modules.glob("*.ko")) if modules else []
    for root in roots:
        if (root / "arch/x86/kvm").is_dir():
            found += [] if modules else sorted((root / "arch/x86/kvm").glob("*.ko"))
            found += [root / "vmlinux"] if (root / "vmlinux").is_file() else []
            break
    return found


def _symbols(path: Path, wanted: set[str]) -> dict[str, _At]:
    """Return where a file has the symbols that are wanted; empty without debug info.

    In a module, which is not linked, every section begins at 0, and debug info cannot tell the
    beginning of .text from the other ones: what lies there is left out.
    """
    found: dict[str, _At] = {}
    with path.open("rb") as file:
        elf = ELFFile(file)
        table = elf.get_section_by_name(".symtab")
        if not isinstance(table, SymbolTableSection):
            return {}
        if elf.get_section_by_name(".debug_line") is None:
            return {}
        relocatable = elf["e_type"] == "ET_REL"
        others = [
            section["sh_size"]
            for section in elf.iter_sections()
            if section["sh_flags"] & SH_FLAGS.SHF_EXECINSTR and section.name != TEXT
        ]
        least = max(others, default=0) if relocatable else 0
        for symbol in table.iter_symbols():
            at = symbol["st_shndx"]
            if symbol.name in wanted and isinstance(at, int) and symbol["st_value"] >= least:
                section = elf.get_section(at).name if relocatable else ""
                if section in ("", TEXT):
                    found.setdefault(symbol.name, _At(path, section, symbol["st_value"]))
    return found


def _ask(path: Path, section: str, addresses: Iterable[int]) -> list[str]:
    """Return `file:line` for each address of a section."""
    of = ["-j", section] if section else []
    done = child.run(
        [TOOL, "-e", str(path), *of], input="".join(f"{address:#x}\n" for address in addresses)
    )
    return done.stdout.splitlines()


def lines(own: Mapping[Place, int], files: Iterable[Path]) -> tuple[list[Line], str | None]:
    """Return the source lines that take most of the instructions, and why there are none.

    `own` counts instructions by place; what no file has debug info of is left out.
    """
    if shutil.which(TOOL) is None:
        return [], f"no {TOOL}; apt-get install binutils"
    left = {symbol for symbol, _ in own}
    places: dict[str, _At] = {}
    for path in files:
        try:
            places |= _symbols(path, left)
        except (OSError, ELFError):
            continue
        left -= places.keys()
    groups: dict[tuple[Path, str], list[tuple[str, int, int]]] = defaultdict(list)
    for (symbol, offset), count in own.items():
        at = places.get(symbol)
        if at is not None:
            groups[at.file, at.section].append((symbol, at.address + offset, count))
    sums: dict[tuple[str, str, int], int] = defaultdict(int)
    for (path, section), asked in groups.items():
        answers = _ask(path, section, (address for _, address, _ in asked))
        for (symbol, _, count), answer in zip(asked, answers, strict=False):
            name, _, number = answer.partition(" ")[0].rpartition(":")
            if number.isdigit():
                sums[symbol, name, int(number)] += count
    if not sums:
        return [], NONE
    above = _above({name for _, name, _ in sums})
    dearest = sorted(sums, key=lambda key: (-sums[key], key))[:MOST]
    return [
        Line(symbol, name.removeprefix(above), number, sums[symbol, name, number])
        for symbol, name, number in dearest
    ], None


def _above(names: set[str]) -> str:
    """Return what all names begin with: the folder of the sources, which says nothing."""
    folders = [os.path.dirname(name) for name in names if os.path.isabs(name)]
    if len(folders) < len(names):
        return ""
    return os.path.commonpath(folders).partition("/arch/")[0].rstrip("/") + "/"
