"""QEMU's monitor: commands and events as JSON over a socket (docs/interop/qmp-spec.txt)."""

from __future__ import annotations

import json
import socket
from typing import Any, Self

# QEMU answers within milliseconds, but on a busy machine it may have to wait for a CPU.
ANSWER_S = 60.0


class MonitorError(Exception):
    """QEMU refused a command, or did not answer; the message says what it said."""


class Ended(MonitorError):
    """QEMU is gone: why, it has said elsewhere."""


class Monitor:
    """Our end of a QEMU's monitor; `theirs` is the descriptor of the other one."""

    def __init__(self) -> None:
        self._ours, self._other = socket.socketpair()
        self._ours.settimeout(ANSWER_S)
        self._rest = b""
        self._events: list[str] = []

    @property
    def theirs(self) -> int:
        return self._other.fileno()

    def greet(self) -> None:
        """Begin, once QEMU runs.  Raises MonitorError."""
        self._other.close()  # or its end would never be seen
        self._next()
        self.do("qmp_capabilities")

    def _receive(self) -> bool:
        """Take what has come; return False where nothing has within the time limit."""
        try:
            data = self._ours.recv(65536)
        except (TimeoutError, BlockingIOError):
            return False
        except OSError as error:
            raise Ended(f"its monitor: {error.strerror}") from None
        if not data:
            raise Ended("it ended")
        self._rest += data
        return True

    def _next(self) -> dict[str, Any]:
        """Return the next object that QEMU sends."""
        while b"\n" not in self._rest:
            if not self._receive():
                raise MonitorError(f"no answer within {ANSWER_S:g} s")
        line, _, self._rest = self._rest.partition(b"\n")
        said: dict[str, Any] = json.loads(line)
        return said

    def do(self, command: str, descriptor: int | None = None, **arguments: Any) -> Any:
        """Return what a command returns; QEMU is sent `descriptor`.  Raises MonitorError."""
        text = json.dumps({"execute": command, "arguments": arguments}).encode()
        try:
            socket.send_fds(self._ours, [text], [] if descriptor is None else [descriptor])
        except OSError as error:
            raise Ended(f"{command}: {error.strerror}") from None
        while True:
            said = self._next()
            if "event" in said:
                self._events.append(said["event"])
            elif "error" in said:
                raise MonitorError(f"{command}: {said['error']['desc']}")
            else:
                return said["return"]

    def heard(self, event: str) -> bool:
        """Tell whether an event has come so far, without waiting."""
        self._ours.setblocking(False)
        try:
            while self._receive():
                pass
        except Ended:  # what it said before counts all the same
            pass
        finally:
            self._ours.settimeout(ANSWER_S)
        while b"\n" in self._rest:
            self._events.append(self._next().get("event", ""))
        return event in self._events

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.close()
        self._other.close()
