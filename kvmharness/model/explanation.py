"""The file of an explanation: its types, and reading and writing it (docs/explain.md)."""

from __future__ import annotations

from pathlib import Path

import msgspec

from kvmharness import inputs
from kvmharness.errors import UsageError
from kvmharness.files import write_whole
from kvmharness.model import jsonfile
from kvmharness.model.host import Lab

SCHEMA = "kvmharness.explain/1"
# More of anything than a sample has.
MOST = 2**53
OUT_OF_RANGE = "a count is out of range"


class CallNode(msgspec.Struct, frozen=True):
    """A function as called along one path.

    `parent` is the place in the list of the node that called it, which comes before it; null
    for a root.  `own` instructions and `calls` are those of all ops together.
    """

    name: str
    parent: int | None
    own: int
    calls: int


class Line(msgspec.Struct, frozen=True):
    """A line of a function's source, and the instructions of all ops that are its own."""

    function: str
    file: str
    line: int
    own: int


class Deferred(msgspec.Struct):
    """What others did later for `ops` ops, net of what followed as many samples of a single op.

    It is no part of the samples.  A count may be less than 0, by what ran for nobody's sake.
    `measured` is the run's own figure per op, by the kernel's clock; `counts` tells whether the
    run takes it for more than the kernel's own work.
    """

    ops: int
    nodes: list[CallNode]
    measured: float | None = None
    counts: bool = False

    @property
    def figure(self) -> float:
        """Instructions per op."""
        return sum(node.own for node in self.nodes) / self.ops


class Explanation(msgspec.Struct):
    """Where one kernel's instructions went in samples of a case.

    `samples` are those that were followed, in instructions; `nodes` add up to them exactly.
    `median` is that of all samples of the run, per op.  `thunks` of the instructions stood in
    for an indirect jump or a return; they are charged to the function that wanted it.
    `no_lines` says why there are no source lines, `no_deferred` why no deferred work was followed.
    """

    label: str
    release: str
    ops: int
    samples: list[int]
    median: float
    nodes: list[CallNode]
    thunks: int = 0
    lines: list[Line] = []
    no_lines: str | None = None
    lab: Lab | None = None
    deferred: Deferred | None = None
    no_deferred: str | None = None

    @property
    def figure(self) -> float:
        """Instructions per op in the samples that were followed."""
        return sum(self.samples) / self.ops


class Change(msgspec.Struct, frozen=True):
    """A function's own instructions per op on either side.

    `callers` are those of its dearest path, nearest first; `alone` functions that only the
    kernel has where it takes more, and whose cost is in it.
    """

    function: str
    before: float
    after: float
    callers: list[str]
    alone: list[str] = []

    @property
    def change(self) -> float:
        return self.after - self.before


class Difference(msgspec.Struct):
    """From the first explanation to the second: `changes` add up to the figures' difference.

    `only_before` are functions of which the second kernel has no symbol (inlined there, or not
    there), and what they took per op: it is charged to the nearest caller that both have;
    `only_after` likewise.
    """

    sentence: str
    changes: list[Change]
    only_before: dict[str, float] = {}
    only_after: dict[str, float] = {}


class File(msgspec.Struct):
    """One or two kernels explained, and what lies between them."""

    schema: str
    tool: str
    created: str
    case: str
    kernels: list[Explanation]
    difference: Difference | None = None


def _wrong_nodes(nodes: list[CallNode], least: int) -> str | None:
    """Say where a call tree contradicts itself."""
    for place, node in enumerate(nodes):
        if node.parent is not None and not 0 <= node.parent < place:
            return "a function's caller does not come before it"
        if not least <= node.own <= MOST or not least <= node.calls <= MOST:
            return OUT_OF_RANGE
    return None


def _wrong(explanation: Explanation) -> str | None:
    """Say where an explanation contradicts itself."""
    deferred = explanation.deferred
    wrong = _wrong_nodes(explanation.nodes, 0)
    ops = [explanation.ops]
    if deferred:
        wrong = wrong or _wrong_nodes(deferred.nodes, -MOST)
        ops.append(deferred.ops)
    if wrong:
        return wrong
    if not all(0 < n <= MOST for n in ops) or not all(0 <= s <= MOST for s in explanation.samples):
        return OUT_OF_RANGE
    if sum(node.own for node in explanation.nodes) != sum(explanation.samples):
        return "its functions do not add up to its samples"
    return None


class _Header(msgspec.Struct):
    schema: str


def is_one(path: Path) -> bool:
    """Tell whether a file says of itself that it is an explanation, of any version."""
    try:
        header = msgspec.json.decode(inputs.read(path), type=_Header)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return header.schema.startswith(SCHEMA.partition("/")[0])


def read(path: Path) -> File:
    """Read an explanation.  Raises UsageError for anything that is not one."""
    try:
        found = jsonfile.decode(inputs.read(path), File)
    except OSError as error:
        raise UsageError(f"read {path}: {error.strerror}; name an explanation") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"read {path}: not an explanation: {error}; explain again") from None
    if found.schema != SCHEMA:
        raise UsageError(
            f"read {path}: schema {found.schema!r} where {SCHEMA!r} is needed; use the kvmharness "
            "that wrote it"
        )
    wrong = next((w for kernel in found.kernels if (w := _wrong(kernel))), None)
    if not 1 <= len(found.kernels) <= 2:
        wrong = f"{len(found.kernels)} kernels"
    if wrong:
        raise UsageError(f"read {path}: not an explanation: {wrong}; explain again")
    return found


def write(path: Path, explained: File) -> None:
    """Write an explanation, whole or not at all."""
    write_whole(path, msgspec.json.encode(explained) + b"\n")
