"""Which symbol stands for a function, and probes that come and go."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from kvmharness.counters import functions
from kvmharness.counters.functions import Probes, symbols
from kvmharness.counters.tracefs import owner
from kvmharness.model.counters import KPROBE_PREFIX

KALLSYMS = b"""ffffffff81000000 T kvm_mmu_load\t[kvm]
ffffffff81000010 t kvm_init_mmu.cold\t[kvm]
ffffffff81000020 t kvm_mmu_unload.isra.0\t[kvm]
ffffffff81000030 T kvm_mmu_unload_more\t[kvm]
ffffffff81000040 t kvm_mmu_free_roots.part.0
ffffffff81000050 T kvm_mmu_free_roots
ffffffff81000060 d kvm_mmu_reset_context
"""


def test_a_function_has_its_own_name_or_a_compilers_copy() -> None:
    assert symbols(KALLSYMS) == {
        "kvm_mmu_load": "kvm_mmu_load",
        "kvm_mmu_unload": "kvm_mmu_unload.isra.0",
        "kvm_mmu_free_roots": "kvm_mmu_free_roots",
    }


def test_probes_are_set_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A tracefs of plain files: this machine's kernel may lack kprobes.  Like a kernel, it
    # refuses what is no symbol.
    write = Probes._write

    def refusing(probes: Probes, line: str) -> None:
        if line.startswith("p:") and line.split()[1] not in symbols(KALLSYMS).values():
            raise OSError(errno.ENOENT, "No such file or directory")
        write(probes, line)

    monkeypatch.setattr(Probes, "_write", refusing)
    control = tmp_path / "kprobe_events"
    gone = f"{owner().partition('_')[0]}_{2**22 + 1}"  # above every process id
    control.write_text(f"p:others/probe function\np:kvmharness_{gone}/kvm_mmu_load kvm_mmu_load\n")
    kallsyms = tmp_path / "kallsyms"
    kallsyms.write_bytes(KALLSYMS)
    functions.KALLSYMS, before = kallsyms, functions.KALLSYMS
    try:
        with Probes(tmp_path) as probes:
            # kvm_mmu_unload last: only its compiler's copy has a symbol.
            assert [event.spec for event in probes.events] == [
                f"kvmharness_{owner()}:{name}"
                for name in ("kvm_mmu_load", "kvm_mmu_free_roots", "kvm_mmu_unload")
            ]
            assert probes.absent["probe:kvm_init_mmu"] == "this kernel has no such symbol"
    finally:
        functions.KALLSYMS = before
    lines = control.read_text().splitlines()
    assert lines[0] == "p:others/probe function"
    assert len([x for x in lines if x.startswith(f"p:kvmharness_{owner()}/")]) == 3
    # Ours, and the one that a killed process left.
    assert len([x for x in lines if x.startswith("-:kvmharness_")]) == 4
    assert f"-:kvmharness_{gone}/kvm_mmu_load" in lines


def test_without_kprobes_ftrace_is_asked_with_a_filter(tmp_path: Path) -> None:
    with Probes(tmp_path) as probes:
        for event in probes.events:
            assert event.spec == "ftrace:function"
            assert event.filter is not None
            function = event.name.removeprefix(KPROBE_PREFIX)
            assert event.filter.startswith(f"ip == {function}")
        assert len(probes.events) + len(probes.absent) == len(functions.FUNCTIONS)
