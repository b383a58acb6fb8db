"""The table of planted faults holds together; in the lab, one of each kind is called right."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmharness.errors import UsageError
from tests.support.kernels import CURED, need_lab

BENCH = Path(__file__).parents[2] / "bench"
sys.path.insert(0, str(BENCH))

import kvm_builds  # noqa: E402 - bench/ is no package
import mutants  # noqa: E402
from kvm_builds import Edit  # noqa: E402
from mutants import BASE, Mutant, Verdict  # noqa: E402

TABLE = {mutant.name: mutant for mutant in mutants.read_table()}
# Kinds in which a tool can be fooled in more ways than one.
TWICE = {"deferred work", "blind evidence", "W^X", "hardware work", "one MMU", "control"}
SHORT = (
    "control-equivalent",
    "deferred-to-user-space",
    "deferred-to-the-end",
    "blind-unload",
    "hardware-wbinvd",
    "wx-always",
    "extra-exit",
)


def test_names_are_unique_and_every_kind_comes_in_two_shapes() -> None:
    assert len(TABLE) == len(mutants.read_table())
    kinds = Counter(mutant.kind for mutant in TABLE.values())
    assert {kind for kind in TWICE if kinds[kind] < 2} == set()
    assert len({mutant.edit for mutant in TABLE.values()}) == len(TABLE)


def test_what_is_expected_is_of_cases_and_variants_that_are_measured() -> None:
    cases = {mutants.ANY, *(f"long64/{op}" for op in mutants.OPS)}
    for mutant in TABLE.values():
        assert set(mutant.expect) <= set(mutant.variants)
        assert all(set(expected) <= cases for expected in mutant.expect.values())


def test_an_edit_must_name_what_is_there_once(tmp_path: Path) -> None:
    (tmp_path / "x86.c").write_text("one\ntwo\ntwo\n")
    first = Edit("x86.c", "one", "three")
    assert kvm_builds.changed(tmp_path, [first, Edit("x86.c", "three", "4")]) == {
        "x86.c": "4\ntwo\ntwo\n"
    }
    for old in ("two", "five"):
        with pytest.raises(UsageError, match="once"):
            kvm_builds.changed(tmp_path, [Edit("x86.c", old, "")])


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Verdict]:
    """Return what judges a mutant in the variant that it is meant for."""
    need_lab(CURED)
    if shutil.which(kvm_builds.COMPILER) is None:
        pytest.skip(f"no {kvm_builds.COMPILER}, which Debian built 6.1 with")
    folder = tmp_path_factory.mktemp("mutants")
    try:
        kvm_builds.home()
    except UsageError as error:
        pytest.skip(str(error))
    base = mutants.measure(kvm_builds.build(BASE), "tdp", folder / BASE)

    def judge(name: str) -> Verdict:
        mutant: Mutant = TABLE[name]
        built = kvm_builds.build(name, mutant.edit)
        new = mutants.measure(built, "tdp", folder / name)
        return mutants.judge(mutant, "tdp", base, new)

    return judge


@pytest.mark.lab
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", SHORT)
def test_planted_fault_is_called_right(judged: Callable[[str], Verdict], name: str) -> None:
    verdict = judged(name)
    assert not verdict.wrong, verdict.said
