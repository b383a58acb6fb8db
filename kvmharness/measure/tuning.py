"""Set the machine as doctor advises for measuring, and set it back to what it was.

What was there is written down first, in a file that is gone with the next boot, as the settings
are.  Only the settings of this table are ever written, whatever that file says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from kvmharness import files
from kvmharness.errors import HarnessError, Unavailable, UsageError

STATE = Path("run/kvmharness/tune.json")
CPUS = "sys/devices/system/cpu"


@dataclass(frozen=True)
class Setting:
    """A setting of the kernel's: the files that hold it, as a glob below the root; what to set."""

    name: str
    files: str
    value: str
    why: str


SETTINGS = (
    Setting(
        "frequency governor",
        f"{CPUS}/cpu[0-9]*/cpufreq/scaling_governor",
        "performance",
        "figures follow the frequency",
    ),
    Setting(
        "turbo",
        f"{CPUS}/intel_pstate/no_turbo",
        "1",
        "the frequency depends on heat and on what the other CPUs do",
    ),
    Setting(
        "turbo",
        f"{CPUS}/cpufreq/boost",
        "0",
        "the frequency depends on heat and on what the other CPUs do",
    ),
    Setting(
        "perf_event_paranoid",
        "proc/sys/kernel/perf_event_paranoid",
        "-1",
        "users may count KVM's events",
    ),
)


class Change(msgspec.Struct, frozen=True):
    """A file below the root, what it held, and what was set."""

    path: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"/{self.path}: {self.before.strip()} → {self.after.strip()}"


class State(msgspec.Struct):
    """What was changed since this machine was booted."""

    changes: list[Change]


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None


def _state(root: Path) -> State:
    """Read what was changed; nothing where nothing was.  Raises UsageError."""
    path = root / STATE
    try:
        return msgspec.json.decode(path.read_bytes(), type=State)
    except FileNotFoundError:
        return State([])
    except OSError as error:
        raise UsageError(f"read {path}: {error.strerror}; run as root") from None
    except (msgspec.MsgspecError, ValueError) as error:
        raise UsageError(
            f"read {path}: {error}; take it away, and reboot to set all back"
        ) from None


def planned(root: Path = Path("/")) -> list[tuple[Setting, Change]]:
    """Return what is not as it should be: a change for each file, none where there is no such."""
    found = []
    for setting in SETTINGS:
        for path in sorted(root.glob(setting.files)):
            before = _read(path)
            if before is not None and before.strip() != setting.value:
                name = str(path.relative_to(root))
                found.append((setting, Change(name, before, f"{setting.value}\n")))
    return found


def apply(root: Path = Path("/")) -> Iterator[Change]:
    """Change what is not as it should be, and yield each change once it is made.

    Raises Unavailable where this user may not, HarnessError for what the kernel refused.
    """
    changes = [change for _, change in planned(root)]
    if not changes:
        return
    kept = {change.path: change for change in _state(root).changes}
    # Who tunes twice wants back what was there before the first time.
    kept |= {change.path: change for change in changes if change.path not in kept}
    path = root / STATE
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"make {path.parent}: {error.strerror}; run as root") from None
    try:
        files.write_whole(path, msgspec.json.encode(State(list(kept.values()))))
    except UsageError as error:
        raise Unavailable(f"{str(error).rpartition('; ')[0]}; run as root") from None
    yield from _made(root, changes)


def _made(root: Path, changes: list[Change]) -> Iterator[Change]:
    """Make changes, all that can be made, and yield these.

    Raises Unavailable where this user may not, HarnessError for those that the kernel refused.
    """
    refused: list[str] = []
    for change in changes:
        try:
            (root / change.path).write_text(change.after)
            yield change
        except PermissionError as error:
            raise Unavailable(f"set /{change.path}: {error.strerror}; run as root") from None
        except OSError as error:
            refused.append(f"/{change.path}: {error.strerror}")
    if refused:
        raise HarnessError(f"set {', '.join(refused)}; set it by hand, or do without")


def revert(root: Path = Path("/")) -> Iterator[tuple[Change, str | None]]:
    """Set back what was changed; yield each, and why it was left alone, None where it was not.

    Raises UsageError for a state that is none, Unavailable where this user may not, HarnessError
    for what the kernel refused.
    """
    known = {path for setting in SETTINGS for path in root.glob(setting.files)}
    back = []
    for change in _state(root).changes:
        now = _read(root / change.path)
        if root / change.path not in known or now is None:
            yield change, "it is no setting of this machine"
        elif now.strip() == change.before.strip():
            yield change, "it is set back already"
        elif now.strip() != change.after.strip():
            yield change, f"somebody has set it to {now.strip()} since"
        else:
            back.append(Change(change.path, change.after, change.before))
    for change in _made(root, back):
        yield change, None
    (root / STATE).unlink(missing_ok=True)
