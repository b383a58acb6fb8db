"""Where the time of an op goes inside the kernel: perf record over the measured region."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from kvmharness.counters.perf import PerfError, PerfSource, perf_text

# The better clock first: a CPU that lends no cycle counter still has the timer.
CLOCKS = {"cycles:kH": "cycles", "cpu-clock:k": "ns"}
LINE = re.compile(r"^\s*(\d+)\s+[0-9a-f]+\s+(.*?)\s*$", re.MULTILINE)


def clock() -> str:
    """Return the first of CLOCKS that this machine counts.  Raises PerfError if none."""
    refused: PerfError | None = None
    for event in CLOCKS:
        try:
            text = perf_text(["stat", "-x,", "-o", "/dev/stdout", "-e", event, "--", "true"])
        except PerfError as error:
            refused = error
            continue
        if "not supported" not in text:
            return event
    raise refused or PerfError("perf samples neither cycles nor cpu-clock in the kernel here")


def parse(script: str) -> Counter[str]:
    """Add up the periods by symbol in what `perf script -F period,ip,sym` printed."""
    total: Counter[str] = Counter()
    for period, symbol in LINE.findall(script):
        total[symbol] += int(period)
    return total


class Profile(PerfSource):
    """Samples the kernel; end() returns the clock's units spent by symbol.

    `data` is perf.data then, for the user's own tools.
    """

    data = b""

    def __init__(self, event: str, frequency: int) -> None:
        super().__init__(["record", "-q", "-F", str(frequency), "-e", event], [event])

    def collect(self, output: Path) -> dict[str, int]:
        """Have perf resolve the symbols and add them up."""
        self.data = output.read_bytes()
        script = perf_text(["script", "-i", str(output), "-F", "period,ip,sym"])
        return dict(parse(script))


class KvmStat(PerfSource):
    """perf's own `perf kvm stat` over the measured region; `report` is its text."""

    report = ""

    def __init__(self) -> None:
        super().__init__(["kvm", "stat", "record"], ["kvm stat"])

    def collect(self, output: Path) -> dict[str, int]:
        """Have perf write its report."""
        self.report = perf_text(["kvm", "-i", str(output), "stat", "report"])
        return {}
