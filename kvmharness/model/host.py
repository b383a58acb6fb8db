"""Where a run was taken: the types of the result file that describe kernels and machines."""

from __future__ import annotations

from typing import Literal

import msgspec

# What an answer about a kernel's MMU-role code rests on, the most trusted first.
Evidence = Literal["btf", "kallsyms", "version"]


class Finding(msgspec.Struct, frozen=True):
    """An answer, the kind of evidence it rests on, and that evidence in words.

    `value` and `evidence` are null where nothing could tell.
    """

    value: str | bool | None
    evidence: Evidence | None
    detail: str

    def told(self, yes: str, no: str, *, in_full: bool = False) -> str:
        """Return the answer with its kind of evidence; `in_full` adds the evidence itself.

        `yes` and `no` are the words for True and False.
        """
        if self.value is None:
            return f"unknown: {self.detail}"
        words = {True: yes, False: no}
        value = self.value if isinstance(self.value, str) else words[self.value]
        detail = f": {self.detail}" if in_full else ""
        return f"{value} (by {self.evidence}{detail})"


class Roles(msgspec.Struct, frozen=True):
    """What is known of a kernel's MMU-role code."""

    role_layout: Finding
    wp_cure: Finding


class KernelRecord(msgspec.Struct):
    """The kernel that runs the guests.

    `config`: its options, of those that the lab asks for and as far as they are set, and what
    compiled it as CC_VERSION_TEXT; null where its configuration was not found.
    """

    release: str
    build: str
    machine: str
    cmdline: str | None
    config: dict[str, str] | None = None


class Kvm(msgspec.Struct):
    """KVM as this kernel has it: modules, their parameters, and which MMU-role code."""

    api_version: int
    module: str | None
    parameters: dict[str, dict[str, str]]
    role_layout: Finding
    wp_cure: Finding


class Cpu(msgspec.Struct):
    """The host's CPU as the kernel describes it."""

    vendor: str | None
    model_name: str | None
    family: int | None
    model: int | None
    stepping: int | None
    microcode: str | None
    online: int
    smt_active: bool | None
    governor: str | None
    turbo: bool | None
    mitigations: dict[str, str]


class L0(msgspec.Struct):
    """The machine that ran a lab: its kernel, KVM's vendor module if it has one, and its CPU."""

    name: str
    kernel: KernelRecord
    kvm_module: str | None
    cpu: Cpu
    hypervisor: str | None


class Emulator(msgspec.Struct, frozen=True):
    """What ran a lab's machine: its name, its version, and the CPU model that it was given."""

    name: str
    version: str
    cpu: str


class Lab(msgspec.Struct):
    """The machine that a kernel under test was booted in.

    `machine` is its kind (lab.machines), run by `emulator`; `variant` is how the kernel was
    asked to be, e.g. "tdp"; `kernel` what was named to be booted, `modules` name to sha256 of
    KVM's modules as loaded.  What measured inside came in by virtme-ng of a version, or in a
    capsule of a sha256.  Boots of another number differ in their memory's layout.  With
    two levels `below` is the kernel that the measured one was a guest of, with its own lab.
    """

    machine: str
    variant: str
    kernel: str
    emulator: Emulator
    memory_mib: int
    modules: dict[str, str]
    l0: L0
    virtme_ng: str | None = None
    capsule: str | None = None
    boot: int = 1
    below: Host | None = None


class Host(msgspec.Struct):
    """Where a run was taken: whoever compares two runs starts here."""

    name: str
    kernel: KernelRecord
    kvm: Kvm
    cpu: Cpu
    clocksource: str | None
    tsc_khz: int | None
    memory_bytes: int | None
    nested: bool
    # The signature of CPUID leaf 0x40000000, null on bare metal.
    hypervisor: str | None
    # Why the kernel or the CPU does not let the TSC stand for time, null where they do.
    tsc_unstable: str | None = None
    # The kernel's own id of this boot, which tells runs of one boot from those of several.
    boot_id: str | None = None
    # Null where no lab was booted: the kernel that was running measured itself.
    lab: Lab | None = None
