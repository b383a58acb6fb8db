"""Explanations with figures that are made up."""

from __future__ import annotations

from kvmharness.analysis.call_difference import difference
from kvmharness.model.explanation import SCHEMA, CallNode, Deferred, Explanation, File

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
# Of a worker that frees what the toggle left, and of a tick less than a single op saw.
LATER = """
[deferred] 0 0
[deferred];kthread 0 0
[deferred];kthread;worker_thread 18 0
[deferred];kthread;worker_thread;free_pages 1800 9
[deferred];[interrupts] 0 0
[deferred];[interrupts];asm_sysvec_apic_timer_interrupt -18 -1
"""


def explanation(label: str, folded: str, ops: int = OPS) -> Explanation:
    """Return an explanation of lines `path own calls`, callers first."""
    nodes = call_nodes(folded)
    total = sum(node.own for node in nodes)
    return Explanation(label, "5.10.0", ops, [total], total / ops, nodes, thunks=12)


def call_nodes(folded: str) -> list[CallNode]:
    """Return the nodes of such lines."""
    nodes: list[CallNode] = []
    places: dict[str, int] = {}
    for line in folded.split("\n"):
        if not line:
            continue
        path, own, calls = line.rsplit(" ", 2)
        above, _, name = path.rpartition(";")
        places[path] = len(nodes)
        nodes.append(CallNode(name, places.get(above), int(own), int(calls)))
    return nodes


def file() -> File:
    """Return an explanation of two kernels; the first alone has a function `inlined`."""
    before, after = explanation("5.10-legacy", LEGACY), explanation("5.10-tdp", TDP)
    before.no_deferred = "no thread of the kernel can be seen"
    after.deferred = Deferred(OPS - 1, call_nodes(LATER), measured=201.0, counts=True)
    between = difference(before, after, lambda _: True, lambda name: name != "inlined")
    return File(
        SCHEMA, "0.1.0", "2026-11-25T12:00:00+00:00", "long64/cr0_wp", [before, after], between
    )
