"""Every export format, read back by a parser that is not ours where there is one."""

from __future__ import annotations

import csv
import io
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmharness.analysis.summary import summarise
from kvmharness.errors import UsageError
from kvmharness.model import runfile
from kvmharness.model.run import Run
from kvmharness.render.export import csv as long_form
from kvmharness.render.export import junit, ktap, pyperf
from tests.support.golden import same_as_golden
from tests.support.samples import made_up_ends, made_up_lab_run, made_up_run

RESULT_LINE = re.compile(
    r"(?P<result>ok|not ok) (?P<number>\d+)(?: (?P<description>[^#]*[^# ]))?"
    r"(?: # (?:(?P<directive>SKIP|TODO|XFAIL|TIMEOUT|ERROR)(?: |$))?(?P<data>.*))?"
)


def ended() -> Run:
    """The run of every way to end, without VMs' spread in its figures."""
    run = made_up_ends()
    summarise(run)
    run.cases[5].noisy = "interval ±9% where ±5% was asked"
    return run


def read_ktap(text: str) -> dict[str, tuple[str, str | None, str]]:
    """Read KTAP strictly: return description to result, directive and diagnostic data."""
    version, plan, *lines = text.splitlines()
    assert version == "KTAP version 1"
    assert re.fullmatch(r"1\.\.\d+", plan)
    found: dict[str, tuple[str, str | None, str]] = {}
    for line in lines:
        if line.startswith("# "):
            continue
        match = RESULT_LINE.fullmatch(line)
        assert match, line
        assert int(match["number"]) == len(found) + 1
        if match["directive"] in ("ERROR", "TIMEOUT"):
            assert match["result"] == "not ok"
        found[match["description"] or ""] = (match["result"], match["directive"], match["data"])
    assert plan == f"1..{len(found)}"
    return found


@pytest.mark.parametrize(
    ("export", "golden"),
    [(long_form.export, "export.csv"), (junit.export, "export.xml"), (ktap.export, "export.ktap")],
)
def test_text_is_the_golden_one(export: Callable[[Run, str], bytes], golden: str) -> None:
    run = ended()
    for case in run.cases:  # the table of samples need not be long
        case.samples, case.vms = case.samples[::10], case.vms[::10]
    same_as_golden(golden, export(run, "here").decode())


def test_csv_has_a_row_a_sample() -> None:
    run = ended()
    rows = list(csv.DictReader(io.StringIO(long_form.export(run, 'a "quoted", name').decode())))
    assert len(rows) == sum(len(case.samples) for case in run.cases)
    row = rows[31]
    assert (row["run"], row["case"], row["sample"]) == ('a "quoted", name', "long64/cr0_wp", "1")
    assert float(row["per_op"]) == run.cases[1].samples[1]
    assert (row["unit"], row["clock"], row["irqchip"], row["vcpus"]) == ("ns", "tsc", "1", "1")


def test_csv_tells_vcpus_apart() -> None:
    run = made_up_run()
    case = run.cases[1]
    case.params, case.vcpus = {"vcpus": 2}, [i % 2 for i in range(len(case.samples))]
    rows = list(csv.DictReader(io.StringIO(long_form.export(run, "here").decode())))
    assert [row["vcpu"] for row in rows[30:34]] == ["0", "1", "0", "1"]
    assert {row["vcpus"] for row in rows[30:]} == {"2"}


def test_csv_names_the_labs_variant() -> None:
    rows = csv.DictReader(io.StringIO(long_form.export(made_up_lab_run(), "here").decode()))
    assert {(r["lab"], r["variant"], r["unit"]) for r in rows} == {("tcg-svm", "tdp", "insn")}


def test_junit_says_how_each_case_ended() -> None:
    suite = ET.fromstring(junit.export(ended(), "here")).find("testsuite")
    assert suite is not None
    counts = {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "7", "failures": "1", "errors": "1", "skipped": "2"}
    ends = {
        case.get("name"): [(e.tag, e.get("message")) for e in case if e.tag != "system-out"]
        for case in suite.iter("testcase")
    }
    assert ends == {
        "long64/empty": [],
        "long64/cr0_wp": [],
        "real16/cr0_wp": [("failure", "KVM is <incorrect> & wrong")],
        "real16/pio": [("error", "guest: triple fault\\x1b[31m;\\nrip 0x1000")],
        "long64/cr4_smep": [("skipped", "no SMEP here")],
        "long64/wx": [],
        "long64/cpuid#1": [("skipped", "not measured: the run was cut short")],
    }


def test_ktap_says_how_each_case_ended() -> None:
    assert read_ktap(ktap.export(ended(), "here").decode()) == {
        "long64/empty": ("ok", None, None),
        "long64/cr0_wp": ("ok", None, None),
        "real16/cr0_wp": ("not ok", None, "KVM is <incorrect> & wrong"),
        "real16/pio": ("not ok", "ERROR", "guest: triple fault\\x1b[31m;\\nrip 0x1000"),
        "long64/cr4_smep": ("ok", "SKIP", "no SMEP here"),
        "long64/wx": ("ok", None, None),
        "long64/cpuid\\x231": ("ok", "SKIP", "not measured: the run was cut short"),
    }


@pytest.mark.parametrize("export", [junit.export, ktap.export])
def test_instructions_are_called_so(export: Callable[[Run, str], bytes]) -> None:
    run = made_up_lab_run()
    summarise(run)
    assert b"(instructions of an emulated machine, not nanoseconds)" in export(run, "here")


def test_pyperf_refuses_a_run_without_samples() -> None:
    run = made_up_run()
    for case in run.cases:
        case.samples, case.vms = [], []
    with pytest.raises(UsageError, match="no case has samples for pyperf; use --format ktap"):
        pyperf.export(run, "here")


def by_pyperf(*arguments: str) -> str:
    command = [sys.executable, "-m", "pyperf", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_pyperf_reads_and_compares(tmp_path: Path) -> None:
    base, new = tmp_path / "base.json", tmp_path / "new.json"
    run = ended()
    base.write_bytes(pyperf.export(run, "base"))
    run.cases[1].samples = [2 * sample for sample in run.cases[1].samples]
    new.write_bytes(pyperf.export(run, "new"))
    shown = by_pyperf("show", "--quiet", str(base))
    assert "long64/cr0_wp: Mean +- std dev: 1.00 us" in shown
    assert "Number of run with values: 5" in by_pyperf("stats", str(base))
    assert "2.00x slower" in by_pyperf("compare_to", str(base), str(new))


def test_pyperf_takes_instructions_for_integers(tmp_path: Path) -> None:
    path = tmp_path / "lab.json"
    path.write_bytes(pyperf.export(made_up_lab_run(), "lab"))
    shown = by_pyperf("show", "--quiet", str(path))
    assert re.search(r"long64/cr0_wp: Mean \+- std dev: 1002\.8\d+ \+- 2\.\d+$", shown, re.M)


def test_command_writes_a_file_or_stdout(
    kvmharness: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    path = tmp_path / "here.json"
    runfile.write(path, made_up_run())
    printed = kvmharness("export", str(path), "--format", "ktap")
    written = kvmharness("export", str(path), "--format", "ktap", "-o", str(tmp_path / "out"))
    assert (printed.returncode, written.returncode, written.stdout) == (0, 0, "")
    assert (tmp_path / "out").read_text() == printed.stdout
    assert "# run here\n" in printed.stdout
