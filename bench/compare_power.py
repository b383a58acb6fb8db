"""How often `kvmharness compare` errs, on simulated runs whose truth is known.

A comparison is of 8 cases, as many as a run without patterns has.  Samples are lognormal
around their VM's level, VMs around their boot's; one VM in fifty has landed badly (up to
15 % slower), one sample in fifty was interrupted (up to 3 times as long).  Each row says:

false alarms  comparisons of a kernel with itself that call any of the 8 cases changed
same          cases of these comparisons that are called the same
found         comparisons with one case 3 % (10 %) dearer that call it slower

Usage: python bench/compare_power.py [TRIALS]
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import numpy as np

from kvmharness.analysis.ratios import Verdict, blocks, judge, ratio
from kvmharness.analysis.stats import Floats
from kvmharness.model.clocks import CLOCKS

SEED = 20220209
CASES = 8
SAMPLES = 10  # of each VM
BAD_VMS, BAD_BY = 0.02, 0.15
BAD_SAMPLES, TIMES = 0.02, 3.0


class Noise(NamedTuple):
    """Runs a side and their VMs; the spreads as shares of 1: between boots, VMs, within a VM."""

    runs: int
    vms: int
    boot: float
    vm: float
    within: float


# The first row is the quiet machine for which the goal of 3 % is set; 10 VMs are what a run
# takes.  The last one has boots that differ more than a single run's allowance is for.
NOISES = (
    Noise(1, 10, 0.0, 0.01, 0.005),
    Noise(1, 10, 0.003, 0.01, 0.005),
    Noise(1, 10, 0.003, 0.01, 0.02),
    Noise(1, 10, 0.003, 0.02, 0.01),
    Noise(1, 10, 0.003, 0.03, 0.02),
    Noise(1, 40, 0.003, 0.02, 0.01),
    Noise(3, 10, 0.003, 0.01, 0.005),
    Noise(5, 10, 0.003, 0.01, 0.005),
    Noise(5, 10, 0.005, 0.02, 0.01),
    Noise(5, 10, 0.005, 0.03, 0.02),
    Noise(1, 10, 0.005, 0.01, 0.005),
)


def draw(rng: np.random.Generator, noise: Noise) -> list[list[Floats]]:
    """Return a side's samples of one case: a list of VMs for each run."""
    levels = noise.boot * rng.standard_normal((noise.runs, 1))
    levels = levels + noise.vm * rng.standard_normal((noise.runs, noise.vms))
    landed = rng.random(levels.shape) < BAD_VMS
    levels = levels + landed * np.log1p(BAD_BY * rng.random(levels.shape))
    samples = levels[:, :, None] + noise.within * rng.standard_normal((*levels.shape, SAMPLES))
    interrupted = rng.random(samples.shape) < BAD_SAMPLES
    samples = samples + interrupted * np.log(1 + (TIMES - 1) * rng.random(samples.shape))
    return [list(run) for run in np.exp(samples)]


def verdict(base: Floats, new: Floats, runs: int) -> Verdict:
    """Judge one of the cases as `compare` does."""
    boot = CLOCKS["tsc"].boot_allowance if runs == 1 else 0.0
    return judge(ratio(base, new, CASES), CLOCKS["tsc"].threshold, boot)


def simulate(rng: np.random.Generator, noise: Noise, trials: int) -> tuple[float, ...]:
    """Return the shares of false alarms, of `same`, of 3 % found and of 10 % found."""
    alarms = same = 0
    found = [0, 0]
    for _ in range(trials):
        sides = [[blocks(draw(rng, noise)) for _ in range(CASES)] for _ in range(2)]
        verdicts = [verdict(a, b, noise.runs) for a, b in zip(*sides, strict=True)]
        alarms += any(v in ("faster", "slower") for v in verdicts)
        same += verdicts.count("same")
        for n, planted in enumerate((1.03, 1.10)):
            dearer = sides[1][0] + np.log(planted)
            found[n] += verdict(sides[0][0], dearer, noise.runs) == "slower"
    return alarms / trials, same / trials / CASES, *(n / trials for n in found)


def main() -> int:
    """Print the table; return 1 where a goal was missed."""
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    rng = np.random.default_rng(SEED)
    print(f"{trials} comparisons a row, {CASES} cases, {SAMPLES} samples a VM")
    print("runs  VMs  boot sd  VM sd  within  false alarms   same  3 % found  10 % found")
    rates = []
    for noise in NOISES:
        alarms, same, three, ten = simulate(rng, noise, trials)
        rates.append((alarms, three))
        print(
            f"{noise.runs:4}  {noise.vms:3}  {noise.boot:7.1%}  {noise.vm:5.1%}  "
            f"{noise.within:6.1%}  {alarms:12.1%}  {same:5.1%}  {three:9.1%}  {ten:10.1%}",
            flush=True,
        )
    met = all(alarms <= 0.05 for alarms, _ in rates[:-1]) and rates[0][1] >= 0.9
    print(
        "goals (at most 5 % false alarms but in the last row; 3 % found by 90 % in the first):",
        "met" if met else "missed",
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
