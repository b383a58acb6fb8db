"""Describe the compiled core to cffi; run by setup.py, never imported by the package.

Constants and layouts come from <linux/kvm.h> by the compiler.  What the header of this
machine offers (exit reasons, capabilities) is asked from its preprocessor, so that an
older or newer header builds as well.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
GUESTS = HERE.parents[1] / "guests"

STRUCTS = """
struct kvm_regs { uint64_t rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, rip, rflags; ...; };
struct kvm_segment {
    uint64_t base; uint32_t limit; uint16_t selector;
    uint8_t type, present, dpl, db, s, l, g, avl, unusable; ...;
};
struct kvm_dtable { uint64_t base; uint16_t limit; ...; };
struct kvm_sregs {
    struct kvm_segment cs, ds, es, fs, gs, ss, tr, ldt;
    struct kvm_dtable gdt, idt;
    uint64_t cr0, cr2, cr3, cr4, cr8, efer, apic_base; ...;
};
struct kvm_mp_state { uint32_t mp_state; };
struct kvm_irq_level { uint32_t irq, level; };
struct kvm_pit_config { uint32_t flags; ...; };
struct kvm_userspace_memory_region {
    uint32_t slot, flags; uint64_t guest_phys_addr, memory_size, userspace_addr;
};
struct kvm_cpuid_entry2 { uint32_t function, index, flags, eax, ebx, ecx, edx; ...; };
struct kvm_cpuid2 { uint32_t nent; struct kvm_cpuid_entry2 entries[]; ...; };
struct kvm_stats_header {
    uint32_t flags, name_size, num_desc, id_offset, desc_offset, data_offset;
};
struct kvm_stats_desc {
    uint32_t flags; int16_t exponent; uint16_t size; uint32_t offset, bucket_size; ...;
};
"""

# The payloads of struct kvm_run's union that are read.  They have no names of their own in
# the header, so each gets one by __typeof__ (cffi takes a partial struct only by name).
PAYLOADS = {
    "hw": "uint64_t hardware_exit_reason;",
    "fail_entry": "uint64_t hardware_entry_failure_reason;",
    "ex": "uint32_t exception, error_code;",
    "io": "uint8_t direction, size; uint16_t port; uint32_t count; uint64_t data_offset;",
    "mmio": "uint64_t phys_addr; uint8_t data[8]; uint32_t len; uint8_t is_write;",
    "hypercall": "uint64_t nr, args[6], ret;",
    "internal": "uint32_t suberror, ndata; uint64_t data[16];",
    "system_event": "uint32_t type;",
    "eoi": "uint8_t vector;",
    "msr": "uint32_t reason, index; uint64_t data;",
}

FUNCTIONS = """
int kvmh_run(int vcpu, struct kvm_run *run, uint64_t timeout_ns, uint32_t *preempted);
int kvmh_ioctl(int fd, unsigned long request, uintptr_t argument);
void kvmh_cpuid(uint32_t leaf, uint32_t registers[4]);
void kvmh_trace_next(uint32_t label);
int kvmh_ports(unsigned long first, unsigned long count);
void kvmh_out8(uint16_t port, uint8_t value);
void kvmh_out16(uint16_t port, uint16_t value);
void kvmh_in8(uint16_t port, uint8_t *buffer, unsigned long count);
int kvmh_event_open(uint32_t type, uint64_t config, int guest_only, int host_only, int thread);
void kvmh_sleep_until(uint64_t ns);
void kvmh_before_tick(uint64_t lead, uint64_t most);
int kvmh_event_log(uint64_t config, int cpu);
int kvmh_event_filter(int fd, const char *filter);
int kvmh_event_switch(int fd, int on);
void kvmh_trace_settled(void);
uint64_t kvmh_pace(void);
"""

# The header's macros for the requests that raw.py builds on its own: held against each
# other by tests/kvm/test_raw.py.
REQUESTS = """
    KVM_GET_API_VERSION KVM_CREATE_VM KVM_CHECK_EXTENSION KVM_GET_VCPU_MMAP_SIZE
    KVM_GET_SUPPORTED_CPUID KVM_CREATE_VCPU KVM_SET_USER_MEMORY_REGION KVM_SET_TSS_ADDR
    KVM_SET_IDENTITY_MAP_ADDR KVM_CREATE_IRQCHIP KVM_IRQ_LINE KVM_CREATE_PIT2 KVM_RUN
    KVM_GET_REGS KVM_SET_REGS KVM_GET_SREGS KVM_SET_SREGS KVM_SET_CPUID2 KVM_GET_MP_STATE
    KVM_SET_MP_STATE KVM_GET_TSC_KHZ KVM_GET_STATS_FD
