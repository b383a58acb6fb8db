"""Exits by reason, under the names that the kernel itself prints, from kvm:kvm_exit."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from kvmharness.counters.perf import PerfSource, perf_text

TRACEPOINT = "kvm:kvm_exit"
# Enough to see every reason of a loop, few enough to be read in no time.
MOST_OPS = 1000


def parse(script: str) -> Counter[str]:
    """Count the reasons in what `perf script -F trace` printed for kvm:kvm_exit."""
    return Counter(re.findall(r"\breason (\S+)", script))


class ExitReasons(PerfSource):
    """Records kvm:kvm_exit; end() returns how often each reason came."""

    def __init__(self, command: str = "perf") -> None:
        super().__init__(["record", "-q", "-e", TRACEPOINT], command)

    def collect(self, output: Path) -> dict[str, int]:
        """Have perf print the events and count their reasons."""
        script = ["script", "-i", str(output), "-F", "trace"]
        return dict(parse(perf_text(script, self._command)))
