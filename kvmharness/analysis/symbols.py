"""The kernel's functions by address, as its own /proc/kallsyms has them."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

# What compilers add to the name of a function that they made of another.
_SUFFIX = re.compile(r"\.(isra|part|constprop|cold|llvm|lto_priv)\b.*$")
_TEXT = frozenset("tTwW")
# The padding before a function, which CONFIG_CALL_PADDING gives a name.
_PADDING = "__pfx_"
# What the linker calls the bounds of a section.
_BOUND = re.compile(r"^_.*(_start|_end|_begin)$|^_[se]text$")
# The kernel's half of the address space.
KERNEL = 1 << 63
NOBODY = "[unknown]"


@dataclass(frozen=True)
class Function:
    """A function: its name without a compiler's suffix, its symbol, and where it starts."""

    name: str
    symbol: str
    start: int


def plain_name(symbol: str) -> str:
    """Return the function that a symbol is a part or a clone of."""
    return _SUFFIX.sub("", symbol)


class Symbols:
    """Functions by address; each ends where the next one starts.

    `names` are all that the kernel has, without the compiler's suffixes.
    """

    def __init__(self, functions: dict[int, str], aliases: Iterable[str] = ()) -> None:
        self.names = {plain_name(name) for name in (*functions.values(), *aliases)}
        self._starts = sorted(functions)
        self._functions = [
            Function(plain_name(functions[at]), functions[at], at) for at in self._starts
        ]

    def at(self, address: int) -> Function | None:
        """Return the function that an address lies in, None in user space and before all."""
        if address < KERNEL:
            return None
        index = bisect_right(self._starts, address) - 1
        return self._functions[index] if index >= 0 else None


def parse(kallsyms: str) -> Symbols:
    """Read the text of /proc/kallsyms.  Raises ValueError where it names no function.

    Of several names at one address the one with the fewest leading underscores stands, then
    the shortest: the one that callers use.  A section's bound is nobody's name.
    """
    functions: dict[int, str] = {}
    aliases: list[str] = []
    for line in kallsyms.splitlines():
        fields = line.split()
        if len(fields) < 3 or fields[1] not in _TEXT or fields[2].startswith(_PADDING):
            continue
        try:
            address = int(fields[0], 16)
        except ValueError:
            continue
        if address >= KERNEL:
            aliases.append(fields[2])
            known = functions.get(address)
            if known is None or _rank(fields[2]) < _rank(known):
                functions[address] = fields[2]
    if not functions:
        raise ValueError("it names no function by address")
    return Symbols(functions, aliases)


def _rank(name: str) -> tuple[bool, int, int, str]:
    return bool(_BOUND.match(name)), len(name) - len(name.lstrip("_")), len(name), name
