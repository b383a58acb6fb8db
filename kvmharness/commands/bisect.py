"""kvmharness bisect: which commit changed what a toggle costs."""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import click

from kvmharness import errors
from kvmharness.commands import completion
from kvmharness.commands.options import Number, configured
from kvmharness.commands.trial import QUESTION, Question, Search
from kvmharness.text import figure, printable


def _ends(search: Search) -> None:
    """Try both ends, which must answer as the user says they do.  Raises UsageError."""
    question = search.question
    for commit, claimed, word in ((question.good, 0, "good"), (question.bad, 1, "bad")):
        found = search.trial(commit)
        click.echo(f"{search.git.describe(commit)}: {printable(str(found))}", err=True)
        if found.code != claimed:
            raise errors.UsageError(
                f"bisect: the {word} end {commit[:12]} is {printable(str(found))}; name another "
                "end, or expect something else"
            )


@contextmanager
def _alone(folder: Path) -> Iterator[int]:
    """Make the folder and keep others out of it; yield the lock, which a child holds on to.

    Of a search that was killed a step may go on for a while, and git with it.  Raises UsageError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise errors.UsageError(f"write {folder}: {error.strerror}; name another folder") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise errors.UsageError(
                f"bisect: a search is under way in {folder}; wait for it, or name another --output"
            ) from None
        yield file.fileno()


def _opened(question: Question, folder: Path, jobs: int | None) -> Search:
    """Return the search of the folder, which must be of the same question.  Raises UsageError."""
    import msgspec

    from kvmharness.files import write_whole

    place = folder / QUESTION
    try:
        if place.is_file():
            if msgspec.json.decode(place.read_bytes(), type=Question) != question:
                raise errors.UsageError(
                    f"bisect: {folder} holds another search; name another folder by --output"
                )
        else:
            write_whole(place, msgspec.json.encode(asdict(question)))
    except OSError as error:
        raise errors.UsageError(f"write {folder}: {error.strerror}; name another folder") from None
    except msgspec.DecodeError:
        raise errors.UsageError(f"read {place}: it is no question of `bisect`; remove it") from None
    return Search(question, folder, jobs)


def _search(search: Search, lock: int) -> list[str]:
    """Return the first bad commit, or all that it may be where those between were skipped.

    What tries the commits holds the lock too.
    """
    question, git = search.question, search.git
    found = git.first_bad()
    if found:
        return found
    git.start(question.good, question.bad, question.paths, question.first_parent)
    step = [sys.executable, "-m", "kvmharness", "bisect-step", str(search.folder.absolute())]
    step += ["-j", str(search.jobs)] if search.jobs else []
    status = git.run(step, lambda line: click.echo(line, err=True), [lock])
    git.keep_log()
    found = git.first_bad()
    if not found:
        raise errors.HarnessError(
            f"bisect: it ended early ({status}); the same command goes on where it was"
        )
    return found


def _report(search: Search, commit: str) -> None:
    """Print the commit, and what was measured before and after it."""
    from kvmharness.analysis import compare
    from kvmharness.render import compare_table, fitting, tables

    before = search.git.parent(commit)
    pair = [search.trial(before), search.trial(commit)]
    click.echo(f"first bad commit: {search.git.describe(commit)}")
    for word, found in zip(("before", "after"), pair, strict=True):
        for case in found.run.cases:
            if any(case.name == outcome.case for outcome in found.outcomes) and case.per_op:
                cost = f"{figure(case.per_op.median)} {case.unit}"
                click.echo(f"{word + ':':8}{found.commit[:12]}  {case.name}  {cost}  {case.class_}")
    sides = [compare.side(f.commit[:12], [f.run]) for f in pair]
    click.echo()
    compared = compare.compare(sides[0], sides[1])
    compare_table.show_comparison(compared, tables.console(), fitting.room())
    click.echo(f"kept: {search.folder}")


@click.command()
@click.argument("tree", type=click.Path(path_type=Path, file_okay=False))
@click.argument("good")
@click.argument("bad")
@click.argument("paths", nargs=-1, metavar="[-- PATH...]")
@click.option("--expect", multiple=True, metavar="EXPR", help="As `check` takes it; repeatable.")
@click.option(
    "--slower",
    type=(str, Number(0, 10_000)),
    metavar="CASE PCT",
    help="Bad is what costs more than at GOOD, by this many %.",
)
@click.option("--variant", default="default", show_default=True, help="As `lab --variant`.")
@click.option("--machine", help="As `lab --machine`.")
@click.option(
    "--explain",
    metavar="CASE",
    shell_complete=completion.cases,
    help="At the end: where this case's difference lies, by kernel function (as `explain`).",
)
@configured
@click.option("-j", "--jobs", type=click.IntRange(1, 1024), help="make's. [one a CPU]")
@click.option("--first-parent", is_flag=True, help="Follow merges' first parents only.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default="bisect",
    show_default=True,
    help="Folder that keeps each step's run file and logs; a search begun there goes on.",
)
def bisect(
    tree: Path,
    good: str,
    bad: str,
    paths: tuple[str, ...],
    expect: tuple[str, ...],
    slower: tuple[str, float] | None,
    variant: str,
    machine: str | None,
    explain: str | None,
    config: Path | None,
    jobs: int | None,
    first_parent: bool,
    output: Path,
) -> None:
    """Find the commit of TREE, after GOOD and up to BAD, that made KVM otherwise than expected.

    `git bisect run` searches: each commit is built, booted in the lab and measured; those that
    do not build or boot are skipped.  Both ends are tried first.  TREE is not touched.

    Exit codes: 0 it was found, 3 only commits that cannot be tried are left.

    Example: kvmharness bisect linux v5.18 v5.19 --slower long64/cr0_wp 5 -- arch/x86/kvm
    """
    from kvmharness.analysis import expectations
    from kvmharness.commands import explaining
    from kvmharness.kernel import bisection, trees, variants
    from kvmharness.kernel.build import Recipe
    from kvmharness.lab import machines
    from kvmharness.model import cases

    if not expect and not slower:
        raise click.UsageError("say what is bad: --expect EXPR (of a good commit) or --slower")
    expectations.parse_all(expect)
    if slower and len(cases.select([slower[0]])) != 1:
        raise click.UsageError(f"--slower {slower[0]}: name one case")
    if explain:
        explaining.case(explain)
    variants.parse(variant)
    machines.check_tools([machines.choose(machine)])
    ends = trees.commit_of(tree, good), trees.commit_of(tree, bad)
    bisection.check_ends(tree, *ends)
    question = Question(
        str(tree.absolute()), *ends, list(expect), slower, variant, machine,
        str(config.absolute()) if config else None, list(paths), first_parent,
    )  # fmt: skip
    with _alone(output) as lock:
        search = _opened(question, output, jobs)
        if not search.git.first_bad():
            _ends(search)
        found = _search(search, lock)
        if len(found) == 1:
            _report(search, found[0])
        search.git.close()
    if len(found) > 1:
        click.echo("only skipped commits are left; the first bad one is one of:")
        for commit in found:
            click.echo(f"  {search.git.describe(commit)}")
        sys.exit(errors.EXIT_UNCLEAR)
    if explain:
        click.echo()
        pair = [f"{tree}@{commit}" for commit in (search.git.parent(found[0]), found[0])]
        explaining.show_difference(pair, Recipe(config, jobs), variant, explaining.case(explain))


@click.command("bisect-step", hidden=True)
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("-j", "--jobs", type=int)
def step(folder: Path, jobs: int | None) -> None:
    """Try the commit that git asks about, and answer in `git bisect run`'s codes.

    Example: kvmharness bisect-step bisect
    """
    import msgspec

    commit = name = ""
    try:
        question = msgspec.json.decode((folder / QUESTION).read_bytes(), type=Question)
        search = Search(question, folder, jobs)
        commit = search.git.head()
        name = search.git.describe(commit)
        found = search.trial(commit)
        click.echo(f"{name}: {printable(str(found))}", err=True)
        sys.exit(found.code)
    except errors.LabBug:
        raise  # no commit's fault: its exit code ends the search
    except (errors.BuildFailed, errors.LabLost, errors.Unavailable) as error:
        click.echo(f"{name}: skipped: {printable(str(error))}", err=True)
        sys.exit(errors.EXIT_BISECT_SKIP)
