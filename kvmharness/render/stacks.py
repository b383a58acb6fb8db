"""Call trees in the formats of other programs: folded stacks, and callgrind's."""

from __future__ import annotations

from collections import defaultdict

from kvmharness.analysis.explain import tree
from kvmharness.model.explanation import Explanation
from kvmharness.text import printable


def _name(name: str) -> str:
    """Return a name that neither format takes for more than one."""
    return "_".join(printable(name).replace(";", ":").split()) or "_"


def folded(explanation: Explanation) -> str:
    """Return one line per call path, `root;caller;function N`: its own instructions over all ops.

    flamegraph.pl, inferno and speedscope read it.  Deferred work that counts is in it, for as many
    ops.
    """
    trees = [(explanation.nodes, 1.0)]
    late = explanation.deferred
    if late and late.counts:
        trees.append((late.nodes, explanation.ops / late.ops))
    lines = [
        f"{';'.join(_name(caller.name) for caller in node.path)} {round(node.own * weight)}"
        for nodes, weight in trees
        for node in tree(nodes).walk()
        if round(node.own * weight) > 0
    ]
    return "".join(f"{line}\n" for line in sorted(lines))


def folded_pair(before: Explanation, after: Explanation) -> str:
    """Return one line per call path, with both kernels' own instructions per 1,000 ops.

    As difffolded.pl writes it, for flamegraph.pl.
    """
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for side, explanation in enumerate((before, after)):
        for node in tree(explanation.nodes).walk():
            if node.own:
                path = ";".join(_name(caller.name) for caller in node.path)
                counts[path][side] += round(1000 * node.own / explanation.ops)
    return "".join(f"{path} {one} {other}\n" for path, (one, other) in sorted(counts.items()))


def callgrind(explanation: Explanation, case: str) -> str:
    """Return the tree by function in callgrind's format, for KCachegrind: instructions, all ops.

    Source: Valgrind's manual, "Callgrind Format Specification".
    """
    top = tree(explanation.nodes)
    totals = top.totals()
    own: dict[str, int] = defaultdict(int)
    edges: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    for node in top.walk():
        if node.parent is None:
            continue
        own[_name(node.name)] += node.own
        if node.parent is not top:
            edge = edges[_name(node.parent.name)][_name(node.name)]
            edge[0] += node.calls
            edge[1] += totals[node]
    lines = [
        "# callgrind format",
        "version: 1",
        "creator: kvmharness",
        f"cmd: {printable(case)} on {printable(explanation.label)}, {explanation.ops} ops",
        "positions: line",
        "events: Instructions",
        f"summary: {totals[top]}",
    ]
    for name in sorted(own):
        lines += ["", f"fn={name}", f"0 {own[name]}"]
        for callee, (calls, inclusive) in sorted(edges[name].items()):
            lines += [f"cfn={callee}", f"calls={max(calls, 1)} 0", f"0 {inclusive}"]
    return "\n".join(lines) + "\n"
