"""The kernel's tracefs: where it is, which events it has, and instances of our own."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

TRACING = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
NOT_MOUNTED = "tracefs is not mounted: mount -t tracefs none /sys/kernel/tracing"


def owner() -> str:
    """Return what names this process in tracefs: pid namespace and pid."""
    return f"{_namespace()}_{os.getpid()}"


def abandoned(tag: str) -> bool:
    """Tell whether the process that an owner() tag names is gone (False if not ours to say)."""
    namespace, _, pid = tag.partition("_")
    return namespace == _namespace() and not Path("/proc", pid).exists()


def _namespace() -> str:
    try:
        return str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        return "0"


def tracing() -> Path | None:
    """Return where tracefs is mounted and readable, None where it is not."""
    return next((p for p in TRACING if os.access(p / "events", os.R_OK | os.X_OK)), None)


def has_tracepoint(spec: str) -> bool:
    """Tell whether this kernel has the tracepoint `system:name`."""
    root = tracing()
    return root is not None and (root / "events" / spec.replace(":", "/")).is_dir()


class Instance:
    """A trace buffer of our own; `folder` is None where there is none, and `failure` says why.

    The kernel makes thousands of files for an instance, so it is kept for a whole run.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.failure: str | None = None
        self.folder: Path | None = None
        root = root or tracing()
        if root is None:
            self.failure = NOT_MOUNTED
            return
        for left in (root / "instances").glob("kvmharness_*"):
            if abandoned(left.name.partition("_")[2]):
                with suppress(OSError):  # of a kvmharness that was killed
                    left.rmdir()
        folder = root / "instances" / f"kvmharness_{owner()}"
        try:
            folder.mkdir()
            self.folder = folder
        except OSError as error:
            self.failure = f"tracefs: {error.strerror}; run as root"

    def close(self) -> None:
        """Remove the instance."""
        if self.folder is not None:
            with suppress(OSError):
                self.folder.rmdir()
            self.folder = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class TextSource:
    """What an instance's trace says between two doorbells, as a counter source but for `attach`.

    `switch` is the file in `instance` that starts and stops it, `name` what `absent` calls all of
    it, `traced` what an error calls one line of it; `parse` counts in the trace's text.
    """

    def __init__(
        self,
        instance: Instance,
        switch: str,
        name: str,
        traced: str,
        parse: Callable[[str], Counter[str]],
    ) -> None:
        self.absent: dict[str, str] = {}
        self._instance = instance
        self._switch, self._name, self._traced, self._parse = switch, name, traced, parse

    def _folder(self) -> Path | None:
        """Return where to trace, None where that failed."""
        if self._instance.failure:
            self.absent[self._name] = self._instance.failure
        return None if self._name in self.absent else self._instance.folder

    def _write(self, name: str, text: str) -> None:
        folder = self._folder()
        if folder is not None:
            try:
                (folder / name).write_text(text)
            except OSError as error:
                self.absent[self._name] = f"tracefs: {name}: {error.strerror}"

    def begin(self) -> None:
        """Start tracing."""
        self._write(self._switch, "1")

    def end(self) -> dict[str, int]:
        """Stop and return how often each name came."""
        self._write(self._switch, "0")
        folder = self._folder()
        if folder is None:
            return {}
        lost = sum(
            int(found)
            for path in folder.glob("per_cpu/cpu*/stats")
            for found in re.findall(r"^overrun: (\d+)", path.read_text(), re.MULTILINE)
        )
        if lost:
            self.absent[self._name] = f"tracefs: {lost} {self._traced} overran the buffer"
            return {}
        return dict(self._parse((folder / "trace").read_text(errors="replace")))
