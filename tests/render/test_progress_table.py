"""The table of progress against its golden file."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from kvmharness.analysis import progress
from kvmharness.model import runfile
from kvmharness.render import progress_table, tables
from tests.support.golden import same_as_golden
from tests.support.samples import made_up_case, made_up_run

COSTS = {
    ("syscall", 1, 0): (11.0, 9716.0),
    ("syscall", 1000, 16): (5027.0, 14_730.0),
    ("fault", 10, 0): (172.0, 9880.0),
    ("fault", 1, 0): (19.0, None),
}


def test_each_figure_stands_beside_its_rate() -> None:
    run = made_up_run()
    run.clock = "insn"
    run.cases = []
    for (op, work, pages), costs in COSTS.items():
        for name, cost in zip((op, f"protected_{op}"), costs, strict=True):
            if cost is None:
                continue
            case = made_up_case(f"long64/{name}", cost)
            case.params = {k: v for k, v in (("pages", pages), ("work", work)) if v > (k == "work")}
            case.name = case.case.name
            run.cases.append(case)
    out = io.StringIO()
    console = Console(file=out, width=tables.WIDTH, highlight=False)
    progress_table.show(run, *progress.of(run), console)
    text = "".join(line.rstrip() + "\n" for line in out.getvalue().splitlines())
    same_as_golden("progress.txt", text)


def test_a_small_share_keeps_its_digits() -> None:
    assert progress_table.percent(0.002304) == "0.23 %"
    assert progress_table.percent(0.0000123456) == "0.00123 %"
    assert progress_table.percent(0.99951) == "100 %"


def test_a_run_without_work_is_a_usage_error(
    kvmharness: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    path = tmp_path / "toggles.json"
    path.write_bytes(runfile.encode(made_up_run()))
    done = kvmharness("progress", str(path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "kvmharness: progress toggles: it has no case of work; measure with --suite progress\n"
    )
