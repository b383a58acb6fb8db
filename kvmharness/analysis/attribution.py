"""Charge every instruction of a trace to the function that ran it, by call path; pure.

A trace is followed block by block.  Where one was seen before in the same stack, what it does
to the stack and what it costs are known: a trace of millions of blocks has thousands of such
states, and following it is a look-up each.
"""

from __future__ import annotations

from collections import defaultdict

from kvmharness.analysis.calltree import (
    BY_IRET,
    GUEST,
    INTERRUPTS,
    L1,
    OTHERS,
    THREAD,
    VCPU,
    Frame,
    Node,
    Stacks,
    is_thunk,
)
from kvmharness.analysis.opcodes import End, Flow
from kvmharness.analysis.symbols import Function, Symbols
from kvmharness.analysis.tracefile import (
    BEGUN_SHIFT,
    COUNT_MASK,
    FIRST_SHIFT,
    KIND_SHIFT,
    NUMBER_MASK,
    Block,
    Kind,
    Words,
)
from kvmharness.analysis.visited import Code, Exit, State

# Our guest runs below the first, or (with @high=1) so far above the second, and its user mode in
# the third (guests/shared.h).  A kernel between it and the one that is followed has nothing there,
# nor has the harness in it.
GUEST_END, HIGH_HALF = 0x10000, 0xFFFFFFFF80000000
GUEST_USER = range(0x402000, 0x404000)
# Where the CPU enters the kernel by itself.
ENTRY = "asm_"
STUBS = frozenset({"irq_entries_start", "spurious_entries_start"})
# How KVM goes about an exit that an instruction caused: its handlers' names, or what comes before.
HANDLERS = ("kvm_mmu_page_fault", "kvm_handle_page_fault", "nested_svm_exit_handled")
HANDLER_PREFIXES, HANDLER_SUFFIX = ("kvm_emulate_", "handle_fastpath_"), "_interception"
NO_HANDLER = "intr_interception"
# Exceptions that are taken after the instruction, or come from elsewhere.
NO_FAULT = frozenset(
    f"asm_exc_{name}" for name in ("debug", "int3", "nmi", "overflow", "machine_check")
)


def _handles(name: str) -> bool:
    named = name in HANDLERS or name.startswith(HANDLER_PREFIXES)
    return named or (name.endswith(HANDLER_SUFFIX) and name != NO_HANDLER)


