"""How a kernel is asked to run: a table of variants, and what proves that it obeyed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from kvmharness.errors import UsageError

Parameters = Mapping[str, Mapping[str, str]]

# Two-dimensional paging, by vendor module.
PAGING = {"kvm_amd": "npt", "kvm_intel": "ept"}


class Module(msgspec.Struct, frozen=True):
    """A kernel module to load: its name, the file's name beside the job, its parameters."""

    name: str
    file: str
    parameters: dict[str, str]


@dataclass(frozen=True)
class Variant:
    """Parameters of kvm and of the vendor module, and options of the kernel command line.

    `paging` is two-dimensional paging (npt or ept), `tdp_mmu` KVM's parameter; None leaves
    either as the kernel has it.  `own` are parameters that one vendor's module has.
    """

    name: str
    paging: bool | None = None
    tdp_mmu: bool | None = None
    options: tuple[str, ...] = ()
    own: Mapping[str, str] = field(default_factory=dict, hash=False)

    def parameters(self, vendor: str) -> dict[str, dict[str, str]]:
        """Return what to load the modules with: module to parameter to value."""
        found: dict[str, dict[str, str]] = {"kvm": {}, vendor: {}}
        if self.tdp_mmu is not None:
            found["kvm"]["tdp_mmu"] = str(int(self.tdp_mmu))
        if self.paging is not None:
            found[vendor][PAGING[vendor]] = str(int(self.paging))
        found[vendor].update(self.own)
        return found

    def command_line(self, vendor: str) -> list[str]:
        """Return the kernel command line's part: a KVM that is built in reads it there."""
        given = [
            f"{module}.{name}={value}"
            for module, parameters in self.parameters(vendor).items()
            for name, value in parameters.items()
        ]
        return [*given, *self.options]


VARIANTS = {
    v.name: v
    for v in (
        Variant("default"),
        Variant("tdp", paging=True, tdp_mmu=True),
        Variant("legacy", paging=True, tdp_mmu=False),
        Variant("shadow", paging=False),
    )
}


class Option(NamedTuple):
    """What may follow a variant's name: words of the command line, the vendor's parameters."""

    words: tuple[str, ...] = ()
    own: Mapping[str, str] = MappingProxyType({})


# The vendor without such a parameter skips the variant and says so.
OPTIONS = {
    "mitigations=default": Option(),
    "mitigations=off": Option(words=("mitigations=off",)),
    "unrestricted_guest=0": Option(own=MappingProxyType({"unrestricted_guest": "0"})),
}


def parse(text: str) -> Variant:
    """Return the variant that `NAME[+OPTION]...` spells.  Raises UsageError."""
    name, *extra = text.split("+")
    if name in OPTIONS:
        name, extra = "default", [name, *extra]
    unknown = [part for part in extra if part not in OPTIONS]
    if name not in VARIANTS or unknown:
        raise UsageError(
            f"--variant {text!r}: unknown; there are: {', '.join(VARIANTS)}, each of them with "
            f"+{' or +'.join(OPTIONS)}"
        )
    chosen = VARIANTS[name]
    given = [part for part in dict.fromkeys(extra) if OPTIONS[part] != Option()]
    words = tuple(word for part in given for word in OPTIONS[part].words)
    own = {name: value for part in given for name, value in OPTIONS[part].own.items()}
    return Variant("+".join([name, *given]), chosen.paging, chosen.tdp_mmu, words, own)


def why_not_obeyed(wanted: Parameters, found: Parameters) -> str | None:
    """Compare parameters asked for with what the booted kernel's modules say of themselves.

    Returns why the variant is not what runs, None if it is.
    """
    names = {"1": "Y", "0": "N"}
    for module, parameters in wanted.items():
        for name, value in parameters.items():
            seen = found.get(module, {}).get(name)
            if seen is None:
                return f"{module} has no parameter {name} on this kernel"
            if names.get(seen, seen) != names.get(value, value):
                return f"{module}.{name}={value} was asked for, the kernel says {seen}"
    return None
