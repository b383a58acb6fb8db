"""Jobs that are done elsewhere, by Dask's workers: each gets the kernel and the capsule with it.

What a job needs travels as what a task depends on, which the scheduler itself remembers: a worker
that dies takes nothing along, its job is run elsewhere.  A worker needs kvmharness, the emulators
and the tools of the lab, no network but to the scheduler, and no kernel.
"""

from __future__ import annotations

import hashlib
import socket
import warnings
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, Self
from weakref import WeakKeyDictionary

from kvmharness import cache
from kvmharness.errors import HarnessError, LabLost, UsageError
from kvmharness.kernel import config, modules
from kvmharness.kernel.resolve import Kernel
from kvmharness.lab import ledger, machines, pool
from kvmharness.lab.capsule import Part
from kvmharness.lab.ledger import Answer
from kvmharness.lab.pool import GONE, Order

INSTALL = "pip install 'kvmharness[cluster]'"
CONNECT_S = 20.0
# Kernels that are kept where they were sent to: the ways of one follow each other.
KEPT = 4

Files = Mapping[str, bytes]


def _boot(release: str) -> str:
    return f"boot/vmlinuz-{release}"


def _library(release: str) -> str:
    return f"lib/modules/{release}"


def files_of(kernel: Kernel, vendor: str) -> dict[str, bytes]:
    """Return what a machine with this vendor's KVM needs of a kernel, by the place of each file."""
    found = {_boot(kernel.release): kernel.image}
    asked = config.file_of(kernel)
    if asked:
        found[f"boot/config-{kernel.release}"] = asked
    if kernel.modules:
        here = _library(kernel.release)
        lists = ["modules.dep", "modules.builtin"]
        dep = kernel.modules / lists[0]
        order = modules.load_order(dep.read_text(), vendor) if dep.is_file() else []
        for name in (*lists, *order):
            if (kernel.modules / name).is_file():
                found[f"{here}/{name}"] = kernel.modules / name
    return {place: path.read_bytes() for place, path in found.items()}


def digest_of(files: Files) -> str:
    """Return what stands for these files at these places."""
    rows = [f"{place} {pool.digest(files[place])}" for place in sorted(files)]
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def settle(files: Files) -> Path:
    """Write files into the cache, once, and return their folder.  Raises UsageError."""

    def make(into: Path) -> None:
        for place, data in files.items():
            path = into / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    try:
        return cache.made_once(cache.folder("freight") / digest_of(files)[:32], make)
    except OSError as error:
        raise UsageError(f"cache: {error.strerror}; make room") from None


def _settled(order: Order, kernel: Files, parts: Mapping[str, bytes]) -> Order:
    """Return the order with paths of this machine's."""
    root = settle(kernel)
    held = order.target.kernel
    library = root / _library(held.release)
    here = replace(
        held,
        image=root / _boot(held.release),
        modules=library if library.is_dir() else None,
    )
    capsule = [Part(settle({"part.cpio": data}) / "part.cpio", sha) for sha, data in parts.items()]
    return Order(
        order.job,
        replace(order.target, kernel=here),
        replace(order.plan, capsule=capsule),
    )


def perform(order: Order, kernel: Files, *parts: bytes) -> Answer:
    """Do a job on the worker that this runs on; `parts` are the bytes of the plan's capsule."""
    from distributed import get_worker  # noqa: PLC0415 - nobody else needs it

    where = str(get_worker().address)
    named = [part.sha256 for part in order.plan.capsule or ()]
    try:
        machines.check_tools([order.target.machine])
        here = _settled(order, kernel, dict(zip(named, parts, strict=True)))
        job = ledger.name_of(here.target, here.plan, here.plan.capsule or ())
    except HarnessError as error:
        return Answer(order.job, "lost", f"{where}: {error}", where=where)
    if job != order.job:  # told by the client, which knows of the others
        return Answer(job, "lost", where=where)
    return pool.perform(here, where=where)


