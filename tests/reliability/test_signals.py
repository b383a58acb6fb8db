"""Signals at any moment of a run: what was measured is there, and nothing else is left."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kvmharness.counters.tracefs import abandoned, tracing
from kvmharness.model import runfile
from tests.support.soak import SOAK, note, times

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(7200 if SOAK else 300)]

RUN = ["run", "long64/empty", "long64/cr0_wp", "--vms", "3", "--samples", "30"]
RUN += ["--iterations", "50", "--precision", "100"]
POLITE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Place:
    """A folder with the file of a run, and one for temporary files."""

    def __init__(self, folder: Path) -> None:
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.results = folder / "results"
        self.results.mkdir()
        self.file = self.results / "a.json"

    def start(self) -> subprocess.Popen[str]:
        """Start a run as soon as which it is loaded: what Python does before is its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "kvmharness", *RUN, "-o", str(self.file)],
            env={**os.environ, "TMPDIR": str(self.temporary)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def whole(self) -> float:
        """Let a run come to its end; return how many seconds it took."""
        begun = time.monotonic()
        with self.start() as running:
            _, said = running.communicate(timeout=120)
        assert running.returncode in (0, 3), said
        return time.monotonic() - begun

    def left(self) -> list[str]:
        """Return what a run left beside its results: temporary files, probes, children."""
        found = [str(p) for p in self.temporary.iterdir()]
        found += [str(p) for p in self.results.glob(".*")]
        root = tracing()
        control = root / "kprobe_events" if root else Path("/nonexistent")
        if control.exists():
            owners = [word.partition("/")[0] for word in control.read_text().split()]
            tags = [o.partition("kvmharness_")[2] for o in owners if "kvmharness_" in o]
            found += [tag for tag in tags if abandoned(tag)]
        return found + self.children()

    def children(self) -> list[str]:
        """Return the command lines of what still works for a run of ours, once it had time."""
        deadline = time.monotonic() + 20
        while True:
            found = []
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    words = path.read_bytes().decode(errors="replace")
                except OSError:
                    continue
                if str(self.temporary) in words:
                    found.append(words.replace("\0", " "))
            if not found or time.monotonic() > deadline:
                return found
            time.sleep(0.2)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def loaded(running: subprocess.Popen[str]) -> None:
    """Wait until a run has loaded the compiled core."""
    maps = Path(f"/proc/{running.pid}/maps")
    while running.poll() is None and "_core." not in maps.read_text():
        time.sleep(0.01)


def test_polite_signals_leave_what_was_measured_and_nothing_else(place: Place) -> None:
    took = place.whole()
    chance = random.Random(16)
    codes: dict[int, int] = {}
    for number in [*POLITE, *chance.choices(POLITE, k=times(0, 60))]:
        place.file.unlink()
        with place.start() as running:
            loaded(running)
            time.sleep(chance.uniform(0, took))
            running.send_signal(number)
            _, said = running.communicate(timeout=120)
        assert said == "", number
        codes[running.returncode] = codes.get(running.returncode, 0) + 1
        # All was done where it ended by the signal itself.
        assert running.returncode in (0, 3, 130, -number), number
        if place.file.exists():
            run = runfile.read(place.file)
            assert run.finished or running.returncode == 130
        assert place.left() == []
        place.file.touch()
    note("SIGINT, SIGTERM, SIGHUP at random moments", ended_by_code=codes, left_behind=0)


def test_a_run_that_was_stopped_for_a_while_goes_on(place: Place) -> None:
    chance = random.Random(16)
    for _ in range(times(1, 20)):
        with place.start() as running:
            loaded(running)
            for _ in range(3):
                time.sleep(chance.uniform(0, 0.3))
                running.send_signal(signal.SIGSTOP)
                time.sleep(0.1)
                running.send_signal(signal.SIGCONT)
            _, said = running.communicate(timeout=120)
        assert running.returncode in (0, 3), said
        assert runfile.read(place.file).finished
        assert place.left() == []


def test_kill_leaves_a_whole_file_and_the_next_run_sweeps_the_rest(place: Place) -> None:
    took = place.whole()
    first = place.file.read_bytes()
    chance = random.Random(16)
    dirty = 0
    number = times(3, 100)
    for _ in range(number):
        place.file.write_bytes(first)
        kept = set(place.results.glob("a.json~*"))
        with place.start() as running:
            time.sleep(chance.uniform(0, 1.2 * took))
            running.kill()
        run = runfile.read(place.file)
        # The one that was there, or a newer one, and then the former is kept.
        if place.file.read_bytes() != first:
            (new,) = set(place.results.glob("a.json~*")) - kept
            assert new.read_bytes() == first
            assert run.cases
        dirty += bool([*place.temporary.iterdir(), *place.results.glob(".*")])
    place.whole()
    assert place.left() == []
    note("kill -9 at random moments", kills=number, unreadable=0, left_before_the_next_run=dirty)
