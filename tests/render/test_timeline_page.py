"""The page of a timeline: charts, steps, and a table that says the same without script."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest

from kvmharness.analysis.load import RunFile
from kvmharness.analysis.timeline import timeline
from kvmharness.errors import UsageError
from kvmharness.model.note import Note
from kvmharness.render.report import chart, timeline_page
from tests.support import made_up_explanation
from tests.support.made_up_timeline import UNCURED, toggles
from tests.support.samples import class_of


def history() -> list[RunFile]:
    """Return the runs of five kernels: on AMD with the cure in 6.1.30, on Intel without an exit."""
    files = []
    for release, cost, recording in (
        ("5.10.1", 157_964, UNCURED),
        ("5.10.200", 157_000, UNCURED),
        ("6.1.1", 157_000, UNCURED),
        ("6.1.30", 4_854, "debian-6.1.192-tdp"),
        ("7.0.1", 4_815, "debian-6.1.192-tdp"),
    ):
        files.append(toggles(release, cost, recording, f"{release}-amd"))
        intel = toggles(release, 4.06, "debian-6.1.192-tdp", f"{release}-intel")
        lab = intel.run.host.lab
        assert lab
        lab.machine, lab.variant, intel.run.host.kvm.module = "bochs-vmx", "shadow", "kvm_intel"
        intel.run.cases[1].class_ = class_of("no-exit/kept")
        files.append(intel)
    return files


def page(files: list[RunFile] | None = None) -> str:
    return timeline_page.render(timeline(files or history()))


def test_every_point_leads_to_its_row_and_every_mark_to_its_step() -> None:
    text = page()
    ids = re.findall(r' id="([ps]\d+-\d+)"', text)
    links = re.findall(r'href="#([ps]\d+-\d+)"', text)
    assert len(ids) == len(set(ids))
    assert set(links) == set(ids)
    assert len([i for i in ids if i[0] == "p"]) == 5 * 2 * 2  # kernels, ways, cases


def test_a_step_that_was_explained_names_the_functions() -> None:
    found = timeline(history())
    one, other = found.steps[:2]
    text = timeline_page.render(found, explained={one.name: made_up_explanation.file()})
    (said,) = re.findall(r"<small>(by function: .*?)</small>", text)
    assert said == (
        "by function: +120 zap &lt; unload &lt; handle_exit &lt; run, +1 run, -1 unload, "
        "+0.5 asm_sysvec_apic_timer_interrupt"
    )
    assert one.name != other.name


def test_the_table_says_what_the_chart_says() -> None:
    text = page()
    rows = re.findall(r'<tr id="p.*?</tr>', text)
    assert len(rows) == 20
    (row,) = [row for row in rows if "6.1.30-amd" in row and "4,8" in row]
    for said in ("6.1.30", "tdp", "AMD", "exit/kept", "faster than 6.1.1", "kvm_exit 1.00"):
        assert said in row


def test_steps_come_with_their_sentence_between_their_kernels() -> None:
    text = page()
    (found,) = re.findall(
        r"<h3>6\.1\.1 → 6\.1\.30, on 6\.1\.y: tdp, AMD</h3>\s*<ul>\s*(.*?)</ul>", text, re.S
    )
    assert "x faster because the root is kept (exit/rebuilt → exit/kept)" in found
    assert "exits 5.00 → 1.00" in found


def test_the_policy_lets_this_script_run_and_nothing_be_fetched() -> None:
    text = page()
    (policy,) = re.findall(r'Content-Security-Policy" content="(.*?)"', text)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    )
    assert not re.search(r'(src|href)="(?!#)', text)
    assert " on" + "click" not in text


def test_what_has_no_run_is_named_with_its_reason() -> None:
    note = Note("skipped", "kvm has no parameter tdp_mmu", "5.4", "legacy", "tcg-svm", "0")
    text = timeline_page.render(timeline(history()), [note], {"foreign": "not a run"})
    assert "no run: 5.4 legacy on tcg-svm (skipped): kvm has no parameter tdp_mmu" in text
    assert "left out: foreign: not a run" in text


def test_names_are_no_markup() -> None:
    evil = toggles("6.1.1", 100, name="<script>alert(1)</script>\x1b")
    text = page([evil])
    assert "<script>alert" not in text
    assert "\x1b" not in text


def test_a_folder_without_figures_makes_no_page() -> None:
    with pytest.raises(UsageError, match="no run of a lab"):
        timeline_page.render(timeline([]))


@pytest.mark.parametrize(
    ("values", "by_log"),
    [([2.06, 2.06], False), ([10, 90], False), ([4, 4_000], True), ([0, 1e6], False)],
)
def test_the_axis_is_logarithmic_where_it_must_be(values: list[float], by_log: bool) -> None:
    found = chart.scale(values)
    assert found.by_log is by_log
    assert 2 <= len(found.ticks) <= 12
    assert all(chart.TOP <= found.y(v) <= chart.TOP + chart.HEIGHT for v in values)
    assert found.y(max(values)) <= found.y(min(values))


def test_classes_differ_in_shape_not_in_colour_alone() -> None:
    classes = ["exit/kept", "no-exit/kept", "exit/reloaded", "exit/rebuilt", "unclear/unclear"]
    seen = {chart.symbol(class_of(printed))[::2] for printed in classes}
    assert len(seen) == len(classes)


def test_deferred_work_stands_on_the_cost() -> None:
    file = toggles("6.1.1", 1000)
    case = file.run.cases[1]
    case.deferred_samples, case.deferred_vms = [500.0] * 10, [i // 2 for i in range(10)]
    text = page([file, toggles("6.1.2", 1000)])
    assert text.count('class="deferred"') == 1
    assert "and 500 deferred" in text


def test_many_kernels_make_a_wider_chart_and_no_larger_page_than_they_need() -> None:
    text = page([toggles(f"6.1.{n}", 1000 + n) for n in range(100)])
    (width,) = {float(w) for w in re.findall(r'width="([\d.]+)" role="group"', text)}
    assert width > 100 * chart.LEAST_PITCH
    assert len(text) < 400_000
