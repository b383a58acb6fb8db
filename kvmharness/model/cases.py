"""Which CPU modes, ops and parameters there are, and the cases made of them: plain data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from kvmharness.errors import UsageError

# Past this a run is a slip: at a third of a second a case it would count for an hour.
MOST_CASES = 10_000

# Ranks of ops: the toggle that this is about, those of other role bits, writes that change no
# role, what shows that nothing else has changed, and the loop.
WP, ROLE, NO_ROLE, CONTROL, LOOP = range(5)


@dataclass(frozen=True)
class Op:
    """What a guest repeats; `modes` names those whose blob has it.

    `needs` is the feature (feasible.FEATURES) without which the op is skipped.  `rank` says how
    much a change of its cost matters, 0 the most: who sums a comparison up begins there.
    """

    name: str
    modes: tuple[str, ...]
    about: str
    needs: str | None = None
    rank: int = CONTROL


@dataclass(frozen=True)
class Param:
    """A case's parameter; `values` are all it takes, the first one being the default.

    `ops` names those that take it, None: every one.
    """

    name: str
    values: Sequence[int]
    modes: tuple[str, ...]
    about: str
    ops: tuple[str, ...] | None = None

    def fits(self, mode: str, op: str) -> bool:
        """Tell whether a case of this mode and op takes it."""
        return mode in self.modes and (self.ops is None or op in self.ops)

    @property
    def default(self) -> int:
        return self.values[0]

    @property
    def takes(self) -> str:
        """Say in words which values there are."""
        if isinstance(self.values, range):
            return f"{self.values[0]} to {self.values[-1]}"
        return " or ".join(str(v) for v in self.values)


MODES = ("real16", "flat32", "prot32", "pae32", "long64")
PAGED = ("prot32", "pae32", "long64")
FLAT = tuple(m for m in MODES if m != "real16")
LONG = ("long64",)

OPS = (
    Op("empty", MODES, "the loop alone", rank=LOOP),
    Op("cr0_wp", MODES, "one write of CR0 that flips WP", rank=WP),
    Op("cr0_read", MODES, "one read of CR0"),
    Op("cr0_ts", MODES, "one write of CR0 that flips TS, which is in no role", rank=NO_ROLE),
    Op("cr4_pge", MODES, "one write of CR4 that flips PGE: a TLB flush", "pge", rank=NO_ROLE),
    Op("cr4_smep", MODES, "one write of CR4 that flips SMEP, a role bit", "smep", rank=ROLE),
    Op("cr4_smap", MODES, "one write of CR4 that flips SMAP, a role bit", "smap", rank=ROLE),
    Op("cr4_pke", MODES, "one write of CR4 that flips PKE, a role bit", "pku", rank=ROLE),
    Op("efer_nx", MODES, "one WRMSR of EFER that flips NXE, a role bit", "nx", rank=ROLE),
    Op("cr3_same", PAGED, "one write of CR3 with the value it has", rank=NO_ROLE),
    Op("cr3_switch", PAGED, "one write of CR3 with the other one of two roots", rank=NO_ROLE),
    Op("cr4_cet", PAGED, "one write of CR4 that flips CET", "cet", rank=NO_ROLE),
    Op(
        "wx",
        PAGED,
        "the W^X window: WP off, a write to a read-only page, WP on (two toggles)",
        rank=ROLE,
    ),
    Op(
        "wx_cet",
        PAGED,
        "the window with CR4.CET cleared around it, which CET demands",
        "cet",
        rank=ROLE,
    ),
    Op("syscall", LONG, "@work system calls of user mode: SYSCALL, SYSRET"),
    Op("protected_syscall", LONG, "the same behind one W^X window", rank=ROLE),
    Op("fault", LONG, "@work page faults, each mapped by its handler, and unmapped"),
    Op("protected_fault", LONG, "the same behind one W^X window", rank=ROLE),
    Op("cpuid", MODES, "an exit that KVM handles itself (VMX and SVM always intercept CPUID)"),
    Op("hypercall", MODES, "a hypercall that KVM does not know, handled in the kernel"),
    Op("pio", MODES, "an exit to user space and back"),
)

# Those that open a W^X window: a sample's last iteration writes 1 through it.
WINDOW_OPS = ("wx", "wx_cet", "protected_syscall", "protected_fault")
# Work of a kernel, and the op that does the same with one protected write before each portion.
PROTECTED = {"syscall": "protected_syscall", "fault": "protected_fault"}
WORK_OPS = (*PROTECTED, *PROTECTED.values())

# What a run without a pattern measures: the toggle and its controls, unpaged and paged.
DEFAULT = [
    f"{guest}/{op}" for guest in ("real16", "long64") for op in ("empty", "cr0_wp", "cpuid", "pio")
]

PARAMS = (
    Param("high", (0, 1), ("long64",), "1: run at a kernel-half address"),
    Param("la57", (0, 1), ("long64",), "1: 5-level paging"),
    Param("pcid", (0, 1), ("long64",), "1: CR4.PCIDE set, each root with a PCID of its own"),
    Param("pages", range(0, 4097), FLAT, "pages that the guest touches after each op"),
    Param("huge", (0, 1), ("long64",), "1: those pages are 2 MiB, on the host too"),
    Param("vcpus", range(1, 257), FLAT, "vCPUs of one VM doing it at once"),
    Param("slots", range(1, 513), MODES, "memslots of the VM"),
    Param("irqchip", (1, 0), MODES, "0: no in-kernel interrupt controllers"),
    Param("work", range(1, 1_000_001), LONG, "pieces of work between two windows", WORK_OPS),
)


@dataclass(frozen=True)
class Case:
    """A CPU mode, an op and the parameters that are not at their defaults."""

    mode: str
    op: str
    params: dict[str, int] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        """The case as it is spelled everywhere, e.g. `long64/cr0_wp@irqchip=0`."""
        given = ",".join(f"{k}={v}" for k, v in self.params.items())
        return f"{self.mode}/{self.op}" + (f"@{given}" if given else "")

    @property
    def baseline(self) -> str:
        """The name of the `empty` case that this one is netted against."""
        taken = {p.name for p in PARAMS if p.fits(self.mode, "empty")}
        return Case(self.mode, "empty", {k: v for k, v in self.params.items() if k in taken}).name

    @property
    def order(self) -> tuple[bool, int, int, int]:
        """Sort by how much a change of the cost matters, the most first.

        Guests that page come first, as no others run for long; then the op's rank, the widest
        mode, and the case without parameters.
        """
        rank = next((op.rank for op in OPS if op.name == self.op), LOOP)
        width = MODES.index(self.mode) if self.mode in MODES else -1
        return self.mode not in PAGED, rank, -width, len(self.params)

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
        # Nothing takes a number of ten digits, and int() refuses some thousands of them.
        if not value.isdecimal() or len(value) > 9 or int(value) not in param.values:
            given_value = value[:20]
            raise UsageError(
                f"case {pattern[:60]!r}: {key} takes {param.takes}, not {given_value!r}"
            )
        given[key] = int(value)
    # In the table's order and without defaults, so that a case has one name.
    return {p.name: given[p.name] for p in PARAMS if given.get(p.name, p.default) != p.default}


def _fits(mode: str, op: str, params: Iterable[str]) -> bool:
    return all(p.fits(mode, op) for p in PARAMS if p.name in params)


def _why_nothing(names: str, params: Iterable[str]) -> str:
    """Say why a pattern names no case, and what to write."""
    if not names:
        return "names no case before the @; put '*' there for all"
    found = [(m, o.name) for o in OPS for m in o.modes if fnmatchcase(f"{m}/{o.name}", names)]
    modes, ops = {mode for mode, _ in found}, {op for _, op in found}
    for param in PARAMS if found else ():
        if param.name in params and not modes & set(param.modes):
            return f"matches nothing: {param.name} is for {', '.join(param.modes)} only"
        if param.name in params and param.ops and not ops & set(param.ops):
            return f"matches nothing: {param.name} is for the ops {', '.join(param.ops)} only"
    return "matches nothing; `kvmharness run --list '*'` shows what there is"


def select(patterns: Iterable[str]) -> list[Case]:
    """Return the cases that shell-style patterns such as `long64/*` or `*/cr0_wp@high=1` name.

    No pattern means DEFAULT.  The order is the table's within a pattern, each case once.
    Raises UsageError for a pattern that names nothing.
    """
    cases: dict[str, Case] = {}
    for pattern in list(patterns) or DEFAULT:
        names, _, text = pattern.partition("@")
        params = _parse_params(text, pattern) if text else {}
        found = [
            Case(mode, op.name, params)
            for mode in MODES
            for op in OPS
            if mode in op.modes
            and fnmatchcase(f"{mode}/{op.name}", names)
            and _fits(mode, op.name, params)
        ]
        if not found:
            raise UsageError(f"case {pattern!r}: {_why_nothing(names, params)}")
        cases.update((case.name, case) for case in found)
        if len(cases) > MOST_CASES:
            raise UsageError(f"case {pattern!r}: over {MOST_CASES:,} cases with it; name fewer")
    return list(cases.values())


def with_empties(chosen: Iterable[Case]) -> list[Case]:
    """Return the cases, each behind the `empty` that its net cost is taken from."""
    return select([name for case in chosen for name in (case.baseline, case.name)])
