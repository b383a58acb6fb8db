"""From a trace to an explanation: exact, or refused with by how much."""

from __future__ import annotations

import numpy as np
import pytest

from kvmharness.analysis import summary, tracefile
from kvmharness.analysis.follow import follow
from kvmharness.analysis.tracefile import Stretch, Trace
from kvmharness.errors import Unaccounted, Unavailable
from kvmharness.model import tracing
from kvmharness.model.run import DEFERRED, Run
from tests.support.made_up_trace import NOP, OURS, RET, WORKER, Made
from tests.support.samples import made_up_lab_run


def made() -> Made:
    m = Made("f", "g")
    back = m.call("f", "g")
    m.run("g", *[NOP] * 15, RET)
    m.run("f", NOP, NOP, NOP, offset=back - m.at["f"])
    return m


def run(per_op: float) -> Run:
    """Return a run of one case: 10 ops a sample, 2 samples in each of 2 VMs."""
    found = made_up_lab_run()
    del found.cases[1:]
    case = found.cases[0]
    case.unit, case.tsc_khz, case.iterations = "insn", None, 10
    case.samples, case.vms, case.vcpus = [9.0, per_op, per_op, per_op], [0, 0, 1, 1], []
    found.settings = type(found.settings)(2, 2, 1.0, 10, 0, 0.05, 10.0)
    summary.summarise(found)
    return found


def traced(m: Made, *labels: int) -> Trace:
    words = np.array(m.words, dtype="<u8")
    return Trace(m.blocks, [Stretch(label, words) for label in labels])


def test_a_sample_is_followed() -> None:
    m = made()
    vm1 = tracing.label(0, 1)
    found, _ = follow("6.1", run(2.0), 0, traced(m, vm1, vm1), m.symbols, 1)
    assert (found.ops, found.samples, found.figure) == (10, [20], 2.0)
    assert sum(node.own for node in found.nodes) == 20


def test_two_samples_are_followed_where_asked() -> None:
    m = made()
    vm1 = tracing.label(0, 1)
    found, _ = follow("6.1", run(2.0), 0, traced(m, vm1, vm1), m.symbols, 5)
    assert (found.ops, found.samples) == (20, [20, 20])


def test_samples_of_a_single_op_are_none_of_the_cases() -> None:
    m = made()
    vm1 = tracing.label(0, 1)
    labels = [vm1, vm1 | tracing.SINGLE, vm1, vm1 | tracing.SINGLE]
    found, _ = follow("6.1", run(2.0), 0, traced(m, *labels), m.symbols, 5)
    assert (found.ops, found.samples) == (20, [20, 20])
    with pytest.raises(Unaccounted, match="no sample of it"):
        follow("6.1", run(2.0), 0, traced(m, vm1 | tracing.SINGLE), m.symbols, 1)


def test_deferred_work_is_net_of_what_follows_a_single_op() -> None:
    m = made()
    words = [np.array(m.words, dtype="<u8")]
    for times in (10, 1):
        m.words.clear()
        m.switch(OURS, WORKER)
        for _ in range(times):
            m.run("g", NOP, NOP, RET)
        words.append(np.array(m.words, dtype="<u8"))
    sample, many, single = words
    vm1 = tracing.label(0, 1)
    stretches = [Stretch(vm1, sample, many), Stretch(vm1 | tracing.SINGLE, sample, single)]
    found, _ = follow("6.1", run(2.0), 0, Trace(m.blocks, stretches), m.symbols, 1)
    assert found.deferred is not None
    assert (found.deferred.ops, found.deferred.figure) == (9, 3.0)


def test_deferred_work_that_nobody_waited_for_is_not_known() -> None:
    m, measured = made(), run(2.0)
    words = np.array(m.words, dtype="<u8")
    vm1 = tracing.label(0, 1)
    stretches = [Stretch(vm1, words, words), Stretch(vm1 | tracing.SINGLE, words)]
    found, _ = follow("6.1", measured, 0, Trace(m.blocks, stretches), m.symbols, 1)
    assert (found.deferred, found.no_deferred) == (None, "nobody waited for it after the samples")
    measured.cases[0].absent[DEFERRED] = "no thread of the kernel can be seen"
    found, _ = follow("6.1", measured, 0, Trace(m.blocks, stretches), m.symbols, 1)
    assert found.no_deferred == "no thread of the kernel can be seen"


def test_a_sum_that_is_off_is_refused_with_by_how_much() -> None:
    m = made()
    with pytest.raises(Unaccounted, match=r"21 instructions, .* 20 \(-1\); nothing is explained"):
        follow("6.1", run(2.1), 0, traced(m, tracing.label(0, 1)), m.symbols, 1)


def test_a_case_of_several_vcpus_is_refused() -> None:
    m, measured = made(), run(2.0)
    measured.cases[0].vcpus = [0, 1, 0, 1]
    with pytest.raises(Unavailable, match="several vCPUs"):
        follow("6.1", measured, 0, traced(m), m.symbols, 1)


def test_a_trace_of_nothing_is_refused() -> None:
    m = made()
    with pytest.raises(Unaccounted, match="trace again"):
        follow("6.1", run(2.0), 0, tracefile.Trace({}, []), m.symbols, 1)
