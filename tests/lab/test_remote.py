"""remote.py: what travels with a job, and what comes back, by Dask's workers in this process."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kvmharness.errors import LabLost, UsageError
from kvmharness.kernel import variants
from kvmharness.kernel.resolve import Kernel
from kvmharness.lab import campaign, machines, pool, qemu, remote
from kvmharness.lab.boot import LabMachine
from kvmharness.lab.capsule import Part
from kvmharness.lab.ledger import Answer, Ledger
from kvmharness.lab.machines import TCG_SVM
from kvmharness.lab.planning import LabPlan, Target
from kvmharness.lab.pool import Order
from kvmharness.measure.settings import for_lab
from kvmharness.model.cases import select

distributed: Any = pytest.importorskip("distributed")

DEP = """kernel/arch/x86/kvm/kvm.ko:
kernel/arch/x86/kvm/kvm-amd.ko: kernel/arch/x86/kvm/kvm.ko kernel/crypto/ccp.ko
kernel/arch/x86/kvm/kvm-intel.ko: kernel/arch/x86/kvm/kvm.ko
"""


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    """Return a kernel whose files hold nothing that boots."""
    boot, library = tmp_path / "boot", tmp_path / "lib/modules/6.1"
    boot.mkdir()
    for name in ("kvm/kvm.ko", "kvm/kvm-amd.ko", "kvm/kvm-intel.ko"):
        path = library / "kernel/arch/x86" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (library / "kernel/crypto").mkdir()
    (tmp_path / "elsewhere.ko").write_text("ccp")
    (library / "kernel/crypto/ccp.ko").symlink_to(tmp_path / "elsewhere.ko")
    (library / "modules.dep").write_text(DEP)
    (boot / "config-6.1").write_text("CONFIG_KVM=m\n")
    (boot / "vmlinuz-6.1").write_text("no kernel")
    return Kernel("a kernel", "6.1", boot / "vmlinuz-6.1", library, "6.1")


def asked(kernel: Kernel, tmp_path: Path, job: str = "") -> Order:
    """Return a job with a capsule that holds nothing; as its client names it, if not `job`."""
    path = tmp_path / "capsule.cpio"
    path.write_bytes(b"nothing")
    parts = [Part(path, pool.digest(b"nothing"))]
    plan = LabPlan(
        select(["long64/empty"]), {"insn": for_lab("insn")}, None, None, None, capsule=parts
    )
    # One that is built in needs no modules to be stripped, which these cannot be.
    target = Target(replace(kernel, modules=None), variants.parse("tdp"), TCG_SVM)
    order = pool.order(target, plan, parts)
    return replace(order, job=job or order.job)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(machines, "check_tools", lambda _: None)
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=False,
        protocol="tcp",
        dashboard_address=":0",
        host="127.0.0.1",
    ) as cluster:
        yield cluster


@pytest.fixture
def address(cluster: Any) -> str:
    found: str = cluster.scheduler_address
    return found


def test_what_a_vendors_kvm_needs_travels_and_no_more(kernel: Kernel) -> None:
    amd = remote.files_of(kernel, "kvm_amd")
    here = "lib/modules/6.1"
    assert sorted(amd) == [
        "boot/config-6.1",
        "boot/vmlinuz-6.1",
        f"{here}/kernel/arch/x86/kvm/kvm-amd.ko",
        f"{here}/kernel/arch/x86/kvm/kvm.ko",
        f"{here}/kernel/crypto/ccp.ko",
        f"{here}/modules.dep",
    ]
    assert amd[f"{here}/kernel/crypto/ccp.ko"] == b"ccp"
    assert remote.digest_of(amd) != remote.digest_of(remote.files_of(kernel, "kvm_intel"))


def test_files_are_settled_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    files = {"a/b": b"1", "c": b"2"}
    folder = remote.settle(files)
    assert remote.settle(dict(reversed(files.items()))) == folder
    assert (folder / "a/b").read_bytes() == b"1"
    assert remote.settle({"a/b": b"1", "c": b"3"}) != folder


def test_a_job_is_done_there_with_files_that_came_along(
    kernel: Kernel, tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Order] = []

    def perform(order: Order, where: str) -> Answer:
        done.append(order)
        return Answer(order.job, "skipped", "it cannot", where=where)

    monkeypatch.setattr(pool, "perform", perform)
    order = asked(kernel, tmp_path)
    with remote.Cluster(address) as cluster:
        assert cluster.width() == 2
        first = cluster.submit(order).result(60)
        second = cluster.submit(order, avoid=first.where).result(60)
    assert (first.job, first.state, first.reason) == (order.job, "skipped", "it cannot")
    assert first.where != second.where
    there = done[0].target.kernel
    assert there.image.is_relative_to(tmp_path / "cache")
    assert there.image.read_text() == "no kernel"
    assert done[0].plan.capsule
    assert done[0].plan.capsule[0].path.read_bytes() == b"nothing"


def test_who_is_to_avoid_a_job_does_not_relieve_the_others_of_it(
    kernel: Kernel, tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle worker takes what waits for a busy one, wherever both may do it."""
    free = threading.Event()

    def perform(order: Order, where: str) -> Answer:
        free.wait(30)
        return Answer(order.job, "skipped", where=where)

    monkeypatch.setattr(pool, "perform", perform)
    order = asked(kernel, tmp_path)
    one, other = (worker.address for worker in cluster.workers.values())
    with remote.Cluster(cluster.scheduler_address) as workers:
        asked_for = [workers.submit(order, avoid=one) for _ in range(4)]
        time.sleep(2)  # work is stolen each 0.1 s
        assert not any(workers.stranded(future) for future in asked_for)
        free.set()
        assert {future.result(60).where for future in asked_for} == {other}


