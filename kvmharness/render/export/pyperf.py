"""The JSON of pyperf 1.0 and later: a VM is one of its runs, a case one of its benchmarks."""

from __future__ import annotations

import json
from typing import Any

from kvmharness.analysis import stats
from kvmharness.errors import UsageError
from kvmharness.model.clocks import Clock
from kvmharness.model.run import CaseResult, Run
from kvmharness.text import printable

VERSION = "1.0"
# pyperf knows seconds, bytes and integers.
UNITS: dict[Clock, tuple[str, float]] = {
    "tsc": ("second", 1e-9),
    "ticks": ("integer", 1.0),
    "insn": ("integer", 1.0),
}


def export(run: Run, name: str) -> bytes:
    """Return the cases that have samples; raise UsageError where none has: pyperf reads none."""
    found = [_benchmark(run.clock, result) for result in run.cases]
    benchmarks = [benchmark for benchmark in found if benchmark["runs"]]
    if not benchmarks:
        raise UsageError(f"export {name}: no case has samples for pyperf; use --format ktap")
    host = run.host
    described = {
        "kvmharness_run": name,
        "kvmharness_version": run.tool.version,
        "kvmharness_clock": run.clock,
        "hostname": host.name,
        "cpu_model_name": host.cpu.model_name,
        "kernel": host.kernel.release,
        "kvm_module": host.kvm.module,
        "lab_variant": host.lab.variant if host.lab else None,
        "started": run.started,
    }
    document = {"version": VERSION, "metadata": _filled(described), "benchmarks": benchmarks}
    return json.dumps(document, indent=1).encode() + b"\n"


def _filled(metadata: dict[str, str | None]) -> dict[str, str]:
    """Leave out what is empty: pyperf refuses it, and lines within a value."""
    return {key: printable(v).strip() for key, v in metadata.items() if v and v.strip()}


def _benchmark(clock: Clock, result: CaseResult) -> dict[str, Any]:
    unit, scale = UNITS[clock]
    case_class = str(result.class_) if result.class_ else None
    metadata: dict[str, Any] = {
        "name": printable(result.name).strip() or "unnamed",
        "unit": unit,
        **_filled({"kvmharness_class": case_class, "kvmharness_noisy": result.noisy}),
    }
    if result.deferred:
        metadata["kvmharness_deferred"] = result.deferred.median * scale
    if result.iterations is not None and result.iterations > 0:
        metadata["loops"] = result.iterations
    vms = stats.by_vm(result.samples, result.vms) if result.samples else []
    # pyperf refuses a value that is not above 0.
    runs = [[v for sample in vm if (v := float(sample) * scale) > 0] for vm in vms]
    return {"metadata": metadata, "runs": [{"values": values} for values in runs if values]}
