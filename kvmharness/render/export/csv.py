"""CSV, long-form: one row per sample, every column that a figure may depend on."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from kvmharness.analysis import totals
from kvmharness.model.cases import PARAMS
from kvmharness.model.run import CaseResult, Run
from kvmharness.text import printable

HOST = ("run", "started", "host", "kernel", "module", "nested", "lab", "variant")
PER_CASE = ("case", "guest", "op", *(p.name for p in PARAMS), "class", "noisy", "iterations")
PER_SAMPLE = ("sample", "vm", "vcpu", "per_op", "deferred", "unit", "clock")


def export(run: Run, name: str) -> bytes:
    """Return a header and one row per sample, every parameter explicit.

    `per_op` is in `unit`, and so is `deferred`: the middle of what the sample's VM left for later.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HOST + PER_CASE + PER_SAMPLE)
    host, lab = run.host, run.host.lab
    where = [
        name,
        run.started,
        host.name,
        host.kernel.release,
        host.kvm.module or "",
        int(host.nested),
        lab.machine if lab else "",
        lab.variant if lab else "",
    ]
    for result in run.cases:
        for row in _rows(run, result):
            writer.writerow(printable(v) if isinstance(v, str) else v for v in (*where, *row))
    return out.getvalue().encode()


def _rows(run: Run, result: CaseResult) -> Iterator[tuple[object, ...]]:
    case = result.case
    params = [case[param.name] for param in PARAMS]
    fixed = (
        result.name,
        result.mode,
        result.op,
        *params,
        str(result.class_ or ""),
        int(result.noisy is not None),
        result.iterations,
    )
    # A case of one vCPU numbers none.
    vcpus = result.vcpus or [0] * len(result.samples)
    late = totals.of_vms(result)
    for number, (vm, vcpu, value) in enumerate(
        zip(result.vms, vcpus, result.samples, strict=False)
    ):
        yield (*fixed, number, vm, vcpu, value, late.get(vm, ""), result.unit, run.clock)
