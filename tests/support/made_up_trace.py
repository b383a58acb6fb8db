"""Traces made by hand: functions at addresses, blocks of real machine code, the order they ran."""

from __future__ import annotations

import struct

import numpy as np

from kvmharness.analysis import symbols, tracefile
from kvmharness.analysis.attribution import Attribution
from kvmharness.analysis.calltree import Node
from kvmharness.analysis.tracefile import Block, Kind, Stretch, event

BASE = 0xFFFFFFFF81000000
NOP, RET, IRET, VMRUN = b"\x90", b"\xc3", b"\x48\xcf", b"\x0f\x01\xd8"
SYSCALL, SYSRET, RDTSC = b"\x0f\x05", b"\x48\x0f\x07", b"\x0f\x31"
LOAD, CALL_RAX, JMP_RAX = b"\x48\x8b\x07", b"\xff\xd0", b"\xff\xe0"
# Names of threads, as the kernel keeps them.
OURS, IDLE, WORKER = (0xFFFF888000000A18 + n * 0x1000 for n in range(3))
MOV_CR0, JNZ_BACK = b"\x0f\x22\xc3", b"\x75\xf0"


def relative(opcode: bytes, at: int, target: int) -> bytes:
    """Return a call (e8) or jump (e9) that stands at an address."""
    following = at + len(opcode) + 4
    return opcode + struct.pack("<i", target - following)


class Made:
    """A kernel's code and what ran of it, to be folded."""

    def __init__(self, *functions: str) -> None:
        self.at = {name: BASE + 0x100 * n for n, name in enumerate(functions)}
        self.blocks: dict[int, Block] = {}
        self.words: list[int] = []

    @property
    def symbols(self) -> symbols.Symbols:
        """The functions, as /proc/kallsyms has them."""
        return symbols.parse("\n".join(f"{at:x} t {name}" for name, at in self.at.items()))

    def block(self, start: int, *insns: bytes) -> int:
        """Return the number of a block of instructions at an address."""
        block = Block(start, bytes(map(len, insns)), b"".join(insns))
        number = len(self.blocks)
        self.blocks[number] = block
        return number

    def ran(
        self, number: int, begun: int | None = None, first: int = 0, guest: bool = False
    ) -> None:
        """Have a block run, `begun` of its instructions (None: all from the `first` on)."""
        count = len(self.blocks[number].sizes) - first if begun is None else begun
        self.words.append(event(Kind.L2 if guest else Kind.L1, number, count, first))

    def run(self, function: str, *insns: bytes, offset: int = 0) -> int:
        """Make a block in a function and have it run; return the address behind it."""
        start = self.at[function] + offset
        self.ran(self.block(start, *insns))
        return start + sum(map(len, insns))

    def call(self, function: str, target: str, offset: int = 0) -> int:
        """Run a direct call; return the address that it returns to."""
        at = self.at[function] + offset
        return self.run(function, relative(b"\xe8", at, self.at[target]), offset=offset)

    def jump(self, function: str, target: str, offset: int = 0) -> None:
        """Run a direct jump."""
        at = self.at[function] + offset
        self.run(function, relative(b"\xe9", at, self.at[target]), offset=offset)

    def switch(self, old: int, new: int) -> None:
        """Have the kernel switch from one thread to another."""
        self.words += [event(Kind.LEAVE, 0), old, event(Kind.RESUME, 0), new]

    @property
    def stretch(self) -> Stretch:
        """What ran, as a sample."""
        return Stretch(0, np.array(self.words, dtype="<u8"))

    def fold(self) -> Attribution:
        """Return the whole attributed."""
        attribution = Attribution(self.blocks, self.symbols)
        attribution.add(self.stretch.words)
        attribution.settle()
        return attribution

    def file(self) -> bytes:
        """Return a trace file that holds it as its one sample, and once more as what ran later."""
        words = [tracefile.HEADER, event(Kind.BEGIN, 0), *self.words, event(Kind.END, 0)]
        words += [*self.words, event(Kind.SETTLED, 0)]
        before = len(words)
        data = struct.pack(f"<{before}Q", *words)
        for number, block in self.blocks.items():
            sizes = len(block.code) << 48 | len(block.sizes) << 32 | number
            body = block.sizes + block.code
            data += struct.pack("<2Q", block.start, sizes) + body + bytes(-len(body) % 8)
        return data + struct.pack("<3Q", tracefile.END, before, len(self.blocks))


def paths(top: Node) -> dict[str, tuple[int, int]]:
    """Return own instructions and calls by path, of the nodes that have either."""
    return {
        ";".join(node.name for node in n.path): (n.own, n.calls)
        for n in top.walk()
        if n.own or n.calls
    }
