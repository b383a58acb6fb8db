"""What lies between two explanations, function by function; pure.

A compiler inlines a function in one build and not in another, so rows of functions pair
falsely.  What only one kernel has a symbol of is therefore charged to the nearest caller that
both have, and named apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping

from kvmharness.analysis.calltree import Node
from kvmharness.analysis.explain import tree
from kvmharness.model.explanation import Change, Difference, Explanation

# Callers named in a row, and in the sentence.
CALLERS, CALLERS_SAID = 8, 5
# Functions that only one kernel has, named beside the one that they are charged to.
ALONE = 3

Has = Callable[[str], bool]
# Instructions of dissolved functions by the function that they are charged to.
Charged = dict[str, dict[str, int]]


def is_root(name: str) -> bool:
    """Tell whether a name is none of a function but of where something ran."""
    return name.startswith("[")


def _bottoms(top: Node, has: Has) -> dict[str, str]:
    """Return the function at the bottom of most of each root's stacks, by the root's name.

    Only of functions that the other kernel has.
    """
    totals = top.totals()
    most = {
        root.name: max(root.children.values(), key=lambda node: totals[node]).name
        for root in top.children.values()
        if root.children
    }
    return {root: name for root, name in most.items() if has(name) and not is_root(name)}


def _lower(top: Node, has: Has, others: Mapping[str, str], charged: Charged) -> None:
    """Charge what is at the bottom of a stack, and not in the other kernel, to what is there in it.

    A sample shows no caller of the loop that it is in: the other's is the nearest known.
    """
    for root in top.children.values():
        name = others.get(root.name)
        for node in [node for node in root.children.values() if not has(node.name)]:
            if name is None or is_root(node.name):
                continue
            charged[name][node.name] += node.own
            del root.children[node.name]
            root.child(name).absorb(node)


def _without(top: Node, has: Has, others: Mapping[str, str]) -> Charged:
    """Dissolve the functions below `top` that the other kernel does not have.

    `others` are the bottoms of its stacks.  Returns what the dissolved ones took themselves, by the
    function that it is charged to.
    """
    charged: Charged = defaultdict(lambda: defaultdict(int))
    _lower(top, has, others, charged)
    bags: dict[Node, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for node in reversed(list(top.walk())):
        called = node.parent is not None and node.parent is not top
        if node.parent is None or not called or is_root(node.name) or has(node.name):
            continue
        bag = bags[node.parent]
        for name, own in [(node.name, node.own), *bags.pop(node, {}).items()]:
            bag[name] += own
        node.dissolve()
    for node, bag in bags.items():
        for name, own in bag.items():
            charged[node.name][name] += own
    return charged


def align(one: Node, other: Node, has_before: Has, has_after: Has) -> tuple[Charged, Charged]:
    """Dissolve in either tree what the other's kernel has no symbol of, so that the rest pairs.

    Returns what the dissolved ones took themselves, by the function that it is charged to.
    """
    below, other_below = _bottoms(one, has_after), _bottoms(other, has_before)
    return _without(one, has_after, other_below), _without(other, has_before, below)


def _per_op(charged: Charged, ops: int) -> dict[str, float]:
    """Return what the dissolved functions took per op, by name."""
    owns: dict[str, int] = defaultdict(int)
    for bag in charged.values():
        for name, own in bag.items():
            owns[name] += own
    return {name: own / ops for name, own in sorted(owns.items())}


def _owns(top: Node) -> dict[str, int]:
    owns: dict[str, int] = defaultdict(int)
    for node in top.walk():
        if node.parent is not None:
            owns[node.name] += node.own
    return dict(owns)


def _callers(top: Node) -> dict[str, list[str]]:
    """Return each function's callers, nearest first, where it took most; no name twice."""
    dearest: dict[str, Node] = {}
    for node in top.walk():
        if node.parent is not None:
            known = dearest.get(node.name)
            if known is None or node.own > known.own:
                dearest[node.name] = node
    chains = {}
    for name, node in dearest.items():
        names = dict.fromkeys(caller.name for caller in reversed(node.path[:-1]))
        chains[name] = [n for n in names if n != name and not is_root(n)][:CALLERS]
    return chains


def difference(
    before: Explanation, after: Explanation, has_before: Has, has_after: Has
) -> Difference:
    """Compare two explanations of one case.

    `has_before` and `has_after` tell whether that kernel has a function of a name at all.
    The changes are sorted by size and add up to the difference of the figures.
    """
    one, other = tree(before.nodes), tree(after.nodes)
    only_before, only_after = align(one, other, has_before, has_after)
    owns, other_owns = _owns(one), _owns(other)
    chains, other_chains = _callers(one), _callers(other)
    changes = []
    for name in dict.fromkeys([*owns, *other_owns]):
        old = owns.get(name, 0) / before.ops
        new = other_owns.get(name, 0) / after.ops
        if old != new:
            chain, charged = (other_chains, only_after) if new > old else (chains, only_before)
            bag = charged.get(name, {})
            dearest = sorted((n for n in bag if bag[n]), key=lambda n: (-bag[n], n))[:ALONE]
            changes.append(Change(name, old, new, chain.get(name, []), dearest))
    changes.sort(key=lambda row: (-abs(row.change), row.function))
    return Difference(
        sentence(before, after, changes),
        changes,
        _per_op(only_before, before.ops),
        _per_op(only_after, after.ops),
    )


def _count(value: float) -> str:
    """Format instructions per op: whole where there are many."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.2f}".rstrip("0").rstrip(".")


def sentence(before: Explanation, after: Explanation, changes: list[Change]) -> str:
    """Say in one sentence where most of the difference went."""
    change = after.figure - before.figure
    figures = f"{before.label} takes {_count(before.figure)} instructions per op"
    if not changes:
        return f"{figures}, {after.label} the same in every function."
    if round(change, 2) == 0:
        most = changes[0]
        return (
            f"{figures}, {after.label} as many; the largest change of one function, "
            f"{_count(most.change)}, is that of {most.function}{_called(most)}."
        )
    more = "more" if change > 0 else "fewer"
    most = next(row for row in changes if row.change * change > 0)
    share = f"{most.change / change:.0%}" if most.change / change <= 1 else "more than all"
    return (
        f"{figures}, {after.label} {_count(after.figure)}: {_count(abs(most.change))} of the "
        f"{_count(abs(change))} {more} ({share}) are those of {most.function}{_called(most)}."
    )


def _called(row: Change) -> str:
    with_ = f" with {', '.join(row.alone)} in it" if row.alone else ""
    if not row.callers:
        return with_
    return f"{with_}, called by {' < '.join(row.callers[:CALLERS_SAID])}"
