"""From a call tree to what an explanation says: the file's nodes, the dearest functions; pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from kvmharness.analysis.calltree import Node
from kvmharness.analysis.profile import Profiled, SymbolCost
from kvmharness.model.explanation import CallNode, Explanation

UNIT = "insn"


def flatten(top: Node) -> list[CallNode]:
    """Return the nodes below `top`, callers first."""
    places: dict[Node, int] = {}
    nodes: list[CallNode] = []
    for node in top.walk():
        if node.parent is None:
            continue
        places[node] = len(nodes)
        nodes.append(CallNode(node.name, places.get(node.parent), node.own, node.calls))
    return nodes


def tree(nodes: Sequence[CallNode]) -> Node:
    """Return the top of the tree that the nodes make; those of one path are one."""
    top = Node("")
    made: list[Node] = []
    for given in nodes:
        node = (top if given.parent is None else made[given.parent]).child(given.name)
        node.own += given.own
        node.calls += given.calls
        made.append(node)
    return top


def outermost(node: Node) -> bool:
    """Tell whether no caller of a node is the same function."""
    return all(caller.name != node.name for caller in node.path[:-1])


def costs(explanation: Explanation) -> Profiled:
    """Return the functions by their own instructions per op, dearest first, with callers."""
    return costs_of(explanation.nodes, explanation.ops)


def costs_of(nodes: Sequence[CallNode], ops: int) -> Profiled:
    """Return the functions of a call tree over `ops` ops likewise."""
    top = tree(nodes)
    totals = top.totals()
    own: dict[str, int] = defaultdict(int)
    inclusive: dict[str, int] = defaultdict(int)
    calls: dict[str, int] = defaultdict(int)
    callers: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for node in top.walk():
        if node.parent is None or node.parent is top:
            continue
        own[node.name] += node.own
        calls[node.name] += node.calls
        if outermost(node):
            inclusive[node.name] += totals[node]
        if node.parent.name != node.name:
            callers[node.name][node.parent.name] += totals[node]
    for root in top.children.values():
        if root.own:
            own[root.name], inclusive[root.name] = root.own, totals[root]
    rows = [
        SymbolCost(
            name,
            cost / ops,
            cost / ops,
            inclusive[name] / ops,
            calls[name] / ops,
            tuple(sorted(callers[name], key=lambda caller: -callers[name][caller])),
        )
        for name, cost in own.items()
    ]
    rows.sort(key=lambda row: (-row.net, row.symbol))
    return Profiled(rows, UNIT, ops, None, sampled=False)
