"""Runs of made-up kernels in a lab, with the counters of real ones, for tests of timelines."""

from __future__ import annotations

from collections.abc import Mapping

from kvmharness.analysis import summary
from kvmharness.analysis.load import RunFile
from tests.support.recorded import recorded_run

CURED, UNCURED = "debian-6.1.192-tdp", "debian-5.10.218-tdp"


def measured(
    release: str, costs: Mapping[str, float], recording: str = CURED, name: str = ""
) -> RunFile:
    """Return the run of a kernel called `release` that behaves as a recorded one does."""
    run = recorded_run(recording, costs)
    run.host.kernel.release = release
    run.host.kernel.build = f"#1 {release}"
    summary.summarise(run)
    return RunFile(name or release, run)


def toggles(release: str, cost: float, recording: str = CURED, name: str = "") -> RunFile:
    """Return the same with the toggle of CR0.WP at a cost and the loop at 2."""
    costs = {"long64/empty": 2.06, "long64/cr0_wp": cost}
    return measured(release, costs, recording, name)
