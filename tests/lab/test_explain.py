"""Explaining real kernels: exact, the same figures as without a trace, the same calls as ftrace."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path

import pytest

from kvmharness.analysis.explain import costs
from kvmharness.commands import explaining
from kvmharness.errors import Unavailable
from kvmharness.kernel import modules, resolve, variants
from kvmharness.kernel.build import AS_USUAL
from kvmharness.lab import capsule, engine, matrix, trace
from kvmharness.lab.boot import Boot
from kvmharness.lab.machines import TCG_SVM
from kvmharness.lab.planning import LabPlan, Target
from kvmharness.measure.settings import for_lab
from kvmharness.model.cases import Case
from kvmharness.model.explanation import Explanation, File
from kvmharness.model.run import Run
from tests.support.kernels import CURED, UNCURED, need_lab, newest

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]
CASE = Case("long64", "cr0_wp")


@pytest.fixture(scope="module")
def cured() -> File:
    """Explain the kernel with the cure by more samples than there are VMs: two of each."""
    need_lab(CURED)
    return explaining.explain(explaining.wanted([newest(CURED)], AS_USUAL, ["tdp"], []), CASE, 7)


@pytest.fixture(scope="module")
def plain() -> Run:
    """Measure the same without a trace."""
    need_lab(CURED)
    target = Target(resolve.resolve(newest(CURED)), variants.parse("tdp"), TCG_SVM)
    plan = LabPlan([CASE], {"insn": for_lab("insn")}, None, None, None, count=False)
    (result,) = matrix.measure([target], plan, 1, lambda _target, _line: None)
    assert result.run is not None, result.lost
    return result.run


def explained(file: File) -> Explanation:
    (kernel,) = file.kernels
    return kernel


def test_every_instruction_is_accounted_for(cured: File) -> None:
    kernel = explained(cured)
    assert len(kernel.samples) == 7
    # Beside it what others did, of which this kernel has nothing to speak of.
    assert kernel.deferred is not None
    assert (kernel.deferred.ops, kernel.deferred.counts) == (7 * 99, False)
    assert abs(kernel.deferred.figure) < 0.2 * kernel.figure
    assert sum(node.own for node in kernel.nodes) == sum(kernel.samples)
    assert {node.name for node in kernel.nodes if node.parent is None} >= {
        "[guest]",
        "[vCPU thread]",
    }
    rows = {row.symbol: row for row in costs(kernel).rows}
    assert rows["cr_interception"].calls == 1.0
    # A loop of four instructions, and its share of the six around a sample.
    assert rows["[guest]"].net == pytest.approx(3.06)


def test_the_trace_changes_no_figure(cured: File, plain: Run) -> None:
    (case,) = plain.cases
    assert case.per_op is not None
    # From boot to boot, traced or not, an op may take an instruction more: where an object lies.
    assert explained(cured).median == pytest.approx(case.per_op.median, abs=2)


# What the doorbells call is in both counts, and in no op.
INSIDE = """
import json
from kvmharness.kvm.fds import System
from kvmharness.lab.wire import Sender
from kvmharness.measure import profile
from kvmharness.model.cases import Case
found = {}
with System() as system:
    for ops, sign in ((100, 1), (20, -1)):
        profile.TRACED_OPS = ops
        counts, _ = profile.calls(system, Case("long64", "cr0_wp"), profile.settings(0.01, None))
        for (function, _), count in counts.items():
            found[function] = found.get(function, 0) + sign * count / 80
with open("/dev/ttyS1", "r+b", buffering=0) as port:
    Sender(port).send("calls", json.dumps(found).encode())
    Sender(port).send("outcome.json", b'{"state":"done"}')
"""


def calls_by_ftrace(folder: Path) -> dict[str, float]:
    """Count calls per op by the kernel's own function tracer, in the same kernel."""
    kernel = resolve.resolve(newest(CURED))
    variant = variants.parse("tdp")
    loaded, _ = modules.prepare(kernel, variant.parameters(TCG_SVM.vendor), None)
    insert = [
        f"insmod /{capsule.JOB_AT}/{module.file} "
        + " ".join(f"{name}={value}" for name, value in module.parameters.items())
        for module, _ in loaded
    ]
    command = "\n".join([*insert, f"python3 -c {shlex.quote(INSIDE)}"])
    files = {module.file: path.read_bytes() for module, path in loaded}
    capsule.job(folder / "job.cpio", files, command)
    base = capsule.base((capsule.INSIDE, *capsule.LAZY, "kvmharness.measure.profile"))
    options = variant.command_line(TCG_SVM.vendor)
    boot = Boot(kernel, TCG_SVM, [base.path, folder / "job.cpio"], options, folder, 300.0)
    left = engine.Runner().run(boot, lambda _line: None)
    assert not left.lost, left.lost
    found: dict[str, float] = json.loads(left.files["calls"])
    return found


def test_ftrace_counts_the_same_calls(cured: File, tmp_path: Path) -> None:
    ours = {row.symbol: row.calls or 0.0 for row in costs(explained(cured)).rows}
    theirs = calls_by_ftrace(tmp_path)
    # What ftrace may trace, in every op.
    both = [name for name in ours.keys() & theirs.keys() if ours[name] >= 1]
    assert len(both) > 60
    for name in both:
        # A tick that fell into one of the counts calls some of them once or twice.
        assert theirs[name] == pytest.approx(ours[name], abs=0.1), name


def test_two_variants_differ_where_the_roots_are_rebuilt(tmp_path: Path) -> None:
    need_lab(UNCURED)
    chosen = explaining.wanted([newest(UNCURED)], AS_USUAL, ["legacy", "tdp"], [])
    found = explaining.explain(chosen, CASE, 1)
    assert found.difference is not None
    assert "are those of __handle_changed_spte, called by zap_gfn_range" in (
        found.difference.sentence
    )
    legacy, tdp = found.kernels
    changes = sum(row.change for row in found.difference.changes)
    assert changes == pytest.approx(tdp.figure - legacy.figure)
    names = {path.name for path in explaining.write(found, tmp_path)}
    assert {"explain.json", "difference.svg", "difference.folded"} < names
    assert len(names) == 9


def test_an_accelerated_machine_cannot_be_followed() -> None:
    with pytest.raises(Unavailable, match="instructions cannot be followed in kvm"):
        trace.tracing(dataclasses.replace(TCG_SVM, name="kvm", clock="tsc"), 1)
