"""KVM's own statistics, per VM and vCPU, by KVM's own names with the prefix `kvm.`.

From the binary statistics file descriptors (KVM API 4.133; Linux 5.14), else from debugfs.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path

from kvmharness.counters.source import Watched
from kvmharness.errors import KvmError
from kvmharness.kvm.fds import Vcpu, Vm
from kvmharness.kvm.raw import ffi, lib, new
from kvmharness.model.counters import KVM_PREFIX

DEBUGFS = Path("/sys/kernel/debug/kvm")
# debugfs does not say which of its values are counts: these, before 5.14, are not.
NO_COUNTS = frozenset(
    "guest_mode largepages lpages max_mmu_page_hash_collisions mmu_unsync "
    "nx_largepages_splitted nx_lpage_splits".split()
)
_U64 = 8


@dataclass(frozen=True)
class _Layout:
    """Where in a statistics file the cumulative counts lie: name to offset in the data."""

    data_offset: int
    data_size: int
    offsets: dict[str, int]


def _read_layout(fd: int) -> _Layout:
    header = new("struct kvm_stats_header *")
    size_of_header = ffi.sizeof(header[0])
    ffi.memmove(header, os.pread(fd, size_of_header, 0), size_of_header)
    stride = ffi.sizeof("struct kvm_stats_desc") + header.name_size
    raw = os.pread(fd, stride * header.num_desc, header.desc_offset)
    offsets: dict[str, int] = {}
    size = 0
    descriptor = new("struct kvm_stats_desc *")
    for at in range(0, len(raw), stride):
        ffi.memmove(descriptor, raw[at:], ffi.sizeof(descriptor[0]))
        size = max(size, descriptor.offset + _U64 * descriptor.size)
        if descriptor.flags & lib.KVM_STATS_TYPE_MASK == lib.KVM_STATS_TYPE_CUMULATIVE:
            name = raw[at + ffi.sizeof("struct kvm_stats_desc") : at + stride]
            offsets[name.split(b"\0")[0].decode()] = descriptor.offset
    return _Layout(header.data_offset, size, offsets)


class StatsFd:
    """Counts of one statistics file descriptor, which it owns."""

    # A layout is the same for every VM of one kernel, so it is parsed once.
    _layouts: dict[type, _Layout] = {}  # noqa: RUF012 - a cache shared on purpose

    def __init__(self, owner: Vm | Vcpu) -> None:
        self._fd = owner.get_stats_fd()
        if type(owner) not in self._layouts:
            self._layouts[type(owner)] = _read_layout(self._fd)
        self._layout = self._layouts[type(owner)]

    def read(self) -> dict[str, int]:
        """Return every cumulative count by KVM's name."""
        layout = self._layout
        data = memoryview(os.pread(self._fd, layout.data_size, layout.data_offset)).cast("Q")
        return {name: data[offset // _U64] for name, offset in layout.offsets.items()}

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)


class Debugfs:
    """The same counts from debugfs, for kernels before 5.14.

    The folder is named by the id of the thread that created the VM and by the VM's file
    descriptor, and the counts are sums over the VM's vCPUs.  Raises OSError where it is
    not there or not readable.
    """

    def __init__(self, vm: Vm, root: Path = DEBUGFS) -> None:
        self._folder = root / f"{threading.get_native_id()}-{vm.fd}"
        self.read()

    def read(self) -> dict[str, int]:
        """Return every count of the folder by KVM's name."""
        counts = {}
        for path in self._folder.iterdir():
            if path.is_file():
                text = path.read_text().strip()
                # histograms and names are no numbers
                if text.isdigit() and path.name not in NO_COUNTS:
                    counts[path.name] = int(text)
        return counts

    def close(self) -> None:
        """Nothing is held open."""


class KvmStats:
    """The statistics of one VM and its vCPUs added up, as a counter source."""

    def __init__(self) -> None:
        self.absent: dict[str, str] = {}
        self._readers: list[StatsFd | Debugfs] = []
        self._before: dict[str, int] = {}

    def attach(self, guest: Watched) -> None:
        """Open the statistics of this guest's VM and vCPUs."""
        self.close()
        self.absent = {}
        try:
            self._readers.append(StatsFd(guest.vm))
            for vcpu in guest.vcpus:
                self._readers.append(StatsFd(vcpu))
            return
        except KvmError as error:
            cause = str(error)
            self.close()
        try:
            self._readers = [Debugfs(guest.vm)]
        except OSError as error:
            self.absent[f"{KVM_PREFIX}*"] = f"{cause}; {DEBUGFS}: {error.strerror}"

    def _read(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for reader in self._readers:
            for name, value in reader.read().items():
                counts[KVM_PREFIX + name] = counts.get(KVM_PREFIX + name, 0) + value
        return counts

    def begin(self) -> None:
        """Take the counts at the begin doorbell."""
        self._before = self._read()

    def end(self) -> dict[str, int]:
        """Return how far each count has come since begin()."""
        return {name: value - self._before.get(name, 0) for name, value in self._read().items()}

    def close(self) -> None:
        """Close what was opened."""
        while self._readers:
            self._readers.pop().close()
