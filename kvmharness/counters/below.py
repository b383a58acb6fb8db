"""What the level below counts while this one measures: L0's counts, asked for by the mailbox.

This kernel is a guest of the lab's own monitor (guest.linux): it rings where an interval begins
and where it ends, which the monitor sees as any other exit, and finds the counts in the mailbox as
JSON.  `Counts` is the monitor's side.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from kvmharness.counters import mailbox
from kvmharness.counters.mailbox import Mailbox
from kvmharness.counters.source import Source, Watched
from kvmharness.model.counters import BELOW, BELOW_EXIT

# What begins an interval says what is counted in it: events, or exits by their reasons.
EVENTS, REASONS, END = b"\1", b"\2", b"\3"
PREFIXES = {EVENTS: BELOW, REASONS: BELOW_EXIT}
ABSENT = f"{BELOW}*"


class Watching(Watched, mailbox.Memory, Protocol):
    """A guest whose vCPUs are watched, and whose memory is at hand."""


class Below:
    """The counts of the level below, as a source of this one; each name begins with `l0.`.

    `kind` is EVENTS, or REASONS for exits by reason.
    """

    def __init__(self, kind: bytes = EVENTS, opened: Callable[[], Mailbox] = Mailbox) -> None:
        self.absent: dict[str, str] = {}
        self._kind = kind
        self._opened = opened
        self._mailbox: Mailbox | None = None

    def attach(self, guest: Watched) -> None:
        """Open the mailbox."""
        self.close()
        self.absent = {}
        try:
            self._mailbox = self._opened()
        except OSError as error:
            self.absent[ABSENT] = f"{error.filename}: {error.strerror}"

    def begin(self) -> None:
        """Tell the level below that an interval begins."""
        if self._mailbox:
            self._mailbox.tell(self._kind)

    def end(self) -> dict[str, int]:
        """Tell that it ends, and return what was counted below."""
        if self._mailbox is None:
            return {}
        self._mailbox.tell(END)
        told = json.loads(self._mailbox.answer())
        prefix = PREFIXES[self._kind]
        self.absent.update({prefix + name: why for name, why in told["absent"].items()})
        return {prefix + name: count for name, count in told["counts"].items()}

    def close(self) -> None:
        """Close the mailbox."""
        if self._mailbox:
            self._mailbox.close()
            self._mailbox = None


class Counts:
    """The monitor's side: counts what its guest causes, by the `sources` of each kind.

    `guest` is set once there is one.
    """

    def __init__(self, sources: Mapping[bytes, Sequence[Source]]) -> None:
        self.guest: Watching | None = None
        self._kinds = sources
        self._sources: Sequence[Source] = ()

    def told(self, word: bytes) -> None:
        """Begin or end an interval; any other word is none of ours."""
        if word in self._kinds and self.guest:
            self._sources = self._kinds[word]
            for source in self._sources:
                source.attach(self.guest)
            for source in self._sources:
                source.begin()
        elif word == END and self.guest:
            mailbox.put(self.guest, self._end())

    def _end(self) -> bytes:
        counts: dict[str, int] = {}
        absent: dict[str, str] = {}
        for source in reversed(self._sources):
            counts.update(source.end())
            absent.update(source.absent)
            source.close()
        return json.dumps({"counts": counts, "absent": absent}).encode()

    def close(self) -> None:
        """End an interval that its guest did not live to end."""
        for source in self._sources:
            source.close()
