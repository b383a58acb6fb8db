"""What a kernel is configured as: the lab's own choice (lab.config), or a user's with its needs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from kvmharness import inputs
from kvmharness.errors import UsageError

_LINE = re.compile(r"(\w+)=(\S+)\s*(?:# (?:(must|shows): )?(.+))?")
_SET = re.compile(r"CONFIG_(\w+)=(.*)")
_UNSET = re.compile(r"# CONFIG_(\w+) is not set")
# A distribution's has 300 kB.
MOST_BYTES = 16 << 20
# What kbuild calls the compiler, from 5.8 on.
COMPILER = "CC_VERSION_TEXT"
# What a distribution signs, compresses or names its kernels by: its keys are not here, and none
# of it moves a figure.
FOREIGN = {
    "SYSTEM_TRUSTED_KEYS": '""',
    "SYSTEM_REVOCATION_KEYS": '""',
    "MODULE_SIG": "n",
    "MODULE_COMPRESS": "n",
    "MODULE_COMPRESS_NONE": "y",
    "LOCALVERSION": '""',
    "LOCALVERSION_AUTO": "n",
    "BUILD_SALT": '""',
    "WERROR": "n",
}


@dataclass(frozen=True)
class Option:
    """An option of the lab's: its value, and what is lost without it.

    `weight` is "must" (no lab boots it), "shows" (something is not measured) or "".
    """

    name: str
    value: str
    weight: str
    reason: str


def parse(text: str) -> list[Option]:
    """Parse lab.config: `OPTION=VALUE  # [must: |shows: ]reason` a line."""
    found = []
    for line in text.splitlines():
        bare = line.strip()
        if not bare or bare.startswith("#"):
            continue
        match = _LINE.fullmatch(bare)
        if match is None:
            raise ValueError(f"lab.config: {line!r} is no option")
        name, value, weight, reason = match.groups(default="")
        found.append(Option(name, value, weight, reason))
    return found


def lab_text() -> str:
    """Return the lab's options as they are shipped, for `parse`."""
    return (files("kvmharness.kernel") / "lab.config").read_text()


def text_of(values: Mapping[str, str]) -> str:
    """Return options as kconfig reads them."""
    lines = [
        f"# CONFIG_{name} is not set" if value == "n" else f"CONFIG_{name}={value}"
        for name, value in values.items()
    ]
    return "".join(f"{line}\n" for line in lines)


def values(text: str) -> dict[str, str]:
    """Read a .config: option to value, "n" for one that is not set."""
    found = {}
    for line in text.splitlines():
        if match := _SET.fullmatch(line):
            found[match[1]] = match[2]
        elif match := _UNSET.fullmatch(line):
            found[match[1]] = "n"
    return found


def read(path: Path) -> dict[str, str]:
    """Read a user's --config.  Raises UsageError where it cannot be read or is none."""
    try:
        found = values(inputs.read(path, MOST_BYTES).decode())
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"--config {path}: {why}; name a kernel's .config") from None
    if not found:
        raise UsageError(f"--config {path}: no CONFIG_ line in it; name a kernel's .config")
    return found


def _agrees(wanted: str, found: str) -> bool:
    """Tell whether an option is as wanted: what may be a module may be built in too."""
    return found == wanted or {wanted, found} == {"y", "m"}


@dataclass(frozen=True)
class Merged:
    """A user's configuration with the lab's needs: what is set, and what that changed.

    `changed` holds `OPTION=VALUE (was VALUE)`.
    """

    values: dict[str, str]
    changed: list[str]


def merge(base: Mapping[str, str], options: Sequence[Option]) -> Merged:
    """Merge what no lab can do without into a user's configuration, and nothing else."""
    wanted = {option.name: option.value for option in options if option.weight == "must"}
    merged, changed = dict(base), []
    for name, value in wanted.items():
        was = merged.get(name, "n")
        if not _agrees(value, was):
            merged[name] = value
            changed.append(f"{name}={value} (was {was})")
    for name, value in FOREIGN.items():
        if merged.get(name, value) != value:
            changed.append(f"{name}={value} (was {merged[name]})")
            merged[name] = value
    return Merged(merged, changed)


def missing(options: Iterable[Option], got: Mapping[str, str], weight: str) -> list[str]:
    """Return `OPTION (reason)` of those of this weight that a tree's .config is without."""
    return [
        f"{option.name} ({option.reason})"
        for option in options
        if option.weight == weight and not _agrees(option.value, got.get(option.name, "n"))
    ]


def asked(got: Mapping[str, str] | None) -> dict[str, str] | None:
    """Return the options that the lab asks for, and the compiler, of all that a kernel has set.

    Not the mitigations: what is in effect is recorded of the CPU.  `got` names them as a .config
    does, CONFIG_KVM; None where it was not found.
    """
    if got is None:
        return None
    names = [option.name for option in parse(lab_text()) if option.reason] + [COMPILER]
    return {name: got[f"CONFIG_{name}"] for name in names if f"CONFIG_{name}" in got}
