"""Which guests, ops and parameters there are, and the cases made of them: plain data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from kvmharness.errors import UsageError


@dataclass(frozen=True)
class Op:
    """What a guest repeats; `guests` names those whose blob has it."""

    name: str
    guests: tuple[str, ...]
    about: str


@dataclass(frozen=True)
class Param:
    """A case's parameter; `values` are all it takes, the first one being the default."""

    name: str
    values: tuple[int, ...]
    guests: tuple[str, ...]
    about: str

    @property
    def default(self) -> int:
        return self.values[0]


GUESTS = ("real16", "long64")

OPS = (
    Op("empty", GUESTS, "the loop alone"),
    Op("cr0_wp", GUESTS, "one write of CR0 that flips WP"),
    Op("cpuid", GUESTS, "an exit that KVM handles itself (VMX and SVM always intercept CPUID)"),
    Op("pio", GUESTS, "an exit to user space and back"),
)

PARAMS = (
    Param("high", (0, 1), ("long64",), "1: run at a kernel-half address"),
    Param("irqchip", (1, 0), GUESTS, "0: no in-kernel interrupt controllers"),
)


@dataclass(frozen=True)
class Case:
    """A guest, an op and the parameters that are not at their defaults."""

    guest: str
    op: str
    params: dict[str, int] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        """The case as it is spelled everywhere, e.g. `long64/cr0_wp@irqchip=0`."""
        given = ",".join(f"{k}={v}" for k, v in self.params.items())
        return f"{self.guest}/{self.op}" + (f"@{given}" if given else "")

    @property
    def baseline(self) -> str:
        """The name of the `empty` case that this one is netted against."""
        return Case(self.guest, "empty", self.params).name

    def __getitem__(self, param: str) -> int:
        """Return a parameter's value, the default where none was given."""
        return self.params.get(param, next(p.default for p in PARAMS if p.name == param))


def _parse_params(text: str, pattern: str) -> dict[str, int]:
    given: dict[str, int] = {}
    for item in text.split(","):
        key, _, value = item.partition("=")
        param = next((p for p in PARAMS if p.name == key), None)
        if param is None:
            known = ", ".join(p.name for p in PARAMS)
            raise UsageError(f"case {pattern!r}: no parameter {key!r}; there are: {known}")
        if value not in {str(v) for v in param.values}:
            allowed = ", ".join(str(v) for v in param.values)
            raise UsageError(f"case {pattern!r}: {key} takes {allowed}, not {value!r}")
        given[key] = int(value)
    # In the table's order and without defaults, so that a case has one name.
    return {p.name: given[p.name] for p in PARAMS if given.get(p.name, p.default) != p.default}


def _fits(guest: str, params: Iterable[str]) -> bool:
    return all(guest in p.guests for p in PARAMS if p.name in params)


def select(patterns: Iterable[str]) -> list[Case]:
    """Return the cases that shell-style patterns such as `long64/*` or `*/cr0_wp@high=1` name.

    No pattern means every guest and op at the default parameters.  The order is the
    table's, each case once.  Raises UsageError for a pattern that names nothing.
    """
    cases: dict[str, Case] = {}
    for pattern in list(patterns) or ["*"]:
        names, _, text = pattern.partition("@")
        params = _parse_params(text, pattern) if text else {}
        found = [
            Case(guest, op.name, params)
            for guest in GUESTS
            for op in OPS
            if guest in op.guests
            and fnmatchcase(f"{guest}/{op.name}", names)
            and _fits(guest, params)
        ]
        if not found:
            raise UsageError(
                f"case {pattern!r}: matches nothing; `kvmharness run --list` shows what there is"
            )
        cases.update((case.name, case) for case in found)
    return list(cases.values())
