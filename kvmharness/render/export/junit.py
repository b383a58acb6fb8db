"""JUnit XML as CI farms read it: a run is a test suite, and a case a test case.

No `time` is given: a farm would take a measurement's length for the figure measured.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET

from kvmharness.model.run import Run
from kvmharness.render.export.outcome import figures, outcome
from kvmharness.text import printable

# How a case ended, as JUnit's element.
ELEMENTS = {"incorrect": "failure", "failed": "error", "skipped": "skipped"}


def export(run: Run, name: str) -> bytes:
    """Return the run as one test suite; ASCII, the rest as character references."""
    ends = [outcome(result) for result in run.cases]
    kinds = [end.kind for end in ends]
    root = ET.Element("testsuites")
    suite = ET.SubElement(
        root,
        "testsuite",
        name=f"kvmharness {name}",
        hostname=printable(run.host.name),
        timestamp=printable(run.started),
        tests=str(len(ends)),
        failures=str(kinds.count("incorrect")),
        errors=str(kinds.count("failed")),
        skipped=str(kinds.count("skipped")),
    )
    properties = ET.SubElement(suite, "properties")
    for key, value in _described(run).items():
        ET.SubElement(properties, "property", name=key, value=printable(value))
    for result, end in zip(run.cases, ends, strict=True):
        case = ET.SubElement(
            suite,
            "testcase",
            name=printable(result.name),
            classname=f"kvmharness.{printable(result.mode)}",
        )
        if end.kind != "passed":
            ET.SubElement(case, ELEMENTS[end.kind], message=end.reason, type=end.kind)
        lines = figures(run, result)
        if lines:
            ET.SubElement(case, "system-out").text = "\n".join(lines)
    ET.indent(root)
    return b'<?xml version="1.0" encoding="us-ascii"?>\n' + ET.tostring(root) + b"\n"


def _described(run: Run) -> dict[str, str]:
    host = run.host
    described = {
        "kernel": host.kernel.release,
        "kvm_module": host.kvm.module or "none",
        "cpu": host.cpu.model_name or "unknown",
        "clock": run.clock,
        "kvmharness": run.tool.version,
    }
    if host.lab:
        described |= {"lab": host.lab.machine, "variant": host.lab.variant}
    return described