def _carry(data: Any) -> Any:
    """Return what is sent: as a task's result it is kept, and made again where it was lost."""
    return data


def _reach(address: str) -> None:
    """Raise OSError or ValueError where nobody listens: Dask would say so in forty lines."""
    from distributed.comm.addressing import parse_address, parse_host_port  # noqa: PLC0415 - optional

    _, where = parse_address(address)
    socket.create_connection(parse_host_port(where, default_port=8786), CONNECT_S).close()


class Cluster:
    """Has orders carried out by the workers of a Dask scheduler."""

    def __init__(self, address: str) -> None:
        """Connect.  Raises UsageError where that cannot be."""
        try:
            import distributed  # noqa: PLC0415 - optional
        except ImportError:
            raise UsageError(f"--scheduler: dask.distributed is not here; {INSTALL}") from None
        connect: Any = distributed.Client
        try:
            _reach(address)
            self._client = connect(
                address, timeout=CONNECT_S, set_as_default=False, name="kvmharness"
            )
        except (OSError, ValueError, TypeError) as error:
            why = getattr(error, "strerror", None) or str(error) or "no answer"
            raise UsageError(
                f"--scheduler {address}: {why}; start one by `dask scheduler`"
            ) from None
        self._executor = self._client.get_executor(pure=False)
        self._others: WeakKeyDictionary[Future[Answer], frozenset[str]] = WeakKeyDictionary()
        self._capsule: dict[str, Any] = {}
        self._kernels: dict[tuple[Kernel, str], Any] = {}

    def _workers(self) -> dict[str, int]:
        """Return how many jobs each worker does at once.  Raises LabLost."""
        try:
            found: dict[str, int] = self._client.nthreads()
        except OSError:
            raise LabLost(GONE) from None
        return found

    def width(self) -> int:
        return max(1, sum(self._workers().values()))

    def submit(self, order: Order, avoid: str = "") -> Future[Answer]:
        """Have a job done, by another worker than `avoid` where there is another.

        Raises LabLost where the scheduler is gone, UsageError for a job that is no other machine's.
        """
        if order.target.machine.clock != "insn":
            raise UsageError("--scheduler: time is each machine's own; use --machine tcg-svm")
        kernel = self._kernel(order.target.kernel, order.target.machine.vendor)
        parts = [self._part(part) for part in order.plan.capsule or ()]
        others = [worker for worker in self._workers() if avoid and worker != avoid]
        # They alone: of a job that others may do too, an idle `avoid` would relieve a busy one.
        where = {"workers": others} if others else {}
        found: Future[Answer] = self._executor.submit(perform, order, kernel, *parts, **where)
        if others:
            self._others[found] = frozenset(others)
        return found

    def stranded(self, future: Future[Answer]) -> bool:
        """Tell whether a job waits for workers of which none is left.  Raises LabLost."""
        others = self._others.get(future)
        return others is not None and others.isdisjoint(self._workers())

    def _send(self, data: Any, name: str) -> Any:
        with warnings.catch_warnings():
            # It is large, and must be remembered by the scheduler all the same.
            warnings.filterwarnings("ignore", message="Sending large graph")
            return self._client.submit(_carry, data, key=f"kvmharness-{name}", pure=True)

    def _part(self, part: Part) -> Any:
        if part.sha256 not in self._capsule:
            self._capsule[part.sha256] = self._send(part.path.read_bytes(), part.sha256)
        return self._capsule[part.sha256]

    def _kernel(self, kernel: Kernel, vendor: str) -> Any:
        key = kernel, vendor
        if key not in self._kernels:
            while len(self._kernels) >= KEPT:  # those that a job waits for stay
                del self._kernels[next(iter(self._kernels))]
            files = files_of(kernel, vendor)
            self._kernels[key] = self._send(files, digest_of(files))
        return self._kernels[key]

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
