"""Boot kernels and explain a case in them: what `explain` and `compare --explain` share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kvmharness import __version__, errors
from kvmharness.commands import booting
from kvmharness.commands.options import kernels

if TYPE_CHECKING:
    from kvmharness.analysis.symbols import Symbols
    from kvmharness.analysis.tracefile import Trace
    from kvmharness.kernel.build import Recipe
    from kvmharness.kernel.resolve import Kernel
    from kvmharness.kernel.variants import Variant
    from kvmharness.lab.planning import Inner, Result
    from kvmharness.model.cases import Case
    from kvmharness.model.explanation import Explanation, File
    from kvmharness.model.run import Run


# Functions shown of a difference.
EXPLAINED = 20
# Ops a sample with two levels: of a hundred of the dearest ones each holds ticks of both kernels.
NESTED_OPS = 5


@dataclass(frozen=True)
class Wanted:
    """A kernel to explain a case in: its variant, and a folder of KVM's modules in its own.

    With `inner` it is followed while the kernel inside it measures.
    """

    kernel: Kernel
    variant: Variant
    modules: Path | None
    inner: Inner | None = None


def case(pattern: str) -> Case:
    """Return the one case that a pattern names.  Raises UsageError."""
    from kvmharness.model import cases

    chosen = cases.select([pattern])
    if len(chosen) != 1:
        raise errors.UsageError(f"case {pattern!r}: names {len(chosen)} cases; name one")
    return chosen[0]


def inner(named: str | None, recipe: Recipe, variant: str | None) -> Inner | None:
    """Return the kernel to boot inside those explained, None for none.  Raises UsageError."""
    from kvmharness.kernel import variants as known
    from kvmharness.lab import planning

    if named is None:
        if variant is not None:
            raise errors.UsageError("--nested-variant: name the kernel too; add --nested KERNEL")
        return None
    (inside,) = kernels([named], recipe)
    return planning.Inner(inside, known.parse(variant or "default"))


def wanted(
    named: Sequence[str],
    recipe: Recipe,
    variants: Sequence[str],
    modules: Sequence[Path],
    inner: Inner | None = None,
) -> list[Wanted]:
    """Return one or two kernels to explain, sources built by `recipe`.

    Raises UsageError for none and for more.
    """
    from kvmharness.kernel import variants as known

    if inner and modules:
        raise errors.UsageError(
            "explain: --kvm-modules are not loaded into the kernel below another; leave one out"
        )
    parsed = [known.parse(text) for text in variants or ("default",)]
    found = [
        Wanted(kernel, variant, folder, inner)
        for kernel in kernels(named, recipe)
        for variant in parsed
        for folder in modules or (None,)
    ]
    if not 1 <= len(found) <= 2:
        raise errors.UsageError(
            f"explain: {len(named)} kernels, {len(parsed)} variants and {len(modules)} folders "
            f"of modules make {len(found)}; name one kernel, or two to be compared"
        )
    return found


def _boot(
    wanted: Sequence[Wanted], cases: Sequence[Case], samples: int, into: Path
) -> list[Result]:
    """Measure the cases in every kernel with the trace on; results in the order wanted."""
    from kvmharness.commands import watching
    from kvmharness.lab import machines, matrix, planning, trace
    from kvmharness.measure.settings import for_lab

    plain = machines.TCG_SVM
    machines.check_tools([plain])
    nested = any(one.inner for one in wanted)
    settings = for_lab(plain.clock, iterations=NESTED_OPS if nested else None)
    machine = trace.tracing(plain, -(-samples // settings.vms))
    results: list[Result] = []
    for number, one in enumerate(wanted):
        folder = into / str(number)
        folder.mkdir()
        target = planning.Target(one.kernel, one.variant, machine, inner=one.inner)
        plan = planning.LabPlan(
            cases,
            {plain.clock: settings},
            None,
            one.modules,
            None,
            folder,
            count=False,
        )
        with watching.watch([target]) as heard:
            results += matrix.measure([target], plan, 1, heard)
    return results


def labels(wanted: Sequence[Wanted], results: Sequence[Result]) -> list[str]:
    """Return what to call each kernel; by the folder of its modules where those differ."""
    names = [result.target.label for result in results]
    if len(set(names)) == len(names):
        return names
    return [
        f"{name}-{one.modules.name if one.modules else 'own'}"
        for name, one in zip(names, wanted, strict=True)
    ]


@dataclass(frozen=True)
class _Traced:
    """A kernel that measured with the trace on, and what it left."""

    label: str
    run: Run
    trace: Trace
    known: Symbols
    debug_info: Sequence[Path]

    def explain(self, place: int, samples: int) -> Explanation:
        """Explain the case at a place in the run.  Raises Unaccounted, Unavailable."""
        from kvmharness.analysis import follow
        from kvmharness.kernel import lines

        explained, own = follow.follow(self.label, self.run, place, self.trace, self.known, samples)
        explained.lines, explained.no_lines = lines.lines(own, self.debug_info)
        return explained


def _traced(label: str, one: Wanted, result: Result) -> _Traced:
    """Read what a kernel left.  Raises what became of it."""
    from kvmharness.analysis import symbols, tracefile
    from kvmharness.kernel import lines

    run = booting.run_of(result, f"lab: {label}")
    if result.traced is None:
        raise errors.LabLost(f"{label}: the machine left no trace; run it again")
    try:
        known = symbols.parse(result.traced.symbols.read_text())
    except ValueError as error:
        raise errors.LabLost(f"{label}: its symbols: {error}") from None
    trace = tracefile.read(result.traced.trace)
    return _Traced(label, run, trace, known, lines.files_of(one.kernel, one.modules))


def _file(found: Sequence[_Traced], place: int, measured: Case, samples: int) -> File:
    """Return the file that explains a case: in one kernel, or in two and what lies between."""
    from kvmharness.analysis import call_difference
    from kvmharness.model import explanation

    explained = [one.explain(place, samples) for one in found]
    between = None
    if len(found) == 2:
        (one, has_one), (other, has_other) = (
            (kernel, traced.known.names.__contains__)
            for kernel, traced in zip(explained, found, strict=True)
        )
        between = call_difference.difference(one, other, has_one, has_other)
    return explanation.File(
        explanation.SCHEMA,
        __version__,
        found[0].run.started,
        measured.name,
        explained,
        between,
    )


def explain_each(
    chosen: Sequence[Wanted], cases: Sequence[Case], samples: int
) -> Iterator[File | errors.HarnessError]:
    """Boot the kernels once, and explain each case in them, or say why that one cannot be.

    Raises what became of the kernels.
    """
    from kvmharness.lab.workshop import Workshop

    with Workshop() as workshop:
        results = _boot(chosen, cases, samples, workshop.job())
        names = labels(chosen, results)
        found = [_traced(*each) for each in zip(names, chosen, results, strict=True)]
        for place, measured in enumerate(cases):
            try:
                yield _file(found, place, measured, samples)
            except errors.HarnessError as error:
                yield error


def explain(chosen: Sequence[Wanted], measured: Case, samples: int) -> File:
    """Boot the kernels and explain the case in each, and what lies between two."""
    (found,) = explain_each(chosen, [measured], samples)
    if isinstance(found, errors.HarnessError):
        raise found
    return found


def show_difference(named: Sequence[str], recipe: Recipe, variant: str, measured: Case) -> None:
    """Boot two kernels once more, and print where the case's difference lies."""
    from kvmharness.render import explain_table, tables

    found = explain(wanted(named, recipe, [variant], []), measured, 1)
    explain_table.show_difference(found, EXPLAINED, tables.console())


