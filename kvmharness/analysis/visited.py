"""What was just run in a trace, in which stack, and whether an exit interrupted it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from kvmharness.analysis.calltree import Frame, Node
from kvmharness.analysis.opcodes import End, Flow, end_of, may_fault
from kvmharness.analysis.tracefile import Block

ELSEWHERE = frozenset(Flow) - {Flow.ON, Flow.VMRUN}


class Code:
    """A block's instructions: their addresses, and what the flow of control is behind them."""

    def __init__(self, block: Block) -> None:
        self.addresses = [block.start]
        for size in block.sizes:
            self.addresses.append(self.addresses[-1] + size)
        self._block = block

    def __len__(self) -> int:
        return len(self._block.sizes)

    def instruction(self, index: int) -> bytes:
        """Return an instruction's bytes."""
        start = self._block.start
        return self._block.code[self.addresses[index] - start : self.addresses[index + 1] - start]

    @cached_property
    def end(self) -> End:
        """What the last instruction does."""
        return end_of(self.instruction(len(self) - 1), self.addresses[-1])


@dataclass(eq=False, slots=True)
class State:
    """What was just run, in which stack (`frame`, after it), and how often so far.

    `charges` are instructions by node for each visit, the interrupted ones of the state before
    taken off; `entered` is the function that was called to come here.  `undone` is whose last
    instruction an exit to here interrupted; `handles` is whether the kernel handles such an exit
    here, `interrupt` whether it handles an interrupt.
    """

    frame: Frame
    guest: bool
    code: Code | None = None
    first: int = 0
    stop: int = 0
    charges: list[tuple[Node, int]] = field(default_factory=list)
    entered: Node | None = None
    visits: int = 0
    charged: int = 0
    undone: Node | None = None
    handles: bool = False
    interrupt: bool = False
    next: dict[int, State] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether the block was begun to its last instruction."""
        return self.code is not None and self.stop == len(self.code)

    @property
    def may_have_faulted(self) -> bool:
        """Whether the last instruction begun may be one that was not carried out."""
        if self.code is None:
            return False
        return not self.whole or may_fault(self.code.instruction(self.stop - 1))

    @property
    def last(self) -> int:
        """The address of the last instruction that was begun."""
        assert self.code is not None
        return self.code.addresses[self.stop - 1]

    @property
    def jumps(self) -> bool:
        """Whether the last instruction begun leads elsewhere."""
        return self.code is not None and self.whole and self.code.end.flow in ELSEWHERE


@dataclass(eq=False, slots=True)
class Exit:
    """An exit behind an instruction of `of`, which was taken for interrupted, perhaps wrongly.

    `jump` is where that stands if it is one; whether since then an interrupt came, and whether
    KVM `handled` an exit that an instruction caused.
    """

    of: Node | None = None
    jump: int | None = None
    interrupt: bool = False
    handled: bool = False

    def was_carried_out(self, next_: int) -> bool:
        """Tell whether the instruction had ended, as the guest goes on at the address `next_`.

        A jump that goes on elsewhere than at itself did: it was the fetch behind it that exited.
        """
        if self.jump is not None and self.jump != next_:
            return True
        return self.interrupt and not self.handled
