"""Instructions by call path: small traces of which every figure is known."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kvmharness.analysis.attribution import Attribution
from kvmharness.analysis.tracefile import Kind, event
from tests.support import made_up_trace as made
from tests.support.made_up_trace import (
    CALL_RAX,
    IRET,
    JMP_RAX,
    JNZ_BACK,
    LOAD,
    MOV_CR0,
    NOP,
    RET,
    SYSCALL,
    SYSRET,
    VMRUN,
    Made,
    paths,
)

VCPU = "[vCPU thread]"


def test_a_call_and_its_return() -> None:
    m = Made("f", "g")
    back = m.call("f", "g")
    m.run("g", NOP, NOP, RET)
    m.run("f", NOP, offset=back - m.at["f"])
    assert paths(m.fold().top) == {f"{VCPU};f": (2, 0), f"{VCPU};f;g": (3, 1)}


def test_an_indirect_call_is_told_by_where_it_went() -> None:
    m = Made("f", "g")
    back = m.run("f", CALL_RAX)
    m.run("g", RET)
    m.run("f", NOP, offset=back - m.at["f"])
    assert paths(m.fold().top) == {f"{VCPU};f": (2, 0), f"{VCPU};f;g": (1, 1)}


def test_a_tail_call_keeps_the_frame_and_returns_to_the_caller() -> None:
    m = Made("f", "g", "h")
    back = m.call("f", "g")
    m.jump("g", "h")
    m.run("h", NOP, RET)
    m.run("f", NOP, offset=back - m.at["f"])
    assert paths(m.fold().top) == {
        f"{VCPU};f": (2, 0),
        f"{VCPU};f;g": (1, 1),
        f"{VCPU};f;g;h": (2, 1),
    }


def test_a_loop_over_two_symbols_does_not_nest_for_ever() -> None:
    m = Made("f", "g")
    for _ in range(5):
        m.jump("f", "g")
        m.jump("g", "f")
    assert paths(m.fold().top) == {f"{VCPU};f": (5, 0), f"{VCPU};f;g": (5, 5)}


def test_recursion_nests() -> None:
    m = Made("f", "g")
    back = m.call("f", "g")
    again = m.call("g", "g")
    m.run("g", RET)
    m.run("g", RET, offset=again - m.at["g"])
    m.run("f", NOP, offset=back - m.at["f"])
    assert paths(m.fold().top) == {
        f"{VCPU};f": (2, 0),
        f"{VCPU};f;g": (2, 1),
        f"{VCPU};f;g;g": (1, 1),
    }


def test_what_a_compiler_split_off_is_the_function() -> None:
    m = Made("f", "g.part.0", "g", "g.cold")
    back = m.call("f", "g")
    inner = m.call("g", "g.part.0")
    m.run("g.part.0", NOP, RET)
    m.jump("g", "g.cold", offset=inner - m.at["g"])
    m.run("g.cold", RET)
    m.run("f", NOP, offset=back - m.at["f"])
    assert paths(m.fold().top) == {f"{VCPU};f": (2, 0), f"{VCPU};f;g": (5, 1)}


def test_a_retpoline_is_an_indirect_call() -> None:
    """call 1f; 1: mov %rax,(%rsp); ret: what it calls is no function, what it returns to is one."""
    m = Made("f", "__x86_indirect_thunk_rax", "g")
    thunk = m.at["__x86_indirect_thunk_rax"]
    back = m.call("f", "__x86_indirect_thunk_rax")
    m.run("__x86_indirect_thunk_rax", made.relative(b"\xe8", thunk, thunk + 0x10))
    m.run("__x86_indirect_thunk_rax", LOAD, RET, offset=0x10)
    m.run("g", NOP, RET)
    m.run("f", NOP, offset=back - m.at["f"])
    attribution = m.fold()
    # The thunk's three instructions are those of who wanted the call.
    assert paths(attribution.top) == {f"{VCPU};f": (5, 0), f"{VCPU};f;g": (2, 1)}
    assert (attribution.thunks, attribution.unmatched) == (3, 0)


def test_a_retpoline_that_ends_in_a_return_thunk_is_one_too() -> None:
    m = Made("f", "__x86_indirect_thunk_rax", "srso_return_thunk", "srso_safe_ret", "g")
    thunk = m.at["__x86_indirect_thunk_rax"]
    back = m.call("f", "__x86_indirect_thunk_rax")
    m.run("__x86_indirect_thunk_rax", made.relative(b"\xe8", thunk, thunk + 0x10))
    m.jump("__x86_indirect_thunk_rax", "srso_return_thunk", offset=0x10)
    m.call("srso_return_thunk", "srso_safe_ret")
    m.run("srso_safe_ret", LOAD, RET)
    m.run("g", RET)
    m.run("f", NOP, offset=back - m.at["f"])
    attribution = m.fold()
    assert paths(attribution.top) == {f"{VCPU};f": (7, 0), f"{VCPU};f;g": (1, 1)}
    assert (attribution.thunks, attribution.unmatched) == (5, 0)


def test_a_jump_table_through_a_retpoline_stays_in_the_function() -> None:
    m = Made("f", "g", "__x86_indirect_thunk_rax")
    back = m.call("f", "g")
    m.jump("g", "__x86_indirect_thunk_rax")
    m.run("__x86_indirect_thunk_rax", LOAD, RET)
    m.run("g", NOP, RET, offset=0x40)
    m.run("f", NOP, offset=back - m.at["f"])
    assert paths(m.fold().top) == {f"{VCPU};f": (2, 0), f"{VCPU};f;g": (5, 1)}


def test_a_return_thunk_returns() -> None:
    m = Made("f", "g", "__x86_return_thunk")
    back = m.call("f", "g")
    m.jump("g", "__x86_return_thunk")
    m.run("__x86_return_thunk", RET)
    m.run("f", NOP, offset=back - m.at["f"])
    attribution = m.fold()
    assert paths(attribution.top) == {f"{VCPU};f": (2, 0), f"{VCPU};f;g": (2, 1)}
    assert attribution.unmatched == 0


def test_rsb_stuffing_is_forgotten() -> None:
    """Calls that nobody returns from: the return that follows goes past them."""
    m = Made("f", "g")
    back = m.call("f", "g")
    at = m.at["g"]
    for n in range(4):
        here = at + 0x10 * n
        m.run("g", made.relative(b"\xe8", here, here + 0x10), offset=0x10 * n)
    m.run("g", NOP, RET, offset=0x40)
    m.run("f", NOP, offset=back - m.at["f"])
    attribution = m.fold()
    assert paths(attribution.top) == {f"{VCPU};f": (2, 0), f"{VCPU};f;g": (6, 1)}
    assert attribution.unmatched == 0


def test_callers_are_known_once_they_are_returned_to() -> None:
    """A sample begins in the depth of a stack: its frames get callers in the first turn."""
    m = Made("loop", "f", "g")
    for _ in range(2):
        m.run("g", NOP, RET, offset=8)
        m.run("f", NOP, RET, offset=5)
        m.run("loop", NOP, offset=0x26)
        m.run("loop", made.relative(b"\xe8", m.at["loop"] + 0x21, m.at["f"]), offset=0x21)
        m.run("f", made.relative(b"\xe8", m.at["f"], m.at["g"]))
        m.run("g", NOP * 8)
    attribution = m.fold()
    assert set(paths(attribution.top)) == {f"{VCPU};loop", f"{VCPU};loop;f", f"{VCPU};loop;f;g"}
    assert attribution.unmatched == 0


def test_an_interrupt_has_a_root_of_its_own() -> None:
    m = Made("f", "asm_sysvec_apic_timer_interrupt", "tick")
    m.run("f", NOP, NOP)
    back = m.call("asm_sysvec_apic_timer_interrupt", "tick")
    m.run("tick", NOP, RET)
    entry = m.at["asm_sysvec_apic_timer_interrupt"]
    m.run("asm_sysvec_apic_timer_interrupt", IRET, offset=back - entry)
    m.run("f", NOP, offset=2)
    assert paths(m.fold().top) == {
        f"{VCPU};f": (3, 0),
        "[interrupts];asm_sysvec_apic_timer_interrupt": (2, 1),
        "[interrupts];asm_sysvec_apic_timer_interrupt;tick": (2, 1),
    }


def test_an_interrupt_that_comes_right_behind_a_return() -> None:
    """The return is over, and nobody has seen where it led: IRET goes there."""
    m = Made("f", "asm_sysvec_apic_timer_interrupt", "g")
    back = m.call("f", "g")
    m.run("g", NOP, RET)
    m.run("asm_sysvec_apic_timer_interrupt", IRET)
    m.run("f", NOP, offset=back - m.at["f"])
    attribution = m.fold()
    assert paths(attribution.top) == {
        f"{VCPU};f": (2, 0),
        f"{VCPU};f;g": (2, 1),
        "[interrupts];asm_sysvec_apic_timer_interrupt": (1, 1),
    }
    assert attribution.unmatched == 0


def test_an_interrupt_that_comes_right_behind_a_call() -> None:
    m = Made("f", "asm_sysvec_apic_timer_interrupt", "g")
    back = m.call("f", "g")
    m.run("asm_sysvec_apic_timer_interrupt", NOP)
    m.run("asm_sysvec_apic_timer_interrupt", IRET, offset=1)
    m.run("g", NOP, RET)
    m.run("f", NOP, offset=back - m.at["f"])
    attribution = m.fold()
    assert paths(attribution.top) == {
        f"{VCPU};f": (2, 0),
        f"{VCPU};f;g": (2, 1),
        "[interrupts];asm_sysvec_apic_timer_interrupt": (2, 1),
    }
    assert attribution.unmatched == 0


def test_an_interrupt_by_a_stub() -> None:
    m = Made("f", "irq_entries_start", "asm_common_interrupt")
    m.run("f", NOP)
    m.jump("irq_entries_start", "asm_common_interrupt", offset=0x18)
    m.run("asm_common_interrupt", IRET)
    m.run("f", NOP, offset=1)
    assert paths(m.fold().top) == {
        f"{VCPU};f": (2, 0),
        "[interrupts];irq_entries_start": (1, 1),
        "[interrupts];irq_entries_start;asm_common_interrupt": (1, 1),
    }


def test_a_block_that_a_fault_interrupted_is_short_of_one() -> None:
    """Its second instruction was begun twice and carried out once."""
    m = Made("f", "asm_exc_page_fault")
    number = m.block(m.at["f"], NOP, LOAD, NOP)
    m.ran(number, 2)
    m.run("asm_exc_page_fault", NOP, IRET)
    m.run("f", LOAD, NOP, offset=1)
    attribution = m.fold()
    assert paths(attribution.top) == {
        f"{VCPU};f": (3, 0),
        "[interrupts];asm_exc_page_fault": (2, 1),
    }
    assert (attribution.begun, attribution.undone, attribution.total) == (6, 1, 5)


def test_a_block_that_was_split_goes_on() -> None:
    """QEMU ends a block early to do device I/O; the next one begins behind it."""
    m = Made("f")
    number = m.block(m.at["f"], NOP, LOAD, NOP, NOP)
    m.ran(number, 2)
    m.run("f", NOP, NOP, offset=4)
    assert paths(m.fold().top) == {f"{VCPU};f": (4, 0)}


def test_an_exit_interrupts_the_guests_instruction() -> None:
    m = Made("run", "handle")
    guest = m.block(0x1000, NOP, MOV_CR0)
    loop = m.block(0x1004, NOP, JNZ_BACK)
    for _ in range(3):
        m.ran(loop, guest=True)
        m.ran(guest, guest=True)
        m.run("run", NOP, offset=3)
        back = m.call("run", "handle", offset=4)
        m.run("handle", RET)
        m.run("run", NOP, offset=back - m.at["run"])
        m.run("run", VMRUN)
    attribution = m.fold()
    assert paths(attribution.top) == {
        "[guest]": (9, 0),
        f"{VCPU};run": (12, 0),
        f"{VCPU};run;handle": (3, 3),
    }
    assert attribution.undone == 3


def test_an_interrupt_exits_between_the_guests_instructions() -> None:
    m = Made("run", "asm_sysvec_apic_timer_interrupt")
    loop = m.block(0x1000, NOP, JNZ_BACK)
    m.ran(loop, guest=True)
    m.run("run", NOP, NOP, offset=3)
    m.run("asm_sysvec_apic_timer_interrupt", IRET)
    m.run("run", VMRUN, offset=5)
    m.ran(loop, guest=True)
    attribution = m.fold()
    assert paths(attribution.top)["[guest]"] == (4, 0)
    assert attribution.undone == 0


def made_nested(*handling: str, interrupt: bool) -> Made:
    """A load of an inner kernel, an exit, perhaps an interrupt, its handling, the next entry."""
    entry = "asm_sysvec_apic_timer_interrupt"
    m = Made("run", entry, *handling)
    inner = m.block(made.BASE + 0x10_0000, NOP, LOAD)
    m.ran(inner, guest=True)
    back = m.at["run"] + 3
    if interrupt:
        m.run("run", NOP, offset=3)
        m.run(entry, IRET)
        back += 1
    for name in handling:
        back = m.call("run", name, offset=back - m.at["run"])
        m.run(name, RET)
    m.run("run", VMRUN, offset=back - m.at["run"])
    m.ran(inner, guest=True)
    return m


def test_a_kernel_inside_is_told_from_our_guest() -> None:
    m = made_nested("npf_interception", interrupt=False)
    m.ran(m.block(0x1000, NOP, MOV_CR0), guest=True)
    m.ran(m.block(0x402000, NOP, SYSCALL), guest=True)
    found = paths(m.fold().top)
    assert found["[L1]"] == (3, 0)
    assert found["[guest]"] == (4, 0)


def test_an_interrupt_after_a_load_undoes_nothing() -> None:
    """It comes behind an instruction that might have faulted; nobody handles a fault."""
    attribution = made_nested("intr_interception", interrupt=True).fold()
    assert attribution.undone == 0
    assert paths(attribution.top)["[L1]"] == (4, 0)


def test_an_interrupt_beside_a_fault_does_not_hide_it() -> None:
    for handler in ("npf_interception", "kvm_mmu_page_fault", "nested_svm_exit_handled"):
        attribution = made_nested(handler, interrupt=True).fold()
        assert attribution.undone == 1
        assert paths(attribution.top)["[L1]"] == (3, 0)


def made_jumping(goes_on: int) -> Made:
    """A guest that returns from a system call, an exit that is handled, and where it goes on."""
    m = Made("run", "npf_interception")
    m.ran(m.block(0x1000, NOP, SYSRET), guest=True)
    back = m.call("run", "npf_interception", offset=3)
    m.run("npf_interception", RET)
    m.run("run", VMRUN, offset=back - m.at["run"])
    m.ran(m.block(goes_on, NOP, NOP), guest=True)
    return m


def test_a_fetch_that_exits_does_not_undo_the_jump_before_it() -> None:
    attribution = made_jumping(goes_on=0x3000).fold()
    assert attribution.undone == 0
    assert paths(attribution.top)["[guest]"] == (4, 0)


def test_a_jump_that_is_made_again_was_interrupted() -> None:
    assert made_jumping(goes_on=0x1001).fold().undone == 1


def test_an_exit_that_nobody_is_seen_to_handle_was_an_instructions() -> None:
    assert made_nested("handle", interrupt=False).fold().undone == 1


def test_user_space_and_its_system_call() -> None:
    m = Made("entry_SYSCALL_64", "ioctl")
    user = m.block(0x401000, NOP, SYSCALL)
    m.run("entry_SYSCALL_64", SYSRET, offset=0x20)
    for _ in range(2):
        m.ran(user)
        back = m.call("entry_SYSCALL_64", "ioctl")
        m.run("ioctl", NOP, RET)
        m.run("entry_SYSCALL_64", NOP, SYSRET, offset=back - m.at["entry_SYSCALL_64"])
    m.ran(user)
    assert paths(m.fold().top) == {
        f"{VCPU};[user space]": (6, 0),
        f"{VCPU};entry_SYSCALL_64": (7, 2),
        f"{VCPU};entry_SYSCALL_64;ioctl": (4, 2),
    }


def test_another_thread_has_a_root_of_its_own() -> None:
    m = Made("f", "schedule", "__switch_to_asm", "kthread")
    back = m.call("f", "schedule")
    inner = m.call("schedule", "__switch_to_asm")
    switch = m.block(m.at["__switch_to_asm"], NOP, LOAD, RET)
    vcpu, other = 0xFFFF888000000A18, 0xFFFF888000001A18
    for old, new, then in ((vcpu, other, "kthread"), (other, vcpu, "f")):
        m.ran(switch, 2)
        m.switch(old, new)
        m.ran(switch, 1, first=2)
        m.run("schedule", NOP, RET, offset=inner - m.at["schedule"])
        if then == "kthread":
            m.run("kthread", NOP, offset=0x20)
            m.call("kthread", "schedule", offset=0x21)
            m.call("schedule", "__switch_to_asm")
    m.run("f", NOP, offset=back - m.at["f"])
    others = "[other threads];kthread"
    assert paths(m.fold().top) == {
        f"{VCPU};f": (2, 0),
        f"{VCPU};f;schedule": (3, 1),
        f"{VCPU};f;schedule;__switch_to_asm": (3, 1),
        others: (2, 0),
        f"{others};schedule": (3, 1),
        f"{others};schedule;__switch_to_asm": (3, 1),
    }


def test_what_runs_on_into_the_next_function_is_charged_to_each() -> None:
    m = Made("f", "g")
    m.run("f", NOP, NOP, NOP, offset=0xFE)
    assert paths(m.fold().top) == {f"{VCPU};f": (2, 0), f"{VCPU};f;g": (1, 0)}


def test_samples_add_up() -> None:
    m = Made("f", "g")
    back = m.call("f", "g")
    m.run("g", RET)
    m.run("f", JMP_RAX, offset=back - m.at["f"])
    attribution = Attribution(m.blocks, m.symbols)
    assert [attribution.add(m.stretch.words) for _ in range(3)] == [3, 3, 3]
    attribution.settle()
    assert paths(attribution.top) == {f"{VCPU};f": (6, 0), f"{VCPU};f;g": (3, 3)}


NAMES = (
    "f g.part.0 g g.cold __x86_indirect_thunk_rax srso_return_thunk asm_exc_page_fault "
    "asm_sysvec_apic_timer_interrupt irq_entries_start __switch_to_asm entry_SYSCALL_64 h"
).split()
INSNS = [NOP, RET, IRET, LOAD, CALL_RAX, JMP_RAX, MOV_CR0, JNZ_BACK, SYSCALL, SYSRET, VMRUN]
PLACES = [made.BASE + 0x100 * n + at for n in range(len(NAMES)) for at in (0, 0x40)] + [0x401000]


@st.composite
def traces(draw: st.DrawFn) -> Made:
    """Any blocks in any order, begun in part, in L1 and L2, in several threads."""
    m = Made(*NAMES)
    for _ in range(draw(st.integers(1, 8))):
        start = draw(st.sampled_from(PLACES))
        insns = draw(st.lists(st.sampled_from(INSNS), min_size=1, max_size=4))
        if draw(st.booleans()):
            at = start + sum(map(len, insns))
            target = draw(st.sampled_from(PLACES[:-1]))
            jump = draw(st.sampled_from([b"\xe8", b"\xe9"]))
            if start > made.BASE:
                insns.append(made.relative(jump, at, target))
        m.block(start, *insns)
    for _ in range(draw(st.integers(0, 40))):
        number = draw(st.sampled_from(sorted(m.blocks)))
        first = draw(st.integers(0, len(m.blocks[number].sizes) - 1))
        begun = draw(st.integers(1, len(m.blocks[number].sizes) - first))
        m.ran(number, begun, first, guest=draw(st.integers(0, 3)) == 0)
        if draw(st.integers(0, 9)) == 0:
            m.switch(*draw(st.permutations([0xFFFF888000000A18, 0xFFFF888000001A18])))
    return m


@settings(deadline=None, max_examples=300)
@given(traces(), st.integers(1, 2))
def test_whatever_ran_the_functions_add_up_to_it(m: Made, times: int) -> None:
    attribution = Attribution(m.blocks, m.symbols)
    sums = [attribution.add(m.stretch.words) for _ in range(times)]
    attribution.settle()
    begun = sum(w >> 32 & 0xFFF for w in m.words if w >> 56 <= Kind.L2)
    assert sum(node.own for node in attribution.top.walk()) == sum(sums)
    assert sum(sums) == times * begun - attribution.undone
    assert 0 <= attribution.undone <= times * len(m.words)
    assert min(node.own for node in attribution.top.walk()) >= 0


def test_the_property_can_fail() -> None:
    m = Made("f")
    m.run("f", NOP)
    m.words.append(event(Kind.L1, 0, 1))
    assert sum(node.own for node in m.fold().top.walk()) == 2
