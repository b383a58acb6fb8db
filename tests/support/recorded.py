"""Runs with the counters that real kernels gave, and with costs that are made up."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from kvmharness.model.run import Run
from tests.support.samples import class_of, made_up_case, made_up_lab_run

RECORDINGS = Path(__file__).parents[1] / "recordings"


def recorded_run(recording: str, costs: Mapping[str, float]) -> Run:
    """Return a lab's run of the recorded kernel, with these cases at these costs."""
    recorded = json.loads((RECORDINGS / f"{recording}.json").read_text())
    counted = {case["name"]: case for case in recorded["cases"]}
    run = made_up_lab_run()
    run.host.kernel.release = recorded["release"]
    run.host.kvm.parameters = recorded["parameters"]
    assert run.host.lab is not None
    run.host.lab.variant = recording.rpartition("-")[2]
    run.tool.guests = {"long64": "00", "real16": "11"}
    run.cases = []
    for name, cost in costs.items():
        case = made_up_case(name, cost)
        case.unit, case.tsc_khz = "insn", None
        case.counters = counted[name]["counters"]
        case.class_ = class_of(counted[name]["class"])
        run.cases.append(case)
    return run
