"""What ran after a sample until nothing was left to do: the work that it put off; pure.

All but the harness's own thread and the idle one: other threads, and interrupts whoever they
came to, with the soft interrupts that end them.
"""

from __future__ import annotations

from collections.abc import Iterable

from kvmharness.analysis.attribution import Attribution
from kvmharness.analysis.calltree import DEFERRED, INTERRUPTS, THREAD, Node
from kvmharness.analysis.explain import flatten
from kvmharness.analysis.symbols import Symbols
from kvmharness.analysis.tracefile import Block, Words
from kvmharness.model.explanation import CallNode

# Who runs one of these is the thread that idles.
IDLE = frozenset({"cpu_startup_entry", "do_idle", "schedule_idle"})
# What a thread brings upon itself, such as a fault on a page.
EXCEPTION = "asm_exc_"


def work(blocks: dict[int, Block], symbols: Symbols, windows: Iterable[Words]) -> Node:
    """Return the call tree of what others did in all the windows; its top is DEFERRED."""
    attribution = Attribution(blocks, symbols, apart=True)
    for events in windows:
        attribution.add(events)
    attribution.settle()
    found = Node(DEFERRED)
    for root in list(attribution.top.children.values()):
        if root.name == INTERRUPTS:
            for entry in root.children.values():
                if not entry.name.startswith(EXCEPTION):
                    found.child(INTERRUPTS).child(entry.name).absorb(entry)
        elif root.name.startswith(THREAD) and not any(n.name in IDLE for n in root.walk()):
            found.absorb(root)
    return found


def _subtract(tree: Node, other: Node) -> None:
    pairs = [(tree, other)]
    while pairs:
        into, of = pairs.pop()
        into.own -= of.own
        into.calls -= of.calls
        pairs += [(into.child(name), child) for name, child in of.children.items()]


def _prune(tree: Node) -> None:
    """Take out what came to nothing, with all below it."""
    for node in reversed(list(tree.walk())):
        if node.parent and not (node.own or node.calls or node.children):
            del node.parent.children[node.name]


def net(many: Node, single: Node) -> list[CallNode]:
    """Return the nodes of a tree less another one's; a count may be less than 0.

    The first tree's nodes are taken for it.
    """
    top = Node("")
    found = top.child(many.name)
    found.absorb(many)
    _subtract(found, single)
    _prune(found)
    return flatten(top)
