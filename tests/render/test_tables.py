"""The table against its golden file."""

from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console

from kvmharness.analysis.summary import summarise
from kvmharness.render import tables
from kvmharness.text import figure
from tests.support.golden import same_as_golden
from tests.support.samples import made_up_lab_run, made_up_nested_run, made_up_run


def rendered(run: object) -> str:
    out = io.StringIO()
    tables.show_run(run, Console(file=out, width=tables.WIDTH, highlight=False))  # type: ignore[arg-type]
    return "".join(line.rstrip() + "\n" for line in out.getvalue().splitlines())


def test_table_is_the_golden_one() -> None:
    run = made_up_run()
    run.cases[0].absent["kvm.*"] = "no such file"
    summarise(run)
    same_as_golden("show.txt", rendered(run))


def test_a_lab_says_what_its_figures_are() -> None:
    run = made_up_lab_run()
    summarise(run)
    same_as_golden("lab.txt", rendered(run))


def test_what_is_wrong_with_the_clock_is_in_head_and_warnings() -> None:
    run = made_up_run()
    run.host.tsc_unstable = "the kernel tells time by hpet, not by the TSC"
    run.host.cpu.governor = "powersave"
    run.settings = msgspec.structs.replace(run.settings, cpu=3)
    text = rendered(run)
    assert "TSC: not to be trusted: the kernel tells time by hpet" in text
    assert "warning: the kernel tells time by hpet, not by the TSC: figures of" in text
    assert "warning: the governor of CPU 3 is powersave: figures follow the frequency" in text
    run = made_up_lab_run()  # it counts instructions, whatever the TSC does
    run.host.tsc_unstable = "the kernel tells time by hpet, not by the TSC"
    assert "hpet" not in rendered(run)


def test_two_levels_are_told_apart() -> None:
    run = made_up_nested_run()
    summarise(run)
    text = rendered(run)
    assert "two levels: this is L1; L0 is Linux 5.10.0, variant tdp, in QEMU 7.2.22\n" in text
    assert "L0 per op of long64/cr0_wp: exits 8.02, MMU pages made 0.00\n" in text
    assert "L0's exits of long64/cr0_wp: msr 1.50\n" in text
    assert "of long64/empty" not in text


def test_every_way_to_end_is_said() -> None:
    run = made_up_run()
    run.finished = None
    run.cases[0].failed = "guest: triple fault; rip 0x1000"
    run.cases[1].noisy = "interval ±9% where ±5% was asked"
    text = rendered(run)
    assert "failed: long64/empty: guest: triple fault; rip 0x1000" in text
    assert "noisy: long64/cr0_wp: interval ±9%" in text
    assert "cut short: " in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.12345, "0.1235"), (12.3456, "12.35"), (1234.5, "1,234"), (158062.4, "158,062")],
)
def test_figures_have_four_digits(value: float, text: str) -> None:
    assert figure(value) == text
