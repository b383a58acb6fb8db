"""Explanations with figures that are made up."""

from __future__ import annotations

from kvmharness.analysis.call_difference import difference
from kvmharness.model.explanation import SCHEMA, CallNode, Explanation, File

OPS = 10
LEGACY = """
[guest] 30 0
[vCPU thread] 0 0
[vCPU thread];run 100 0
[vCPU thread];run;handle_exit 200 10
[vCPU thread];run;handle_exit;unload 50 10
[vCPU thread];run;handle_exit;inlined 70 10
"""
TDP = """
[guest] 30 0
[vCPU thread] 0 0
[vCPU thread];run 110 0
[vCPU thread];run;handle_exit 270 10
[vCPU thread];run;handle_exit;unload 40 10
[vCPU thread];run;handle_exit;unload;zap 900 10
[vCPU thread];run;handle_exit;unload;zap;zap 300 20
[interrupts] 0 0
[interrupts];asm_sysvec_apic_timer_interrupt 5 1
"""


def explanation(label: str, folded: str, ops: int = OPS) -> Explanation:
    """Return an explanation of lines `path own calls`, callers first."""
    nodes: list[CallNode] = []
    places: dict[str, int] = {}
    for line in folded.split("\n"):
        if not line:
            continue
        path, own, calls = line.rsplit(" ", 2)
        above, _, name = path.rpartition(";")
        places[path] = len(nodes)
        nodes.append(CallNode(name, places.get(above), int(own), int(calls)))
    total = sum(node.own for node in nodes)
    return Explanation(label, "5.10.0", ops, [total], total / ops, nodes, thunks=12)


def file() -> File:
    """Return an explanation of two kernels; the first alone has a function `inlined`."""
    before, after = explanation("5.10-legacy", LEGACY), explanation("5.10-tdp", TDP)
    between = difference(before, after, lambda _: True, lambda name: name != "inlined")
    return File(
        SCHEMA, "0.1.0", "2026-11-25T12:00:00+00:00", "long64/cr0_wp", [before, after], between
    )
