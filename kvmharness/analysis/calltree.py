"""The call tree that instructions are charged to, and the stacks that lead through it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from kvmharness.analysis.opcodes import Flow
from kvmharness.analysis.symbols import KERNEL, NOBODY, Function, Symbols

# The roots: everything that ran is below one of them.
VCPU, GUEST, L1, INTERRUPTS, OTHERS, DEFERRED = (
    "[vCPU thread]",
    "[guest]",
    "[L1]",
    "[interrupts]",
    "[other threads]",
    "[deferred]",
)
USER = "[user space]"
# A root of one other thread: the beginning of its name.
THREAD = "[thread "
# Ways to jump and to return that stand in for an instruction: whom they lead to is not theirs.
JUMPS = ("__x86_indirect_", "__SCT__")
RETURNS = ("__x86_return_", "srso_", "retbleed_")
# In place of an address to return to: where IRET and SYSRET lead.
BY_IRET, BY_SYSRET = -1, -2


def is_thunk(name: str) -> bool:
    """Tell whether a function only jumps or returns for another one."""
    return name.startswith((*JUMPS, *RETURNS))


@dataclass(eq=False, slots=True)
class Node:
    """A function as called along one path: its own instructions, and how often it was entered."""

    name: str
    parent: Node | None = None
    own: int = 0
    calls: int = 0
    children: dict[str, Node] = field(default_factory=dict)

    def child(self, name: str) -> Node:
        """Return the child of that name, made if need be."""
        found = self.children.get(name)
        if found is None:
            found = self.children[name] = Node(name, self)
        return found

    def walk(self) -> Iterator[Node]:
        """Yield the node and all below it, parents first."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += reversed(node.children.values())

    def absorb(self, other: Node) -> dict[Node, Node]:
        """Add another node's counts and children to this one's.

        Returns which nodes are no longer in the tree, and which one stands for each.
        """
        merged: dict[Node, Node] = {}
        pairs = [(self, other)]
        while pairs:
            into, of = pairs.pop()
            merged[of] = into
            into.own += of.own
            into.calls += of.calls
            for name, child in of.children.items():
                if name in into.children:
                    pairs.append((into.children[name], child))
                else:
                    into.children[name] = child
                    child.parent = into
        return merged

    def dissolve(self) -> None:
        """Leave the tree, and leave own instructions and children to the parent."""
        assert self.parent is not None
        del self.parent.children[self.name]
        self.calls = 0
        self.parent.absorb(self)

    def totals(self) -> dict[Node, int]:
        """Return the instructions of every node from here on with all below it."""
        nodes = list(self.walk())
        found = {node: node.own for node in nodes}
        for node in reversed(nodes):
            if node is not self and node.parent is not None:
                found[node.parent] += found[node]
        return found

    @property
    def path(self) -> list[Node]:
        """The nodes from below the tree's top down to this one."""
        found: list[Node] = []
        node: Node | None = self
        while node is not None and node.parent is not None:
            found.append(node)
            node = node.parent
        return found[::-1]


@dataclass(eq=False, slots=True)
class Frame:
    """A call under way: its node, the address it returns to (None: not known), its caller's.

    Of an interrupt's: what the last instruction before it did, and the address behind that.
    """

    node: Node
    returns: int | None
    below: Frame | None
    flow: Flow = Flow.ON
    behind: int = 0


