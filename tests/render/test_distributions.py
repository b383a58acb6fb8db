"""The samples' lines against their golden file."""

from __future__ import annotations

import io

from rich.console import Console

from kvmharness.model.run import Run
from kvmharness.render import distributions, tables
from tests.support.golden import same_as_golden
from tests.support.samples import made_up_lab_run, made_up_run


def rendered(run: Run) -> str:
    out = io.StringIO()
    distributions.show_samples(run, Console(file=out, width=tables.WIDTH, highlight=False))
    return "".join(line.rstrip() + "\n" for line in out.getvalue().splitlines())


def uneven() -> Run:
    """A case whose VMs differ, one whose samples are all the same, one without any."""
    run = made_up_lab_run()
    spread = run.cases[1]
    spread.samples = [s + 40 * vm**2 for s, vm in zip(spread.samples, spread.vms, strict=True)]
    run.cases[0].samples = [1.0] * 30
    bare = made_up_run().cases[0]
    bare.name, bare.samples, bare.vms = "long64/pio", [], []
    run.cases.append(bare)
    return run


def test_distributions_are_the_golden_ones() -> None:
    same_as_golden("distributions.txt", rendered(uneven()))


def test_one_sample_among_many_is_seen() -> None:
    line = distributions.histogram([1.0] * 10_000 + [2.0], 1.0, 2.0)
    assert (line[0], line[-1], len(line)) == ("█", "▁", distributions.BINS)


def test_more_than_nine_vms_at_one_place() -> None:
    line = distributions.marks([1.0] * 10 + [2.0] * 9, 1.0, 2.0)
    assert (line[0], line[-1]) == ("+", "9")


def test_run_without_samples_prints_nothing() -> None:
    run = made_up_run()
    for case in run.cases:
        case.samples, case.vms = [], []
    assert rendered(run) == ""
