"""ledger.py and campaign.py: what a folder keeps of jobs, with answers that are made up."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Self

import pytest

from kvmharness import cache
from kvmharness.errors import LabLost, UsageError
from kvmharness.kernel import resolve, variants
from kvmharness.kernel.resolve import Kernel
from kvmharness.lab import campaign, capsule, ledger, matrix, packing, pool
from kvmharness.lab.campaign import Ended
from kvmharness.lab.engine import Runner
from kvmharness.lab.ledger import Answer, Ledger
from kvmharness.lab.machines import BOCHS_VMX, TCG_SVM
from kvmharness.lab.planning import LabPlan, Target
from kvmharness.lab.pool import Order
from kvmharness.measure.settings import for_lab
from kvmharness.model import runfile
from kvmharness.model.cases import select
from kvmharness.model.note import Note
from kvmharness.model.run import Run
from tests.support.samples import made_up_lab_run, made_up_run

KERNEL = Kernel("a kernel", "6.1", Path("vmlinuz"), None, "6.1")
PLAN = LabPlan(select(["long64/empty"]), {"insn": for_lab("insn")}, None, None, None)
TARGET = Target(KERNEL, variants.parse("tdp"), TCG_SVM)
NOTE = Note("lost", "it panicked", "a kernel", "tdp", "tcg-svm", "0")


def answer(run: Run, job: str = "job") -> Answer:
    data = runfile.encode(run)
    return Answer(job, "done", run=data, sha256=pool.digest(data), where="there")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ledger.LOCK)


@pytest.fixture
def kept(tmp_path: Path) -> Ledger:
    found = Ledger(tmp_path / "kept")
    found.prepare()
    return found


# Given to a job that waits for somebody who is gone.
WAITS = Answer("waits", "lost")


class Hands:
    """A pool that gives answers made up for it, in order, to whoever submits."""

    def __init__(self, answers: Sequence[Answer | BaseException], width: int = 2) -> None:
        self.answers, self.asked, self.avoided, self._width = list(answers), 0, [], width
        self.gone: list[Future[Answer]] = []

    avoided: list[str]

    def width(self) -> int:
        return self._width

    def submit(self, order: Order, avoid: str = "") -> Future[Answer]:
        future: Future[Answer] = Future()
        given = self.answers[self.asked]
        self.asked += 1
        self.avoided.append(avoid)
        if given is WAITS:
            self.gone.append(future)
        elif isinstance(given, BaseException):
            future.set_exception(given)
        else:
            future.set_result(given)
        return future

    def stranded(self, future: Future[Answer]) -> bool:
        return future in self.gone

    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def carried_out(
    jobs: Sequence[str], answers: Sequence[Answer | BaseException], kept: Ledger
) -> list[Ended]:
    orders = [Order(job, TARGET, PLAN) for job in jobs]
    return list(campaign.carry_out(orders, Hands(answers), kept))


def test_a_run_is_kept_under_its_jobs_name(kept: Ledger) -> None:
    run = made_up_lab_run()
    assert kept.keep(answer(run), NOTE) == ("new", [])
    assert names(kept.folder) == ["job.json"]
    assert campaign.is_there("job", kept)
    assert not campaign.is_there("other", kept)


def test_the_same_figures_again_change_nothing(kept: Ledger) -> None:
    run = made_up_lab_run()
    kept.keep(answer(run), NOTE)
    before = (kept.folder / "job.json").read_bytes()
    run.started = "2027-01-01T00:00:00+00:00"
    assert kept.keep(answer(run), NOTE) == ("same", [])
    assert (kept.folder / "job.json").read_bytes() == before


def test_other_figures_of_one_job_are_an_alarm_and_both_are_kept(kept: Ledger) -> None:
    run = made_up_lab_run()
    kept.keep(answer(run), NOTE)
    samples = run.cases[1].samples
    least = samples.index(min(samples))
    samples[least] -= 0.5  # less than a tick of all its ops
    word, differences = kept.keep(answer(run), NOTE)
    assert word == "differs"
    assert len(differences) == 1
    assert differences[0].startswith("long64/cr0_wp: sample ")
    samples[least] -= 0.5  # less than a tick of all its ops
    kept.keep(answer(run), NOTE)
    assert names(kept.folder) == ["job.differing.json", "job.differing1.json", "job.json"]


def test_a_count_that_differs_is_an_alarm_too(kept: Ledger) -> None:
    run = made_up_lab_run()
    kept.keep(answer(run), NOTE)
    run.cases[1].counters["kvm.exits"] = 2.0
    assert kept.keep(answer(run), NOTE) == (
        "differs",
        ["long64/cr0_wp: kvm.exits 1.0 and 2.0 per op"],
    )


def test_by_a_clock_of_time_no_two_runs_are_alike_and_the_new_one_counts(kept: Ledger) -> None:
    run = made_up_run()
    kept.keep(answer(run), NOTE)
    run.cases[1].samples[3] += 1
    assert kept.keep(answer(run), NOTE) == ("new", [])
    assert names(kept.folder) == ["job.json", "job.json~"]


def test_a_job_that_failed_leaves_a_note_and_the_part_that_it_measured(kept: Ledger) -> None:
    lost = Answer("job", "lost", "it panicked", run=b"{}")
    assert kept.keep(lost, NOTE) == ("noted", [])
    assert names(kept.folder) == ["job.note", "job.part"]
    assert kept.note("job") == NOTE
    assert json.loads((kept.folder / "job.note").read_text())["reason"] == "it panicked"
    assert campaign.is_there("job", kept)
    kept.keep(answer(made_up_lab_run()), NOTE)
    assert names(kept.folder) == ["job.json"]


def test_a_failure_takes_no_run_away(kept: Ledger) -> None:
    kept.keep(answer(made_up_lab_run()), NOTE)
    kept.keep(Answer("job", "lost", "it panicked"), NOTE)
    assert names(kept.folder) == ["job.json"]


@pytest.mark.parametrize("text", ['{"schema": "other"}', "{", "", "\x00\xff", "[" * 100_000])
def test_what_is_no_run_is_measured_again_and_stays_beside_it(kept: Ledger, text: str) -> None:
    for name in ("job.json", "job.note"):
        (kept.folder / name).write_text(text, encoding="latin-1")
    assert not campaign.is_there("job", kept)
    assert kept.keep(answer(made_up_lab_run()), NOTE) == ("new", [])
    assert kept.run("job")
    assert names(kept.folder) == ["job.json", *(["job.json~"] if text else [])]


def test_what_a_killed_process_had_half_written_is_cleared(kept: Ledger) -> None:
    job = f"6.1-tdp-{'0123456789abcdef'}"
    for name in (
        f".{job}.json.0123abcd",
        f".{job}.differing2.json.0123abcd",
        f".{job}.note.01234567",
    ):
        (kept.folder / name).write_text("{")
    for name in (".mine.json.20240101", ".mine.json", f"{job}.json.0123abcd"):
        (kept.folder / name).write_text("{}")
    kept.prepare()
    assert names(kept.folder) == [".mine.json", ".mine.json.20240101", f"{job}.json.0123abcd"]


def test_what_cannot_be_kept_is_saved_elsewhere(
    kept: Ledger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    shutil.rmtree(kept.folder)
    with pytest.raises(UsageError, match=r"No such file or directory.*the run is in") as error:
        carried_out(["job"], [answer(made_up_lab_run())], kept)
    assert runfile.read(Path(str(error.value).rpartition(" ")[2])).cases


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="name another folder"):
        Ledger(tmp_path / "file").prepare()
    with pytest.raises(UsageError, match="name another folder"):
        Ledger(tmp_path / "file" / "below").prepare()


def test_a_folder_that_is_read_only_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    if os.access(tmp_path, os.W_OK):
        pytest.skip("this user may write anywhere")
    with pytest.raises(UsageError, match="Permission denied"):
        Ledger(tmp_path).prepare()


def test_jobs_are_taken_when_there_is_somebody_to_do_them(kept: Ledger) -> None:
    taken: list[str] = []

    def orders() -> Iterator[Order]:
        for number in range(9):
            taken.append(f"job{number}")
            yield Order(f"job{number}", TARGET, PLAN)

    answers = [answer(made_up_lab_run(), f"job{number}") for number in range(9)]
    found = campaign.carry_out(orders(), Hands(answers), kept)
    next(found)
    assert len(taken) == campaign.AHEAD * 2
    assert len(list(found)) == 8
    assert names(kept.folder) == [f"job{number}.json" for number in range(9)]


def test_an_answer_to_another_job_is_none(kept: Ledger) -> None:
    (ended,) = carried_out(["job"], [answer(made_up_lab_run(), "another")], kept)
    assert ended.answer.state == "lost"
    assert "there has other tools or files: it did another" in ended.answer.reason
    assert names(kept.folder) == ["job.note"]


def test_an_answer_that_came_damaged_is_none(kept: Ledger) -> None:
    whole = answer(made_up_lab_run())
    damaged = Answer("job", "done", run=whole.run[:-1], sha256=whole.sha256, where="there")
    (ended,) = carried_out(["job"], [damaged], kept)
    assert ended.answer.reason == "the run came damaged from there"


def test_an_answer_that_is_no_run_is_none(kept: Ledger) -> None:
    (ended,) = carried_out(
        ["job"], [Answer("job", "done", run=b"{", sha256=pool.digest(b"{"))], kept
    )
    assert ended.answer.state == "lost"
    assert "not JSON or cut short" in ended.answer.reason


def test_a_worker_that_fails_is_noted_and_the_others_go_on(kept: Ledger) -> None:
    answers: list[Answer | BaseException] = [
        RuntimeError("no disk"),
        answer(made_up_lab_run(), "b"),
    ]
    ended = carried_out(["a", "b"], answers, kept)
    assert {e.order.job: e.answer.state for e in ended} == {"a": "lost", "b": "done"}
    assert names(kept.folder) == ["a.note", "b.json"]


def test_who_has_nobody_to_work_for_it_any_more_notes_nothing(kept: Ledger) -> None:
    with pytest.raises(LabLost, match="goes on from here"):
        carried_out(["a"], [CancelledError()], kept)
    assert names(kept.folder) == []


def test_twice_asks_another_one_and_compares(kept: Ledger) -> None:
    other = made_up_lab_run()
    other.cases[0].samples[0] += 1
    hands = Hands([answer(made_up_lab_run()), answer(other)])
    ended = list(campaign.carry_out([Order("job", TARGET, PLAN)], hands, kept, twice=True))
    assert [e.kept for e in ended] == ["new", "differs"]
    assert hands.avoided == ["", "there"]


def test_a_job_that_waits_for_who_is_gone_is_given_to_others(
    kept: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(campaign, "LOOK_S", 0.01)
    hands = Hands([answer(made_up_lab_run()), WAITS, answer(made_up_lab_run())])
    ended = list(campaign.carry_out([Order("job", TARGET, PLAN)], hands, kept, twice=True))
    assert [(e.kept, e.avoid) for e in ended] == [("new", ""), ("same", "there")]
    assert hands.avoided == ["", "there", "there"]
    assert hands.gone[0].cancelled()


def test_a_jobs_name_stands_for_all_that_its_figures_depend_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "vmlinuz"
    image.write_bytes(b"a kernel")
    kernel = Kernel("named", "6.1", image, None, "6.1")
    parts = [capsule.Part(tmp_path / "capsule", "c0")]

    def name(target: Target, plan: LabPlan = PLAN, parts: Sequence[capsule.Part] = parts) -> str:
        return ledger.name_of(target, plan, parts)

    target = Target(kernel, TARGET.variant, TCG_SVM)
    # What a user calls a kernel is no part of it.
    assert name(target) == name(Target(Kernel("x", *kernel_rest(kernel)), target.variant, TCG_SVM))
    shadow, legacy = variants.parse("shadow"), variants.parse("legacy")
    other = LabPlan(PLAN.cases, {"insn": for_lab("insn", 4)}, None, None, None)
    found = {
        name(target),
        name(Target(kernel, shadow, TCG_SVM)),
        name(Target(kernel, legacy, TCG_SVM)),
        name(Target(kernel, target.variant, BOCHS_VMX)),
        name(Target(kernel, target.variant, TCG_SVM, boot=2)),
        name(target, other),
        name(target, parts=[capsule.Part(tmp_path / "capsule", "c1")]),
    }
    image.write_bytes(b"another kernel")
    assert len(found | {name(target)}) == 8


def kernel_rest(kernel: Kernel) -> tuple[str, Path, Path | None, str]:
    return kernel.label, kernel.image, kernel.modules, kernel.release


def test_a_job_that_ends_stops_no_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a pool's machines are run by one runner, which only the pool itself may stop."""

    def lost(*_: object) -> None:
        raise LabLost("it panicked")

    monkeypatch.setattr(matrix, "_one", lost)
    monkeypatch.setattr(resolve, "bootable", lambda kernel: kernel.image)
    monkeypatch.setattr(packing, "roles_of", lambda *_: None)
    stopped: list[Runner] = []

    def stop(runner: Runner) -> None:
        stopped.append(runner)

    monkeypatch.setattr(Runner, "stop", stop)
    with pool.Local(1) as here:
        ended = here.submit(Order("job", TARGET, PLAN)).result()
        assert (ended.state, ended.reason) == ("lost", "it panicked")
        assert not stopped
    assert len(stopped) == 1
    assert cache.folder("jobs").is_dir()