def test_a_job_whose_workers_are_gone_is_stranded(
    kernel: Kernel, tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "perform", lambda order, where: Answer(order.job, "skipped", where))
    one, other = (worker.address for worker in cluster.workers.values())
    with remote.Cluster(cluster.scheduler_address) as workers:
        workers.submit(asked(kernel, tmp_path)).result(60)
        cluster.sync(cluster.scheduler.remove_worker, other, stimulus_id="gone")
        stays = workers.submit(asked(kernel, tmp_path), avoid=other)
        assert not workers.stranded(stays)
        cluster.sync(cluster.scheduler.remove_worker, one, stimulus_id="gone")
        assert workers.stranded(stays)


def test_a_worker_with_other_tools_says_so_and_measures_nothing(
    kernel: Kernel, tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "perform", None)
    kept = Ledger(tmp_path / "runs")
    kept.prepare()
    with remote.Cluster(address) as cluster:
        (ended,) = campaign.carry_out([asked(kernel, tmp_path, "another")], cluster, kept)
    assert ended.answer.state == "lost"
    assert "has other tools or files" in ended.answer.reason
    assert kept.note("another")


def test_a_kernel_that_does_not_boot_is_lost_there_and_noted_here(
    kernel: Kernel, tmp_path: Path, address: str
) -> None:
    kept = Ledger(tmp_path / "runs")
    kept.prepare()
    order = asked(kernel, tmp_path)
    with remote.Cluster(address) as cluster:
        (ended,) = campaign.carry_out([order], cluster, kept)
    found = kept.note(order.job)
    assert ended.kept == "noted"
    assert found
    assert found.state == "lost"
    assert "vmlinuz" in found.reason


def test_real_time_is_not_sent_elsewhere(kernel: Kernel, tmp_path: Path, address: str) -> None:
    order = asked(kernel, tmp_path)
    machine = LabMachine("kvm", qemu.KVM, "host", "kvm_amd", "tsc")
    with remote.Cluster(address) as cluster, pytest.raises(UsageError, match="each machine's own"):
        cluster.submit(replace(order, target=replace(order.target, machine=machine)))


def test_where_the_scheduler_is_gone_nothing_is_noted(kernel: Kernel, tmp_path: Path) -> None:
    """It has no worker, so the job waits until it is killed."""
    file = tmp_path / "scheduler"
    where = ["--host=127.0.0.1", "--port=0", f"--scheduler-file={file}", "--no-dashboard"]
    scheduler = subprocess.Popen([sys.executable, "-m", "dask", "scheduler", *where])
    kept = Ledger(tmp_path / "runs")
    kept.prepare()
    try:
        while not (file.exists() and file.stat().st_size):
            assert scheduler.poll() is None
            time.sleep(0.2)
        with remote.Cluster(json.loads(file.read_text())["address"]) as cluster:
            waiting = campaign.carry_out([asked(kernel, tmp_path)], cluster, kept)
            killing = threading.Timer(3, scheduler.kill)
            killing.start()
            with pytest.raises(LabLost, match="goes on from here"):
                next(waiting)
    finally:
        scheduler.kill()
        scheduler.wait()
    assert not list(kept.folder.glob("*.note"))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "tcp://127.0.0.1:1", "x://y", "", "tcp://:z"])
def test_an_address_where_nobody_is_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match=r"--scheduler .*start one by"):
        remote.Cluster(address)
