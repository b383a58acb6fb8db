"""Read result files of older schemas: what each of them said otherwise (docs/results.md).

Values come from files of any content: what is not as expected stays as it is, for the types to
refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kvmharness.model.counters import KPROBE_PREFIX

Document = dict[str, Any]
_FUNCTION = "function."


def _tables(node: Any, key: str) -> list[Document]:
    """Return the objects in a list under a key."""
    found = node.get(key) if isinstance(node, dict) else None
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _kprobes(table: Document, key: str) -> None:
    """Name the kernel's functions that were counted as perf does."""
    counted = table.get(key)
    if isinstance(counted, dict):
        table[key] = {_kprobe(name): value for name, value in counted.items()}


def _kprobe(name: str) -> str:
    return KPROBE_PREFIX + name.removeprefix(_FUNCTION) if name.startswith(_FUNCTION) else name


def _emulator(lab: Document) -> None:
    """Put what was said of QEMU under what any emulator has."""
    if "emulator" not in lab and "qemu" in lab:
        version = lab.pop("qemu")
        if isinstance(version, str):
            version = version.removeprefix("QEMU emulator version ")
        lab["emulator"] = {"name": "QEMU", "version": version, "cpu": lab.pop("qemu_cpu", None)}


def _from_1(run: Document) -> None:
    for case in _tables(run, "cases"):
        if "mode" not in case and "guest" in case:
            case["mode"] = case.pop("guest")
        named = case.get("class")
        if isinstance(named, str):
            how, _, root = named.partition("/")
            case["class"] = {"how": how, "root": root}
        if isinstance(case.get("proof"), int):
            case["proof"] = {"direct": case["proof"]}
        for key in ("counters", "class_evidence", "absent"):
            _kprobes(case, key)
    host = run.get("host")
    if isinstance(host, dict) and isinstance(host.get("lab"), dict):
        _emulator(host["lab"])


# Schema to what makes the next one of it, in place.
STEPS: Mapping[str, tuple[str, Callable[[Document], None]]] = {
    "kvmharness.run/1": ("kvmharness.run/2", _from_1),
}


def upgrade(run: Document) -> None:
    """Make a document of the newest schema of one of an older, in place."""
    while (step := STEPS.get(run["schema"])) is not None:
        newer, change = step
        change(run)
        run["schema"] = newer