def write(explained: File, folder: Path) -> list[Path]:
    """Write everything that is made of an explanation into a folder; return the files."""
    from kvmharness.files import write_whole
    from kvmharness.model import explanation
    from kvmharness.render import flame, stacks

    paths = [folder / "explain.json"]
    explanation.write(paths[0], explained)
    texts: dict[str, str] = {}
    for kernel in explained.kernels:
        title = f"{explained.case} on {kernel.label}"
        boxes = flame.explained(kernel)
        texts[f"{kernel.label}.svg"] = flame.document(boxes, title, flame.caption(kernel))
        texts[f"{kernel.label}.folded"] = stacks.folded(kernel)
        texts[f"{kernel.label}.callgrind"] = stacks.callgrind(kernel, explained.case)
    if explained.difference is not None:
        one, other = explained.kernels
        boxes = flame.difference(one, other, explained.difference)
        title = f"{explained.case}: {one.label} → {other.label}"
        caption = (
            f"{one.figure:,.2f} → {other.figure:,.2f} instructions per op; red takes more, blue "
            "less; as wide as where it takes more"
        )
        texts["difference.svg"] = flame.document(boxes, title, caption)
        texts["difference.folded"] = stacks.folded_pair(one, other)
    for name, text in texts.items():
        write_whole(folder / name, text.encode())
        paths.append(folder / name)
    return paths
