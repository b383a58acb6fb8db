"""timeline.py: the order of kernels, who is held against whom, and what makes a step."""

from __future__ import annotations

import math

import pytest

from kvmharness.analysis.timeline import Line, Way, edges, threshold, timeline
from kvmharness.model.clocks import CLOCKS
from kvmharness.model.version import Place, place_of
from tests.support.made_up_timeline import UNCURED, measured, toggles
from tests.support.samples import made_up_nested_run, made_up_run

LEAST = CLOCKS["insn"].threshold


def places(*releases: str) -> list[Place]:
    found = [place_of(release) for release in releases]
    assert None not in found
    return [place for place in found if place]


def line_of(lines: list[Line], case: str) -> Line:
    (found,) = [line for line in lines if line.case == case]
    return found


def test_a_branch_begins_at_the_oldest_of_its_series() -> None:
    found = places("5.10.1", "5.10.9", "6.1.1", "6.1.30", "6.1.99", "6.2.1", "7.0.0")
    assert edges(found) == [(0, 1), (0, 2), (2, 3), (3, 4), (2, 5), (5, 6)]
    assert edges(found[:1]) == edges([]) == []


def test_kernels_come_in_the_order_of_their_versions() -> None:
    files = [toggles(release, 100) for release in ("6.12.2", "6.1.30", "5.10.0", "6.1.4")]
    found = timeline(files)
    assert [point.name for point in found.kernels()] == ["5.10.0", "6.1.4", "6.1.30", "6.12.2"]
    assert {line.way for line in found.lines} == {Way("tcg-svm", "kvm_amd", "tdp")}
    assert [line.case for line in found.lines] == ["long64/cr0_wp", "long64/empty"]
    assert not found.steps


def test_the_cure_is_a_step_with_the_kernels_around_it_and_what_moved() -> None:
    files = [
        toggles("5.10.1", 157_964, UNCURED),
        toggles("6.1.1", 157_000, UNCURED),
        toggles("6.1.30", 4_854),
        toggles("6.4.1", 4_850),
    ]
    line = line_of(list(timeline(files).lines), "long64/cr0_wp")
    told = [(s.before.name, s.after.name, s.on_branch, s.row.verdict) for s in line.steps]
    # What came to a branch later is a step of that branch, and one of the trunk.
    assert told == [
        ("5.10.1", "6.1.1", False, "faster"),
        ("6.1.1", "6.1.30", True, "faster"),
        ("6.1.1", "6.4.1", False, "faster"),
    ]
    assert line.steps[1].row.said.startswith("root rebuilt → kept; exits 5.00 → 1.00")


def test_a_change_below_the_clocks_threshold_is_no_step() -> None:
    below, beyond = 1000 * (1 + 0.5 * LEAST), 1000 * (1 + 30 * LEAST)
    found = timeline([toggles("6.1.1", 1000), toggles("6.1.2", below), toggles("6.1.3", beyond)])
    assert [step.after.name for step in found.steps] == ["6.1.3"]


def test_a_change_of_the_class_alone_is_a_step() -> None:
    found = timeline([toggles("6.1.1", 1000), toggles("6.1.2", 1000, UNCURED)])
    assert [(step.case, step.row.verdict) for step in found.steps] == [("long64/cr0_wp", "worse")]


def test_the_threshold_is_the_clocks_where_there_is_no_history() -> None:
    assert threshold([], LEAST) == LEAST
    assert threshold([0.5] * 4, LEAST) == LEAST
    assert threshold([0.0] * 40, LEAST) == LEAST


def test_a_case_that_changes_by_itself_needs_a_greater_change() -> None:
    restless = [0.01, -0.02, 0.015, -0.01, 0.02, -0.015]
    found = threshold(restless, LEAST)
    assert 0.02 < found < 0.1
    # The few changes that are KVM's doing do not hide themselves.
    assert threshold([*restless * 2, 3.0, -3.0], LEAST) < 0.1
    # Order and direction are no matter.
    assert threshold([-change for change in reversed(restless)], LEAST) == pytest.approx(found)


