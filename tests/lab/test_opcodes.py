"""What QEMU's plugin tells of opcodes: how it decodes them, its file, the counters of a run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec
import pytest

from kvmharness.lab import opcodes
from kvmharness.lab.opcodes import COUNTERS, FILE
from kvmharness.model import tracing
from kvmharness.model.counters import OPCODE_PREFIX
from tests.support.samples import made_up_case, made_up_run

SOURCE = Path(opcodes.__file__).with_suffix(".c")
GUESTS = SOURCE.parents[2] / "guests"
NONE = "none"
# Assembled by gas; the counter that each is taken for.
INSTRUCTIONS = {
    "wbinvd": "wbinvd",
    "invd": "wbinvd",
    "clflush (%rax)": "clflush",
    "clflushopt (%r12)": "clflush",
    "sfence": NONE,
    "invlpg (%rdi)": "invlpg",
    "invlpg (%r9)": "invlpg",
    "swapgs": NONE,
    "lgdt (%rax)": NONE,
    "invpcid (%rsp), %rax": "invpcid",
    "invlpga %rax, %ecx": "invlpga",
    "mov %rax, %cr3": "cr3",
    "mov %r11, %cr3": "cr3",
    "mov %cr3, %rax": NONE,
    "mov %rax, %cr0": "cr",
    "mov %rax, %cr4": "cr",
    "mov %rax, %cr8": NONE,
    "wrmsr": "wrmsr",
    "rdmsr": NONE,
    "verw (%rip)": "verw",
    "ltr %ax": NONE,
    "cpuid": "cpuid",
    "out %al, $0x80": "io",
    "in %dx, %eax": "io",
    "rep outsb": "io",
    "call .": NONE,
    "vmrun": "vmrun",
    "vmload": NONE,
    "movb $1, 0x5c(%rax)": "tlb_control",
    "movb $3, 0x5c(%r12)": "tlb_control",
    "movb $7, 0x5c(%r8)": "tlb_control",
    "movb $0, 0x5c(%rax)": NONE,
    "movb $1, 0x58(%rax)": NONE,
    "movl $1, 0x5c(%rax)": NONE,
    "nop": NONE,
}
DRIVER = f"""
#include "{SOURCE}"
int main(int argc, char **argv)
{{
	uint8_t code[LONGEST_INSN];

	for (int i = 1; i < argc; i++) {{
		size_t size = strlen(argv[i]) / 2;

		for (size_t at = 0; at < size; at++)
			sscanf(argv[i] + 2 * at, "%2hhx", &code[at]);
		printf("%d\\n", sets_tlb_control(code, size) ? TLB_CONTROL : opcode_of(code, size));
	}}
	return 0;
}}
"""


def assembled(instruction: str, folder: Path) -> str:
    obj, flat = folder / "one.o", folder / "one.bin"
    code = f"{instruction}\n".encode()
    subprocess.run(["as", "--64", "-o", obj, "-"], input=code, check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", obj, flat], check=True)
    return flat.read_bytes().hex()


def test_opcodes_are_decoded_as_an_assembler_spells_them(tmp_path: Path) -> None:
    source, program = tmp_path / "driver.c", tmp_path / "driver"
    source.write_text(DRIVER)
    # Nobody offers the plugin API here, and the decoder calls none of it.
    link = ["-static", "-Wl,--unresolved-symbols=ignore-all"]
    subprocess.run(["cc", f"-I{GUESTS}", "-o", program, source, *link], check=True)
    spelled = [assembled(instruction, tmp_path) for instruction in INSTRUCTIONS]
    done = subprocess.run([program, *spelled], capture_output=True, text=True, check=True)
    names = [*(c.name.removeprefix(OPCODE_PREFIX) for c in COUNTERS), NONE]
    found = [names[int(line)] for line in done.stdout.split()]
    assert dict(zip(INSTRUCTIONS, found, strict=True)) == INSTRUCTIONS


def line(label: int, samples: int, *first: int) -> str:
    counts = [*first, *[0] * (len(COUNTERS) - len(first))]
    return " ".join(map(str, (label, samples, *counts))) + "\n"


def test_the_warm_up_and_what_is_torn_do_not_count() -> None:
    text = line(3, 1, 9) + line(3, 6, 7) + line(4, 5, 1) + line(5, 6, 1).rstrip("\n")
    assert opcodes.parse(text, 6) == {3: [7, *[0] * (len(COUNTERS) - 1)]}


def test_the_samples_between_several_stops_of_the_guest_are_put_together() -> None:
    warm_up = line(3, 1, 100) * 3
    text = warm_up + line(3, 1, 7) + line(4, 2, 50) + line(3, 1, 8) + line(3, 1, 9)
    assert opcodes.parse(text, 3) == {3: [24, *[0] * (len(COUNTERS) - 1)]}
    # Two stops of two samples are no three samples.
    assert opcodes.parse(line(3, 2, 7) * 2, 3) == {}


@pytest.mark.parametrize(("vms", "expected"), [(5, 0.5), (4, None)])
def test_a_run_has_the_counts_per_op_or_the_reason(
    tmp_path: Path, vms: int, expected: float | None
) -> None:
    run = made_up_run()
    run.cases = [made_up_case("long64/empty", 2.0), made_up_case("long64/cr0_wp", 5000.0)]
    run.settings = msgspec.structs.replace(run.settings, samples_per_vm=6)
    written = [line(tracing.label(1, vm), 6, 3000) for vm in range(vms)]
    (tmp_path / FILE).write_text("".join(written))
    opcodes.add(run, tmp_path)
    empty, toggle = run.cases
    assert toggle.counters["opcode.wbinvd"] == expected
    assert ("opcode.wbinvd" in toggle.absent) == (expected is None)
    assert empty.counters["opcode.wbinvd"] is None


def test_no_file_is_a_reason(tmp_path: Path) -> None:
    run = made_up_run()
    run.cases = [made_up_case("long64/cr0_wp", 5000.0)]
    opcodes.add(run, tmp_path)
    assert "counted no opcodes" in run.cases[0].absent["opcode.vmrun"]
