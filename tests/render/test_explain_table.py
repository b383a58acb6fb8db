"""What a person reads of an explanation, against a golden file."""

from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console

from kvmharness.analysis.call_difference import difference
from kvmharness.render import explain_table
from tests.support.golden import same_as_golden
from tests.support.made_up_explanation import explanation, file


def shown() -> str:
    out = io.StringIO()
    explain_table.show_explanation(file(), 0.02, 4, Console(file=out, width=180, highlight=False))
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def test_explanation_is_shown_as_it_was() -> None:
    same_as_golden("explain.txt", shown())


# As deep as a toggle goes, with names as long as KVM's.
PATH = """vCPU_thread kvm_arch_vcpu_ioctl_run svm_handle_exit svm_invoke_exit_handler
    cr_interception kvm_emulate_instruction x86_emulate_instruction x86_emulate_insn em_cr_write
    emulator_set_cr kvm_set_cr0 kvm_post_set_cr0 kvm_init_mmu reset_guest_paging_metadata
    update_permission_bitmask""".split()


def deep(own: int) -> str:
    return "\n".join(
        f"{';'.join(PATH[: n + 1])} {own if n == len(PATH) - 1 else 10} 10"
        for n in range(len(PATH))
    )


@pytest.mark.parametrize("width", [60, 80, 180])
def test_it_fits_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    before, after = explanation("5.10-tdp", deep(900)), explanation("6.1-tdp", deep(100_000))
    between = difference(before, after, lambda _: True, lambda _: True)
    explained = msgspec.structs.replace(file(), kernels=[before, after], difference=between)
    out = io.StringIO()
    explain_table.show_explanation(
        explained, 0.0001, 12, Console(file=out, width=180, highlight=False)
    )
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert max(map(len, lines)) <= width
    for name in PATH:
        assert sum(name in line for line in lines) >= 2, name
    # What is left out is named; the change, the cost and the function never go.
    assert any("left out to fit" in line for line in lines) == (width < 180)
    row, _ = [line for line in lines if line.startswith("+9,910.00")]
    assert "update_permission_bitmask" in row
