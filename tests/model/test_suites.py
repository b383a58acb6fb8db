"""Suites: the built-in ones, a user's own, and what is said of a file that is wrong."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmharness.errors import UsageError
from kvmharness.model import suites
from kvmharness.model.cases import select
from kvmharness.model.clocks import Defaults

Call = Callable[..., "subprocess.CompletedProcess[str]"]

NAMES = ["controls", "full", "progress", "quick", "roles", "scaling", "timeline", "wx"]

OWN = """\
about = "mine"

[settings]
vms = 3

[[cases]]
match = ["long64/cr0_wp", "real16/empty"]

[[cases]]
match = "long64/cr0_wp@high=1"
pages = [0, 4, 4]
slots = [1, 2]
"""


def parse(text: str) -> suites.Suite:
    return suites.parse("own", "own.toml", text.encode())


def names(text: str) -> list[str]:
    return [case.name for case in parse(text).cases]


def test_every_suite_is_shipped() -> None:
    assert sorted(suites.built_in()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_built_in_suite_names_cases_that_exist(name: str) -> None:
    suite = suites.load(name)
    assert suite.name == name
    assert suite.about
    assert len({case.name for case in suite.cases}) == len(suite.cases)
    for case in suite.cases:
        assert select([case.name]) == [case]


@pytest.mark.parametrize("name", NAMES)
def test_built_in_suite_brings_what_each_case_is_netted_against(name: str) -> None:
    cases = suites.load(name).cases
    assert {case.baseline for case in cases} <= {case.name for case in cases}


def test_full_has_every_case_there_is_at_default_parameters() -> None:
    assert {c.name for c in select([])} <= {c.name for c in suites.load("full").cases}


def test_scaling_sweeps_by_powers_of_two() -> None:
    cases = [c for c in suites.load("scaling").cases if c.op == "cr0_wp"]
    assert {c["pages"] for c in cases} == {0, *(1 << n for n in range(13))}
    assert {c["slots"] for c in cases} == {1 << n for n in range(10)}
    assert {1, len(os.sched_getaffinity(0))} <= {c["vcpus"] for c in cases}


def test_own_suite_sweeps_every_combination_once_in_order() -> None:
    assert names(OWN) == [
        "long64/cr0_wp",
        "real16/empty",
        "long64/cr0_wp@high=1",
        "long64/cr0_wp@high=1,slots=2",
        "long64/cr0_wp@high=1,pages=4",
        "long64/cr0_wp@high=1,pages=4,slots=2",
    ]
    assert parse(OWN).settings == Defaults(vms=3)


def test_own_file_is_named_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(OWN)
    suite = suites.load(str(path))
    assert (suite.name, suite.about, len(suite.cases)) == (str(path), "mine", 6)


def test_default_value_gives_the_plain_name() -> None:
    assert names('about = "a"\n[[cases]]\nmatch = "long64/cr0_wp"\npages = 0') == ["long64/cr0_wp"]


@pytest.mark.parametrize(
    ("cpus", "values"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (400, [*range(9)])]
)
def test_host_is_powers_of_two_and_the_number_of_cpus(
    cpus: int, values: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cpus)))
    cases = parse('about = "a"\n[[cases]]\nmatch = "long64/cr0_wp"\nvcpus = "host"').cases
    expected = [1 << n for n in values] if cpus == 400 else values
    assert [case["vcpus"] for case in cases] == expected


CASES = "[[cases]]\nmatch = "


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        (
            OWN.replace("vms = 3", "vms = 3\nvns = 3"),
            "settings.vns",
            "no such key here; there are: vms,",
        ),
        (
            OWN.replace("vms = 3", "vms = 0"),
            "settings.vms",
            "takes an integer, not 0; give 1 to 1,000",
        ),
        (OWN.replace("vms = 3", "vms = true"), "settings.vms", "not True"),
        (OWN.replace("vms = 3", "vms = 2.0"), "settings.vms", "takes an integer, not 2.0"),
        (
            OWN.replace("vms = 3", "target_ms = nan"),
            "settings.target_ms",
            "takes a number, not nan",
        ),
        (
            OWN.replace("vms = 3", "iterations = 4294967296"),
            "settings.iterations",
            "not 4294967296",
        ),
        (OWN.replace("[settings]\nvms", "settings"), "settings", "3 is no table"),
        (OWN.replace("[settings]", "[setings]"), "setings", "no such key here"),
        (OWN.replace('about = "mine"', ""), "about", "missing"),
        (OWN.replace('"mine"', "7"), "about", "missing, or no text"),
        ('about = "a"\n', "cases", "missing"),
        ('about = "a"\ncases = []\n', "cases", "no list of tables"),
        ('about = "a"\ncases = [3]\n', "cases", "3 is no table"),
        ('about = "a"\n[[cases]]\npages = 1\n', "cases[0].match", "missing"),
        (f'about = "a"\n{CASES}7\n', "cases[0].match", "takes patterns, not 7"),
        (f'about = "a"\n{CASES}[]\n', "cases[0].match", "an empty list"),
        (
            f'about = "a"\n{CASES}[\n"long64/*",\n"none/*"]\n',
            "cases[0].match",
            "'none/*': matches noth",
        ),
        (f'about = "a"\n{CASES}"real16/*"\nhigh = 1\n', "cases[0].match", "matches nothing"),
        (
            f'about = "a"\n{CASES}"*@speed=1"\n',
            "cases[0].match",
            "no parameter 'speed'; there are:",
        ),
        (
            f'about = "a"\n{CASES}"*@pages={"9" * 5000}"\n',
            "cases[0].match",
            "pages takes 0 to 4096",
        ),
        (
            f'about = "a"\n{CASES}"*@high=2"\n',
            "cases[0].match",
            "high takes 0 or 1, not '2'; `kvmh",
        ),
        (
            OWN.replace("[0, 4, 4]", "[0,\n 4,\n 5000]"),
            "cases[1].pages",
            "takes 0 to 4096, not 5000",
        ),
        (OWN.replace("[0, 4, 4]", '"host"'), "cases[1].pages", "not 'host'"),
        (OWN.replace("[0, 4, 4]", "[]"), "cases[1].pages", "an empty list"),
        (
            OWN.replace("[0, 4, 4]", "1979-05-27"),
            "cases[1].pages",
            "not datetime.date(1979, 5, 27)",
        ),
        (OWN.replace("slots", "high"), "cases[1].high", "takes 0 or 1, not 2"),
        (OWN.replace("pages = [0, 4, 4]", "page = 1"), "cases[1].page", "there are: match, high,"),
        (OWN.replace("vms", '"v\\nms"'), r"settings.'v\nms'", "no such key here"),
        (OWN.replace("pages", "vcpus"), "cases[1].vcpus", "takes 1 to 256 or 'host', not 0"),
        (OWN.replace("slots = [1, 2]", "high = [0, 1]"), "cases[1].high", "given in match"),
        (OWN + "[[cases]]\nmatch = 'long64/*'\nhigh = 9\n", "cases[2].high", "takes 0 or 1, not 9"),
        (
            f'about = "a"\n{CASES}"*"\npages = {list(range(200))}\nslots = {list(range(1, 200))}\n',
            "cases[0].pages",
            "over 10,000 cases; sweep fewer values",
        ),
    ],
)
def test_mistake_is_named_by_file_and_key(text: str, place: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    message = str(caught.value)
    assert message.startswith(f"suite own.toml: {place}: ")
    assert says in message
    assert "; " in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'about = "a"\nsettings = \n', "not TOML: Invalid value (at line 2, column 12)"),
        (b'about = "a"\nabout = "b"\n', "not TOML: Cannot overwrite"),
        (b'about = "a', "not TOML"),
        (b'about = "a"\n\nx = "\xff"\n', "not UTF-8 at line 3; save"),
        (b'about = "a"\nx = ' + b"9" * 5000, "not TOML"),
        (b'about = "a"\nx = ' + b"[" * 50_000, "not TOML"),
    ],
)
def test_what_is_no_toml_is_named_with_the_line(data: bytes, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        suites.parse("own", "own.toml", data)
    assert str(caught.value).startswith(f"suite own.toml: {says}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nosuch", "/nonexistent/own.toml", "/"])
def test_missing_file_names_the_built_in_suites(name: str) -> None:
    with pytest.raises(UsageError, match=f"suite {name}: .*; .*: {', '.join(NAMES)}$"):
        suites.load(name)


SNIPPETS = ("[", "]", '"', "=", "\n", "#", "-1", "1e9", "true", "'", "{", "}", ".", "host", "\0")
TEXTS = [OWN, *(path.read_text() for path in suites.built_in().values())]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_mutated_file_is_a_suite_or_a_usage_error(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(TEXTS))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = start + data.draw(st.integers(0, 12))
        new = data.draw(st.sampled_from(SNIPPETS) | st.text(max_size=3))
        text = text[:start] + new + text[end:]
    said = None
    try:
        suite = suites.parse("own", "own.toml", text.encode("utf-8", "surrogatepass"))
    except UsageError as error:
        said = str(error)
    if said is None:
        assert suite.cases
    else:
        assert said.startswith("suite own.toml: ")
        assert len(said.splitlines()) == 1


def test_patterns_pick_within_the_suite(kvmharness: Call) -> None:
    done = kvmharness("run", "--suite", "scaling", "--list", "*/cr0_wp@slots=*")
    assert done.returncode == 0
    listed = [line.split()[0] for line in done.stdout.splitlines()]
    assert listed == [f"long64/cr0_wp@slots={1 << n}" for n in range(1, 10)]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ("--suite", "nosuch"),
            "built-in suite: controls, full, progress, quick, roles, scaling, timeline, wx",
        ),
        (("--suite", "quick", "pae32/*"), "matches nothing in suite quick"),
    ],
)
def test_bad_suite_is_one_line_and_exit_2(
    kvmharness: Call, arguments: tuple[str, ...], says: str
) -> None:
    done = kvmharness("run", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
