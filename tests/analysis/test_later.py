"""What others did after a sample, of traces made by hand."""

from __future__ import annotations

from kvmharness.analysis import later
from kvmharness.analysis.calltree import DEFERRED
from tests.support.made_up_trace import IDLE, IRET, NOP, OURS, RET, WORKER, Made, paths

TICK = "asm_sysvec_apic_timer_interrupt"


def window(works: int, ticks: int = 1, faults: int = 1) -> Made:
    """Make a window in which we wait, a worker works so often, and the idle thread runs."""
    m = Made("ioctl", "schedule", "worker_thread", "work", "do_idle", TICK, "asm_exc_page_fault")
    for _ in range(faults):
        m.run("ioctl", NOP)
        m.run("asm_exc_page_fault", NOP, NOP, IRET)
    m.run("ioctl", NOP, NOP, NOP)
    m.switch(OURS, WORKER)
    m.run("schedule", NOP, RET)
    for _ in range(works):
        back = m.call("worker_thread", "work", offset=0x10)
        m.run("work", NOP, NOP, RET)
        m.run("worker_thread", NOP, offset=back - m.at["worker_thread"])
    m.switch(WORKER, IDLE)
    m.run("schedule", NOP, RET)
    m.run("do_idle", NOP, NOP, NOP, NOP)
    for _ in range(ticks):
        m.run(TICK, NOP, IRET)
        m.run("do_idle", NOP, offset=4)
    m.switch(IDLE, OURS)
    m.run("ioctl", NOP, offset=3)
    return m


def test_other_threads_and_interrupts_are_work_and_idling_is_none() -> None:
    m = window(2)
    found = later.work(m.blocks, m.symbols, [m.stretch.words])
    assert found.name == DEFERRED
    assert paths(found) == {
        f"[interrupts];{TICK}": (2, 1),
        "worker_thread": (4, 0),
        "worker_thread;schedule": (2, 0),
        "worker_thread;work": (6, 2),
    }


def test_what_follows_a_single_op_is_taken_off() -> None:
    many, single = window(10, ticks=1), window(1, ticks=3)
    trees = [later.work(m.blocks, m.symbols, [m.stretch.words]) for m in (many, single)]
    nodes = later.net(*trees)
    assert [(n.name, n.parent, n.own, n.calls) for n in nodes] == [
        (DEFERRED, None, 0, 0),
        ("[interrupts]", 0, 0, 0),
        (TICK, 1, -4, -2),
        ("worker_thread", 0, 18, 0),
        ("work", 3, 27, 9),
    ]


def test_windows_that_are_alike_leave_nothing() -> None:
    m = window(3)
    trees = [later.work(m.blocks, m.symbols, [m.stretch.words] * 2) for _ in range(2)]
    assert later.net(*trees) == []
