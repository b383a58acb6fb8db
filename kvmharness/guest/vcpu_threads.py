"""The threads that run a VM's vCPUs: the caller's own for one, one each for several."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Self, TypeVar

from kvmharness.kvm.raw import lib

T = TypeVar("T")


class VcpuThreads:
    """Runs the same for every vCPU at once; vCPU n always on the same thread.

    `cpus` are what the threads of several vCPUs are pinned to in turn (empty: not pinned).
    """

    def __init__(self, vcpus: int, cpus: Sequence[int]) -> None:
        self._pools: list[ThreadPoolExecutor] = []
        self._idents: list[int] = []
        self.ids = [threading.get_native_id()]
        if vcpus == 1:
            return
        self._pools = [ThreadPoolExecutor(1, f"vcpu{n}") for n in range(vcpus)]
        self.ids = self.run(lambda _: threading.get_native_id())
        self._idents = self.run(lambda _: threading.get_ident())
        if cpus:
            self.run(lambda n: os.sched_setaffinity(0, {cpus[n % len(cpus)]}))

    def run(self, call: Callable[[int], T]) -> list[T]:
        """Return what `call(n)` gave for every vCPU n.

        Where calls fail the others are stopped, and the error of the one that failed first
        is raised: the rest only waited for it.
        """
        if not self._pools:
            return [call(0)]
        futures = [pool.submit(call, n) for n, pool in enumerate(self._pools)]
        try:
            done, running = wait(futures, return_when=FIRST_EXCEPTION)
        except BaseException:
            self._stop(futures)  # Ctrl-C: the guests would run on until their time limit
            raise
        if running:
            self._stop(list(running))
        failed = [future for future in futures if future in done and future.exception()]
        return [future.result() for future in failed or futures]

    def _stop(self, futures: Sequence[Future[T]]) -> None:
        """Send the watchdog's signal until every thread has left its guest."""
        while wait(futures, timeout=0.01).not_done:
            for ident in self._idents:
                signal.pthread_kill(ident, signal.SIGRTMIN + lib.WATCHDOG_SIGNAL_OFFSET)

    def close(self) -> None:
        """End the threads."""
        for pool in self._pools:
            pool.shutdown()
        self._pools = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