class Attribution:
    """The call tree of the stretches that were added; `top` has the roots below it.

    `begun` counts instructions, `undone` those of them that an exit or a fault interrupted and
    that were no instructions to the CPU's clock: `total` is what the clock counted.  `thunks`
    of them, once all is settled, stood in for an indirect jump or a return.  With `apart` each
    other thread has a root of its own.
    """

    def __init__(self, blocks: dict[int, Block], symbols: Symbols, apart: bool = False) -> None:
        self.top = Node("")
        self._apart = apart
        self.begun = self.undone = self.thunks = 0
        self._blocks = blocks
        self._symbols = symbols
        self._stacks = Stacks(symbols, self.top)
        self._codes: dict[int, Code] = {}
        self._states: dict[tuple[int, int, int, int, bool], State] = {}
        self._guest = self.top.child(GUEST)
        self._inner: Node | None = None

    @property
    def total(self) -> int:
        """Instructions of all stretches, as the CPU's clock counted them."""
        return self.begun - self.undone

    @property
    def unmatched(self) -> int:
        """Returns, of distinct kinds, to where nobody had called from."""
        return self._stacks.unmatched

    def add(self, events: Words) -> int:
        """Follow what ran; return how many instructions it took."""
        before = self.total
        state = State(self._stacks.empty(VCPU), False)
        parked: dict[int, Frame] = {}
        thread = 0
        exit_ = Exit()
        words = iter(events.tolist())
        for word in words:
            following = state.next.get(word)
            if following is None:
                kind = word >> KIND_SHIFT
                if kind == Kind.LEAVE:
                    thread = next(words)
                    continue
                if kind == Kind.RESUME:
                    parked[thread] = state.frame
                    thread = next(words)
                    root = f"{THREAD}{thread:x}]" if self._apart else OTHERS
                    state = State(parked.get(thread) or self._stacks.empty(root), False)
                    continue
                following = state.next[word] = self._follow(state, word)
            following.visits += 1
            if following.undone:
                exit_ = Exit(following.undone, state.last if state.jumps else None)
            if exit_.of:
                self._redone(exit_, following)
            state = following
        self._charge()
        return self.total - before

    def _redone(self, exit_: Exit, state: State) -> None:
        """Follow an exit to the next entry, and take back what it did not interrupt."""
        exit_.interrupt = exit_.interrupt or state.interrupt
        exit_.handled = exit_.handled or state.handles
        if state.guest and exit_.of and state.code:
            if exit_.was_carried_out(state.code.addresses[state.first]):
                exit_.of.own += 1
                self.undone -= 1
            exit_.of = None

    def settle(self) -> None:
        """Put the functions that were running when a stretch began below their callers, and
        charge what a thunk took to the function that it stood in for.

        To be called once, after the last stretch was added.
        """
        self._stacks.settle()
        thunks = [node for node in self.top.walk() if is_thunk(node.name)]
        self.thunks += sum(node.own for node in thunks)
        for node in reversed(thunks):
            node.dissolve()

    def instructions(self) -> dict[tuple[str, int], int]:
        """Return how often each instruction of a function was begun, by symbol and offset."""
        counts: dict[int, int] = defaultdict(int)
        for state in self._states.values():
            if state.code is not None and not state.guest:
                for address in state.code.addresses[state.first : state.stop]:
                    counts[address] += state.charged
        found: dict[tuple[str, int], int] = defaultdict(int)
        for address, count in counts.items():
            function = self._symbols.at(address)
            if function is not None:
                found[function.symbol, address - function.start] += count
        return dict(found)

    def _charge(self) -> None:
        """Charge what was visited since the last time."""
        for state in self._states.values():
            for node, count in state.charges:
                node.own += count * state.visits
                if count < 0:
                    self.undone -= count * state.visits
                else:
                    self.begun += count * state.visits
            if state.entered is not None:
                state.entered.calls += state.visits
            state.charged += state.visits
            state.visits = 0

    def _code(self, number: int) -> Code:
        found = self._codes.get(number)
        if found is None:
            found = self._codes[number] = Code(self._blocks[number])
        return found

    def _follow(self, state: State, word: int) -> State:
        """Return the state that an event leads to."""
        guest = word >> KIND_SHIFT == Kind.L2
        address = self._code(word & NUMBER_MASK).addresses[word >> FIRST_SHIFT & COUNT_MASK]
        interrupted: Node | None = None
        entered: Node | None = None
        frame = state.frame
        if state.guest:
            if self._guest_faulted(state, guest, address):
                interrupted = state.charges[0][0]
            if not guest:
                frame = self._stacks.place(frame, address)
        elif not guest:
            frame, faulted = self._went(state, address)
            interrupted = state.frame.node if faulted else None
            entered = self._entered(state, frame)
        key = (id(frame), word, id(interrupted), id(entered), guest)
        found = self._states.get(key)
        if found is None:
            found = self._states[key] = self._make(frame, word, guest)
            found.entered = entered
            if interrupted is not None:
                found.charges.append((interrupted, -1))
                found.undone = interrupted if state.guest and not guest else None
        return found

    def _inside(self, address: int) -> Node:
        """Return whose an address inside is: our guest's, or a kernel's with its processes."""
        if address % HIGH_HALF < GUEST_END or address in GUEST_USER:
            return self._guest
        if self._inner is None:
            self._inner = self.top.child(L1)
        return self._inner

    def _guest_faulted(self, state: State, guest: bool, address: int) -> bool:
        """Tell whether the guest's last instruction was interrupted, by an exit or a fault."""
        if not guest:
            return state.may_have_faulted
        return (
            state.code is not None
            and not state.whole
            and address != state.code.addresses[state.stop]
        )

    def _entered(self, state: State, frame: Frame) -> Node | None:
        """Return the node that the way from a state to a frame called, if it called one."""
        if state.code is None:
            return None  # the first of a sample, or of a thread: it was called before
        if frame.returns == BY_IRET and frame.below is state.frame:
            return frame.node  # it was interrupted
        flow = state.code.end.flow if state.whole else Flow.ON
        path = state.frame.node.path
        if flow is Flow.INTERRUPT_RETURN:
            return self._called_before(state.frame, frame)
        if flow is Flow.SYSCALL_RETURN or frame.node in path:
            return None
        # A return calls only where it stands in for a jump, never a thread's first function.
        jumps = frame.node.parent in path and len(frame.node.path) > 2
        return frame.node if flow is not Flow.RETURN or jumps else None

    def _called_before(self, frame: Frame, now: Frame) -> Node | None:
        """Return whom a call had just led to when the interrupt came whose handling now ends."""
        interrupt = self._stacks.interrupted(frame)
        caller = interrupt.below if interrupt and interrupt.flow is Flow.CALL else None
        called = caller is not None and now.below is caller and now.node is not caller.node
        return now.node if called else None

    def _went(self, state: State, address: int) -> tuple[Frame, bool]:
        """Return the stack after a state in the kernel, and whether a fault led to it."""
        stacks, frame, code = self._stacks, state.frame, state.code
        if code is None:
            return stacks.place(frame, address), False
        end = code.end if state.whole else End(Flow.ON)
        entry = self._entry(state, end, address)
        if entry is not None:
            fault = entry.name.startswith("asm_exc_") and entry.name not in NO_FAULT
            flow = Flow.ON if fault else end.flow
            frame = stacks.interrupt(frame, entry, flow, code.addresses[-1])
            return frame, fault and state.may_have_faulted
        return stacks.went(frame, end.flow, address, code.addresses[-1]), False

    def _entry(self, state: State, end: End, address: int) -> Function | None:
        """Return the entry that the CPU went to by itself, None if the code led there."""
        function = self._symbols.at(address)
        if function is None or end.target == address or state.code is None:
            return None
        if end.flow is Flow.ON and address == state.code.addresses[state.stop]:
            return None
        if function.name in STUBS:
            was = self._symbols.at(state.code.addresses[0])
            return function if was is not function else None
        starts = function.name.startswith(ENTRY) and function.start == address
        return function if starts else None

    def _make(self, frame: Frame, word: int, guest: bool) -> State:
        """Make the state of a block, charging each of its instructions."""
        code = self._code(word & NUMBER_MASK)
        first, begun = word >> FIRST_SHIFT & COUNT_MASK, word >> BEGUN_SHIFT & COUNT_MASK
        state = State(frame, guest, code, first, first + begun)
        if not guest:
            path = frame.node.path
            state.handles = any(_handles(node.name) for node in path)
            state.interrupt = path[0].name == INTERRUPTS
        if guest:
            state.charges.append((self._inside(code.addresses[0]), begun))
            return state
        counts: dict[Node, int] = {}
        for address in code.addresses[first : first + begun]:
            state.frame = self._stacks.place(state.frame, address)
            counts[state.frame.node] = counts.get(state.frame.node, 0) + 1
        state.charges += counts.items()
        return state