def test_steps_of_a_restless_case_are_those_beyond_its_history() -> None:
    costs = [1000, 1020, 1000, 1025, 1000, 1022, 1000, 1300, 1290]
    files = [toggles(f"6.1.{n}", cost) for n, cost in enumerate(costs)]
    line = line_of(list(timeline(files).lines), "long64/cr0_wp")
    assert line.threshold > 0.02
    assert [step.after.name for step in line.steps] == ["6.1.7"]
    assert math.log(1300 / 1000) > math.log1p(line.threshold)


def test_the_last_run_of_a_kernel_counts() -> None:
    """A lab's clock starts at one time always, so a run does not tell when it was taken."""
    files = [toggles("6.1.1", 1000, name="old"), toggles("6.1.1", 2000, name="new")]
    assert files[0].run.started == files[1].run.started
    (point,) = timeline(files).kernels()
    assert list(point.files) == ["new"]


def test_boots_of_one_kernel_are_one_point() -> None:
    files = [toggles("6.1.1", 1000, name=f"boot{n}") for n in (1, 2, 3)]
    for number, file in enumerate(files, 1):
        assert file.run.host.lab
        file.run.host.lab.boot = number
    (point,) = timeline(files).kernels()
    assert len(point.runs) == 3


def test_machines_and_variants_are_lines_of_their_own() -> None:
    files = [toggles("6.1.1", 1000, name=name) for name in ("amd", "intel", "shadow")]
    for file, machine, vendor, variant in (
        (files[0], "tcg-svm", "kvm_amd", "tdp"),
        (files[1], "bochs-vmx", "kvm_intel", "tdp"),
        (files[2], "tcg-svm", "kvm_amd", "shadow"),
    ):
        assert file.run.host.lab
        file.run.host.lab.machine, file.run.host.lab.variant = machine, variant
        file.run.host.kvm.module = vendor
    ways = {str(line.way) for line in timeline(files).lines}
    assert ways == {"tdp on tcg-svm (kvm_amd)", "tdp on bochs-vmx (kvm_intel)", (
        "shadow on tcg-svm (kvm_amd)"
    )}  # fmt: skip


def test_a_kernel_without_figures_is_a_gap_and_is_stepped_over() -> None:
    lost = toggles("6.1.2", 1000)
    lost.run.cases[1].samples, lost.run.cases[1].vms = [], []
    lost.run.cases[1].failed = "guest: triple fault"
    found = timeline([toggles("6.1.1", 1000), lost, toggles("6.1.3", 2000)])
    line = line_of(list(found.lines), "long64/cr0_wp")
    assert line.gaps == {"6.1.2": "failed: guest: triple fault"}
    assert [(s.before.name, s.after.name) for s in line.steps] == [("6.1.1", "6.1.3")]


def test_two_builds_of_one_version_are_called_by_their_releases() -> None:
    releases = ["6.12.90+deb12-amd64", "6.12.90+deb13-amd64", "6.13.1"]
    found = timeline([toggles(release, 1000) for release in releases])
    assert [point.name for point in found.kernels()] == releases


def test_what_is_no_labs_run_is_left_out_with_the_reason() -> None:
    host = toggles("6.1.1", 1000, name="host")
    host.run.host.lab = None
    nested = toggles("6.1.1", 1000, name="nested")
    nested.run.host.lab = made_up_nested_run().host.lab
    odd = toggles("el9", 1000, name="odd")
    found = timeline([host, nested, odd, toggles("6.1.1", 1000, name="old")], place_of("6.2"))
    assert not found.lines
    assert set(found.left_out) == {"host", "nested", "odd", "old"}
    assert found.left_out["odd"] == "the release el9 tells no version"


def test_a_run_by_another_clock_is_compared_with_none_of_this() -> None:
    other = measured("6.1.2", {"long64/empty": 2.06, "long64/cr0_wp": 9000})
    lab, other.run.clock = other.run.host.lab, "tsc"
    assert lab
    for case in other.run.cases:
        case.unit = "ns"
    found = timeline([toggles("6.1.1", 1000), other])
    assert not found.steps
    assert made_up_run().clock == "tsc"
