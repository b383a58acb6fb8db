"""The report: what it says, that it needs nothing else, and that names stay text."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from kvmharness.analysis import load, stats, summary
from kvmharness.analysis.load import RunFile
from kvmharness.errors import UsageError
from kvmharness.model import explanation, runfile
from kvmharness.model.explanation import File
from kvmharness.model.run import Run
from kvmharness.render.report import hosts, page
from tests.analysis.test_summary import swept
from tests.support.made_up_explanation import file as explained
from tests.support.samples import made_up_case, made_up_ends, made_up_lab_run, made_up_run

Call = Callable[..., "subprocess.CompletedProcess[str]"]
VOID = {"meta", "br", "path", "use", "rect", "input"}


class Page(HTMLParser):
    """What a page holds: elements with their attributes, each one's text, and the nesting."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self._open[-1], data.strip()))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.elements if found == tag]


def render(*runs: Run, names: Sequence[str] = (), explanations: Sequence[File] = ()) -> str:
    for run in runs:
        summary.summarise(run)
    named = names or [f"run{n}" for n in range(len(runs))]
    files = [RunFile(*pair) for pair in zip(named, runs, strict=True)]
    return page.render(files, explanations)


def sweeping(per_page: float) -> Run:
    run = made_up_run()
    run.cases = [*swept("empty", 1), *swept("cr0_wp", per_page)]
    return run


def test_page_needs_nothing_else() -> None:
    text = render(sweeping(50), sweeping(5))
    found = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "image"} & {
        tag for tag, _ in found.elements
    }
    for _, attributes in found.elements:
        for key in ("href", "src", "xlink:href"):
            assert (attributes.get(key) or "#").startswith("#")
        assert not any(key.startswith("on") for key in attributes)
    assert not re.search(r"url\((?!#)|@import|http://|https://", text)


def test_every_id_is_one_and_every_reference_leads_somewhere() -> None:
    text = render(sweeping(50), sweeping(5), made_up_run())
    found = Page(text)
    ids = [a["id"] for _, a in found.elements if "id" in a]
    assert len(set(ids)) == len(ids)
    wanted = [(a["href"] or "").removeprefix("#") for _, a in found.elements if a.get("href")]
    wanted += [a["aria-labelledby"] or "" for _, a in found.elements if a.get("aria-labelledby")]
    wanted += re.findall(r"url\(#([^)]*)\)", text)
    assert set(wanted) <= set(ids)


def test_every_figure_has_a_title_and_every_table_a_caption() -> None:
    found = Page(render(sweeping(50), sweeping(5)))
    drawings = found.all("svg")
    # A comparison, a sweep of each of two ops, eight cases.
    assert len(drawings) == 1 + 2 + 8
    assert all(a["role"] == "img" for a in drawings)
    titles = [text for tag, text in found.texts if tag == "title"]
    assert "Ratio of B run1 to A run0, a row a case, with 95 % intervals" in titles
    assert "Cost of long64/cr0_wp over pages" in titles
    assert len(found.all("caption")) == len(found.all("table"))
    assert all(a.get("scope") in ("row", "col") for a in found.all("th"))


def test_names_stay_text() -> None:
    run = made_up_run()
    run.host.name = "<script>alert(1)</script>"
    run.cases[1].name = 'long64/<b>"$x$</b>'
    run.cases[0].noisy = "</td>"
    run.host.kernel.cmdline = "a\x1b\x00b"
    found = Page(render(run, made_up_run(), names=["</svg><script>", "$a_{$"]))
    assert not {"script", "b"} & {tag for tag, _ in found.elements}
    texts = [text for _, text in found.texts]
    assert "<script>alert(1)</script>" in texts
    assert "a\\x1b\\x00b" in texts
    in_drawings = [text for tag, text in found.texts if tag == "text"]
    assert 'long64/<b>"$x$</b>' not in in_drawings  # B has no such case
    assert "A </svg><script>" in in_drawings
    assert "B $a_{$" in in_drawings


def test_every_way_to_end_is_said() -> None:
    text = " ".join(text for _, text in Page(render(made_up_ends())).texts)
    assert "3 measured, 1 incorrect, 1 failed, 1 skipped" in text
    for said in (
        "cut short",
        "KVM is <incorrect> & wrong",
        "guest: triple fault\\x1b[31m;\\nrip 0x1000",
        "no SMEP here",
    ):
        assert said in text


def test_the_ratios_come_first_and_what_was_not_measured_last() -> None:
    text = render(made_up_ends(), made_up_ends())
    sections = re.findall(r'<section id="(\w+)"', text)
    assert sections == ["B", "runs", "cases", "remarks", "hosts"]
    assert text.index("<svg ") > text.index('<section id="B"')
    cases = text[text.index('<section id="cases"') :]
    drawn = [("<svg " in part) for part in cases.split("<h3 ")[1:]]
    assert drawn == sorted(drawn, reverse=True)
    assert set(drawn) == {True, False}


def test_noise_is_said() -> None:
    run = made_up_run()
    case = run.cases[1]
    case.samples = [s * (1 + vm) for s, vm in zip(case.samples, case.vms, strict=True)]
    assert "medians of single VMs spread over 400%" in render(run)


