"""What an instruction does to the flow of control: as much of x86 as a call tree needs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

# Legacy prefixes (AMD64 manual vol. 3, 1.2) and, in 64-bit code, REX.
PREFIXES = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")
REX = range(0x40, 0x50)


class Flow(Enum):
    """Where control goes after an instruction."""

    ON = auto()
    CALL = auto()
    JUMP = auto()
    BRANCH = auto()
    RETURN = auto()
    INTERRUPT_RETURN = auto()
    SYSCALL = auto()
    SYSCALL_RETURN = auto()
    VMRUN = auto()


@dataclass(frozen=True)
class End:
    """What an instruction does, and where it leads if it says so itself."""

    flow: Flow
    target: int | None = None


NOP = 0x90
_BY_BYTE = {0xC2: Flow.RETURN, 0xC3: Flow.RETURN, 0xCF: Flow.INTERRUPT_RETURN}
_RELATIVE = {
    0xE8: Flow.CALL,
    0xE9: Flow.JUMP,
    0xEB: Flow.JUMP,
    **dict.fromkeys([*range(0x70, 0x80), *range(0xE0, 0xE4)], Flow.BRANCH),
}
# ModRM.reg of opcode 0xff.
_INDIRECT = {2: Flow.CALL, 3: Flow.CALL, 4: Flow.JUMP, 5: Flow.JUMP}
_TWO_BYTES = {0x05: Flow.SYSCALL, 0x07: Flow.SYSCALL_RETURN}


def _relative(code: bytes, opcode_size: int, following: int) -> int:
    return following + int.from_bytes(code[opcode_size:], "little", signed=True) & 2**64 - 1


def end_of(code: bytes, following: int) -> End:
    """Tell what one instruction of 64-bit code does; `following` is the address behind it."""
    at = 0
    while at < len(code) - 1 and (code[at] in PREFIXES or code[at] in REX):
        at += 1
    code = code[at:]
    first = code[0] if code else NOP
    if first in _RELATIVE:
        return End(_RELATIVE[first], _relative(code, 1, following))
    if first == 0xFF and len(code) > 1:
        return End(_INDIRECT.get(code[1] >> 3 & 7, Flow.ON))
    if first == 0x0F and len(code) > 1:
        return _two_bytes(code, following)
    return End(_BY_BYTE.get(first, Flow.ON))


def _two_bytes(code: bytes, following: int) -> End:
    if code[:3] == b"\x0f\x01\xd8":
        return End(Flow.VMRUN)
    if 0x80 <= code[1] < 0x90:
        return End(Flow.BRANCH, _relative(code, 2, following))
    return End(_TWO_BYTES.get(code[1], Flow.ON))


# Opcodes of one byte that name a memory operand by ModRM, but exit for no other reason.
_BY_MODRM = frozenset(
    {row + column for row in range(0, 0x40, 8) for column in range(4)}
    | {0x63, 0x69, 0x6B, 0xC0, 0xC1, 0xF6, 0xF7, 0xFE, 0xFF}
    | {*range(0x80, 0x8C), *range(0xD0, 0xD4)}
)
# Those that have no memory operand at all: ALU by the accumulator, INC, DEC, jumps, NOP, MOV.
_NEVER = frozenset(
    {row + column for row in range(0, 0x40, 8) for column in (4, 5)}
    | {*range(0x40, 0x50), *range(0x70, 0x80), 0x8D, *range(0x90, 0x98), 0xA8, 0xA9}
    | {*range(0xB0, 0xC0), *range(0xE0, 0xE4), 0xE9, 0xEB}
)


def may_fault(code: bytes) -> bool:
    """Tell whether an instruction can be interrupted: it reaches memory or is a special one.

    Of code in any mode: in 64-bit code a REX prefix looks like the INC that it is elsewhere,
    so what it stands before is looked at too.
    """
    at = 0
    while at < len(code) - 1 and (code[at] in PREFIXES or code[at] in REX):
        at += 1
    first, rest = code[at] if code else NOP, code[at + 1 :]
    if first in _NEVER:
        return False
    if first in _BY_MODRM:
        return not rest or rest[0] < 0xC0
    # A branch with a long displacement, and the fences.
    return not (first == 0x0F and rest and (0x80 <= rest[0] < 0x90 or rest[0] == 0xAE))