class Stacks:
    """All stacks that a trace leads through; equal ones are one object.

    `unmatched` counts returns to where nobody had called from: such a return changes whose
    callee a function is, never what it costs.
    """

    def __init__(self, symbols: Symbols, top: Node) -> None:
        self._symbols = symbols
        self._top = top
        self._frames: dict[tuple[int, int | None, int, Flow, int], Frame] = {}
        self._lifted: list[tuple[Node, Node]] = []
        self.unmatched = 0

    def frame(
        self,
        node: Node,
        returns: int | None = None,
        below: Frame | None = None,
        flow: Flow = Flow.ON,
        behind: int = 0,
    ) -> Frame:
        """Return the one frame of these."""
        key = id(node), returns, id(below), flow, behind
        found = self._frames.get(key)
        if found is None:
            found = self._frames[key] = Frame(node, returns, below, flow, behind)
        return found

    def empty(self, root: str) -> Frame:
        """Return the stack of a thread of which nothing is known yet."""
        return self.frame(self._top.child(root))

    def _root(self, frame: Frame) -> Node:
        node = frame.node
        while node.parent is not None and node.parent is not self._top:
            node = node.parent
        return node

    def user(self, frame: Frame) -> Frame:
        """Return the stack of the frame's thread in user space."""
        return self.frame(self._root(frame).child(USER))

    def _moved(self, frame: Frame, node: Node) -> Frame:
        """Return the frame with another function in it."""
        return self.frame(node, frame.returns, frame.below, frame.flow, frame.behind)

    def place(self, frame: Frame, address: int) -> Frame:
        """Return the stack after control went on, or jumped, to an address.

        A jump into another function is a call whose return is the caller's own: a tail call,
        kept as a frame.  One to a function that this frame came through goes back to it.
        """
        if address < KERNEL:
            return self.user(frame)
        function = self._symbols.at(address)
        name = function.name if function else NOBODY
        node = frame.node
        if node.name == name:
            return frame
        if node.parent is self._top:
            return self._moved(frame, node.child(name))
        while is_thunk(node.name) and node.parent is not None:
            node = node.parent
        limit = frame.below.node if frame.below and frame.returns != BY_IRET else self._top
        came: Node | None = node
        while came is not None and came is not limit and came.parent is not self._top.parent:
            if came.name == name:
                return self._moved(frame, came)
            came = came.parent
        return self._moved(frame, node.child(name))

    def call(self, frame: Frame, target: int, returns: int) -> Frame:
        """Return the stack after a call; one to no function's start enters none."""
        function = self._symbols.at(target)
        if function is None or function.start != target or self._part(function, frame.node.name):
            return self.frame(frame.node, returns, frame)
        return self.frame(frame.node.child(function.name), returns, frame)

    @staticmethod
    def _part(function: Function, caller: str) -> bool:
        """Tell whether a callee is what the compiler split off its caller."""
        return function.name == caller and function.symbol != function.name

    def returned(self, frame: Frame, target: int) -> Frame:
        """Return the stack after a return: to whoever called from before the target."""
        seen: Frame | None = frame
        while seen is not None and seen.returns not in (BY_IRET, BY_SYSRET):
            if seen.returns == target and seen.below is not None:
                return seen.below
            seen = seen.below
        thunk = frame
        while thunk.below is not None and is_thunk(thunk.below.node.name):
            thunk = thunk.below
        if self._jumps(thunk):
            return self.place(thunk, target)
        return self._below(frame, target)

    @staticmethod
    def _jumps(frame: Frame) -> bool:
        """Tell whether a frame is that of a thunk which stands in for an indirect jump."""
        node: Node | None = frame.node
        while node is not None and is_thunk(node.name):
            if node.name.startswith(JUMPS):
                return True
            node = node.parent
        return False

    def _below(self, frame: Frame, target: int) -> Frame:
        """Return the stack after a return to where nobody is known to have called from."""
        if target < KERNEL:
            return self.user(frame)
        function = self._symbols.at(target)
        name = function.name if function else NOBODY
        bottom = frame
        while bottom.below is not None and bottom.returns not in (BY_IRET, BY_SYSRET):
            bottom = bottom.below
            if bottom.node.name == name:
                self.unmatched += 1
                return bottom
        if bottom.returns is not None:
            self.unmatched += 1
            return self.place(bottom, target)
        root = self._root(bottom)
        caller = root.child(name)
        base = bottom.node
        while base.parent is not None and base.parent is not root:
            base = base.parent
        if base is not root and base is not caller:
            self._lifted.append((base, caller))
        return self.frame(caller)

    def went(self, frame: Frame, flow: Flow, target: int, behind: int) -> Frame:
        """Return the stack after an instruction, behind which is `behind`, led to an address."""
        match flow:
            case Flow.CALL:
                frame = self.call(frame, target, behind)
            case Flow.RETURN:
                frame = self.returned(frame, target)
            case Flow.INTERRUPT_RETURN:
                frame = self.interrupt_returned(frame, target)
            case Flow.SYSCALL:
                frame = self.system_call(frame, target)
            case Flow.SYSCALL_RETURN:
                frame = self.user(frame)
        return self.place(frame, target)

    def interrupt(
        self, frame: Frame, function: Function, flow: Flow = Flow.ON, behind: int = 0
    ) -> Frame:
        """Return the stack after an interrupt or exception: it has a root of its own.

        `flow` is what the instruction before it did, which nobody has seen the end of.
        """
        node = self._top.child(INTERRUPTS).child(function.name)
        return self.frame(node, BY_IRET, frame, flow, behind)

    def interrupted(self, frame: Frame) -> Frame | None:
        """Return the frame of the interrupt that a frame belongs to, None where it is no one's."""
        seen: Frame | None = frame
        while seen is not None and seen.returns != BY_IRET:
            seen = seen.below
        return seen

    def interrupt_returned(self, frame: Frame, target: int) -> Frame:
        """Return the stack after IRET: where what was interrupted led to."""
        seen = self.interrupted(frame)
        if seen is None or seen.below is None:
            return self.place(frame, target)
        return self.went(seen.below, seen.flow, target, seen.behind)

    def system_call(self, frame: Frame, target: int) -> Frame:
        """Return the stack after SYSCALL."""
        user = self.user(frame)
        return self.place(self.frame(self._root(frame), BY_SYSRET, user), target)

    def settle(self) -> None:
        """Put what turned out to have a caller below it, once all callers are known."""
        merged: dict[Node, Node] = {}
        for base, caller in self._lifted:
            while caller in merged:
                caller = merged[caller]  # noqa: PLW2901 - the one that stands for it
            parent = base.parent
            if base in merged or parent is None or base in caller.path:
                continue
            del parent.children[base.name]
            known = caller.children.get(base.name)
            if known is not None:
                merged |= known.absorb(base)
            else:
                caller.children[base.name] = base
                base.parent = caller
        self._lifted.clear()