""".split()

CONSTANTS = """
    KVMIO KVM_API_VERSION KVM_EXIT_IO_IN KVM_EXIT_IO_OUT KVM_MP_STATE_HALTED KVM_MP_STATE_RUNNABLE
    KVM_STATS_TYPE_MASK KVM_STATS_TYPE_CUMULATIVE KVM_PIT_SPEAKER_DUMMY WATCHDOG_SIGNAL_OFFSET
    PERF_TYPE_HARDWARE PERF_TYPE_TRACEPOINT PERF_COUNT_HW_CPU_CYCLES PERF_COUNT_HW_INSTRUCTIONS
""".split()


def macros(header: str, *flags: str) -> dict[str, str]:
    """List the object-like macros that including `header` defines, name to body."""
    command = [os.environ.get("CC", "cc"), "-E", "-dM", *flags, "-"]
    source = f"#include <{header}>\n".encode()
    output = subprocess.run(command, input=source, stdout=subprocess.PIPE, check=True).stdout
    return dict(re.findall(r"^#define (\w+)[ \t]+(\S.*)$", output.decode(), re.MULTILINE))


def numbered(names: dict[str, str], prefix: str) -> list[str]:
    """Keep the macros of a family whose bodies are plain numbers."""
    return [
        n
        for n, body in names.items()
        if re.fullmatch(prefix + r"[A-Z0-9_]+", n)
        and re.fullmatch(r"\(?(0x[0-9a-fA-F]+|\d+)\)?", body)
    ]


def definitions() -> str:
    """Assemble the cdef: structs, functions, and a constant for each macro wanted."""
    kvm = macros("linux/kvm.h")
    shared = macros("shared.h", f"-I{GUESTS}")
    ours = [n for n in shared if re.match(r"(GUEST|SHARED|PORT|DOORBELL|PROOF|VECTOR)_", n)]
    names = {*REQUESTS, *CONSTANTS, *ours, *numbered(kvm, "KVM_EXIT_"), *numbered(kvm, "KVM_CAP_")}
    run = "struct kvm_run { uint8_t immediate_exit; uint32_t exit_reason; "
    run += "".join(f"kvmh_{field} {field}; " for field in PAYLOADS) + "...; };\n"
    payloads = "".join(
        f"typedef struct {{ {body} ...; }} kvmh_{field};\n" for field, body in PAYLOADS.items()
    )
    constants = "".join(f"#define {n} ...\n" for n in sorted(names))
    return STRUCTS + payloads + run + FUNCTIONS + constants


def payload_names() -> str:
    """Name each payload in C as definitions() names it for cffi."""
    return "".join(
        f"typedef __typeof__(((struct kvm_run *)0)->{field}) kvmh_{field};\n" for field in PAYLOADS
    )


ffibuilder = FFI()
ffibuilder.cdef(definitions())
ffibuilder.set_source(
    "kvmharness.kvm._core",
    (HERE / "core.c").read_text() + payload_names(),
    include_dirs=[str(GUESTS)],
    depends=[str(HERE / "core.c"), str(GUESTS / "shared.h")],
    extra_compile_args=["-O2", "-Wall"],
)