def test_instructions_are_called_so_wherever_figures_are() -> None:
    def lab(per_page: float) -> Run:
        run = made_up_lab_run()
        run.cases = sweeping(per_page).cases
        for case in run.cases:
            case.unit, case.tsc_khz = "insn", None
        return run

    text = render(lab(50), lab(5))
    note = "instructions of an emulated machine, not nanoseconds"
    figures = re.findall(r"<figure>.*?</figure>", text, re.DOTALL)
    assert len(figures) == 11
    assert all(note in figure for figure in figures)
    drawings = re.findall(r"<svg .*?</svg>", text, re.DOTALL)
    assert all("instructions" in drawing for drawing in drawings)
    captions = re.findall(r"<caption>.*?</caption>", text, re.DOTALL)
    without = [c for c in captions if note not in c]
    # Runs, hosts and what was counted are no figures of the clock.
    assert len(without) == 2 + 8
    assert "ns/op" not in text


def test_same_runs_same_page() -> None:
    assert render(sweeping(50), sweeping(5)) == render(sweeping(50), sweeping(5))


def test_runs_of_different_clocks_are_refused() -> None:
    with pytest.raises(UsageError, match=r"different clocks \(insn, tsc\) cannot be compared"):
        render(made_up_run(), made_up_lab_run())


def test_more_runs_than_letters_are_refused() -> None:
    with pytest.raises(UsageError, match="27 runs; name 26 or fewer"):
        render(*[made_up_run()] * 27)


def test_change_of_class_and_cases_of_one_run_are_said() -> None:
    base, new = made_up_run(), made_up_run()
    new.cases[1].counters["kvm.pf_fixed"] = 4.0
    new.cases.append(made_up_case("real16/cr0_wp", 7.0))
    text = render(base, new)
    assert "root kept-or-reloaded → rebuilt; page faults 0.00 → 4.00" in text
    assert "real16/cr0_wp: only in B." in text


def test_case_of_no_cost_has_no_ratio() -> None:
    free, dear = made_up_run(), made_up_run()
    for case in free.cases:
        case.samples = [0.0] * len(case.samples)
    assert "No case can be compared." in render(free, dear)


def test_a_run_that_costs_double_is_judged_as_compare_does() -> None:
    base, new = made_up_run(), made_up_run()
    new.cases[1].samples = [2 * sample for sample in base.cases[1].samples]
    text = render(base, new)
    assert "B is 2x slower at long64/cr0_wp; the counters do not say why" in text
    assert "<strong>slower</strong>" in text


def test_twelve_runs_of_thirty_cases_fit_into_two_megabytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stats, "RESAMPLES", 40)
    rng = np.random.default_rng(1)
    runs = []
    for _ in range(12):
        run = made_up_run()
        run.cases = [made_up_case(f"long64/op{n}", 1000.0, 10, 10) for n in range(30)]
        for case in run.cases:
            case.samples = [float(s) for s in rng.normal(1000, 50, 100)]
        runs.append(run)
    assert len(render(*runs)) < 2e6


def test_hosts_differ_where_they_do() -> None:
    base, new = made_up_run(), made_up_lab_run()
    new.host.cpu.mitigations = {"spectre_v2": "Mitigation: Retpolines"}
    rows = {row.key: row for row in hosts.rows([base, new])}
    assert not rows["host.cpu.model_name"].differs
    assert rows["host.cpu.mitigations.spectre_v2"].texts == ["-", "Mitigation: Retpolines"]
    assert rows["host.lab.variant"].texts == ["-", "tdp"]
    assert rows["host.kvm.parameters.kvm.tdp_mmu"].texts == ["Y", "Y"]
    assert [row.differs for row in rows.values()] == sorted(
        (row.differs for row in rows.values()), reverse=True
    )


def test_folders_and_files_are_read_once_each(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        runfile.write(tmp_path / f"{name}.json", made_up_run())
    found = load.summarised([tmp_path / "c.json", tmp_path])
    assert [file.name for file in found] == ["c", "a", "b"]
    assert found[0].run.cases[0].per_op is not None
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"no \*.json in this folder"):
        load.summarised([tmp_path / "empty"])


def test_command_writes_the_page_or_nothing(
    kvmharness: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    runfile.write(tmp_path / "a.json", made_up_run())
    runfile.write(tmp_path / "b.json", made_up_lab_run())
    out = tmp_path / "report.html"
    refused = kvmharness("report", str(tmp_path), "-o", str(out))
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert not out.exists()
    done = kvmharness("report", str(tmp_path / "a.json"), "-o", str(out))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert out.read_text().startswith("<!DOCTYPE html>")


def test_explanations_are_shown_with_their_graphs() -> None:
    text = render(sweeping(50), explanations=[explained()])
    found = Page(text)
    assert [a for a in found.all("figure") if a.get("class") == "flame"] == [{"class": "flame"}] * 3
    assert "are those of zap, called by unload" in text
    assert "script" not in {tag for tag, _ in found.elements}


def test_report_takes_explanations_beside_runs(tmp_path: Path, kvmharness: Call) -> None:
    run, out = made_up_run(), tmp_path / "report.html"
    summary.summarise(run)
    runfile.write(tmp_path / "run.json", run)
    explanation.write(tmp_path / "explain.json", explained())
    done = kvmharness("report", str(tmp_path), "-o", str(out))
    assert done.returncode == 0, done.stderr
    assert 'id="explained"' in out.read_text()
    alone = kvmharness("report", str(tmp_path / "explain.json"), "-o", str(out))
    assert (alone.returncode, alone.stderr.count("\n")) == (2, 1)
