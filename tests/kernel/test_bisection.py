"""`git bisect` over a tree that is not checked out: git is real, a shell command answers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kvmharness.errors import UsageError
from kvmharness.kernel.bisection import Bisection, check_ends
from tests.kernel.test_trees import git


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Make a repository of a base and eight commits, tagged c0 to c8, that touch even or odd."""
    folder = tmp_path / "linux"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    for number in range(9):
        (folder / ("even", "odd")[number % 2]).write_text(f"{number}\n")
        (folder / "number").write_text(f"{number}\n")
        git(folder, "add", ".")
        git(folder, "commit", "-q", "-m", f"the commit {number}")
        git(folder, "tag", f"c{number}")
    return folder


def commit(tree: Path, tag: str) -> str:
    return git(tree, "rev-parse", tag)


def answering(tried: Path, first_bad: int, *skipped: int) -> list[str]:
    """Return a command that answers for BISECT_HEAD, and notes what it was asked."""
    skips = "".join(f"test $n = {number} && exit 125; " for number in skipped)
    script = f"n=$(git show BISECT_HEAD:number); echo $n >> {tried}; {skips}test $n -lt {first_bad}"
    return ["sh", "-c", script]


def search(tree: Path, tmp_path: Path, *paths: str, first_parent: bool = False) -> Bisection:
    found = Bisection(tree, tmp_path)
    found.start(commit(tree, "c0"), commit(tree, "c8"), paths, first_parent)
    return found


def test_it_finds_the_commit_and_touches_no_checkout(tree: Path, tmp_path: Path) -> None:
    git(tree, "bisect", "start", "c8", "c0")  # the user's own
    mine = git(tree, "rev-parse", "HEAD")
    found = search(tree, tmp_path)
    news: list[str] = []
    assert found.run(answering(tmp_path / "tried", 6), news.append) == 0
    found.keep_log()
    assert found.first_bad() == [commit(tree, "c6")]
    assert found.describe(commit(tree, "c6")) == f'{commit(tree, "c6")[:12]} ("the commit 6")'
    assert found.parent(commit(tree, "c6")) == commit(tree, "c5")
    assert any("left to test" in line for line in news)
    found.close()
    assert git(tree, "rev-parse", "HEAD") == mine
    assert "git bisect start" in git(tree, "bisect", "log")
    assert len(git(tree, "worktree", "list").splitlines()) == 1


def test_what_cannot_be_tried_is_skipped(tree: Path, tmp_path: Path) -> None:
    found = search(tree, tmp_path)
    found.run(answering(tmp_path / "tried", 7, 4, 5), lambda line: None)
    found.keep_log()
    assert found.first_bad() == [commit(tree, "c7")]
    assert "4" in (tmp_path / "tried").read_text().split()


def test_all_that_it_may_be_where_only_those_are_left(tree: Path, tmp_path: Path) -> None:
    found = search(tree, tmp_path)
    assert found.run(answering(tmp_path / "tried", 4, 3, 4), lambda line: None) == 2
    found.keep_log()
    assert set(found.first_bad()) == {commit(tree, f"c{number}") for number in (3, 4, 5)}


def test_it_goes_on_after_an_interruption(tree: Path, tmp_path: Path) -> None:
    tried = tmp_path / "tried"
    found = search(tree, tmp_path)
    once = answering(tried, 6)
    ends = ["sh", "-c", f"test -e {tried} && exit 130; {once[2]}"]
    assert found.run(ends, lambda line: None) not in (0, 2)
    assert tried.read_text().split() == ["4"]
    again = search(tree, tmp_path)
    assert again.run(once, lambda line: None) == 0
    again.keep_log()
    assert again.first_bad() == [commit(tree, "c6")]
    assert tried.read_text().split().count("4") == 1


def test_what_tries_a_commit_holds_the_lock(tree: Path, tmp_path: Path) -> None:
    found = search(tree, tmp_path)
    with (tmp_path / "lock").open("w") as lock:
        script = f"test -e /proc/self/fd/{lock.fileno()} || exit 128; exit 1"
        assert found.run(["sh", "-c", script], lambda line: None, [lock.fileno()]) == 0


def test_only_commits_that_touch_a_path(tree: Path, tmp_path: Path) -> None:
    found = search(tree, tmp_path, "odd")
    found.run(answering(tmp_path / "tried", 4), lambda line: None)
    found.keep_log()
    assert found.first_bad() == [commit(tree, "c5")]
    assert all(int(number) % 2 for number in (tmp_path / "tried").read_text().split())


def test_merges_first_parents_only(tree: Path, tmp_path: Path) -> None:
    git(tree, "checkout", "-q", "-b", "side", "c2")
    (tree / "side").write_text("new\n")
    git(tree, "add", ".")
    git(tree, "commit", "-q", "-m", "from the side")
    git(tree, "checkout", "-q", "main")
    git(tree, "merge", "-q", "--no-edit", "side")
    merge = git(tree, "rev-parse", "HEAD")
    found = Bisection(tree, tmp_path)
    found.start(commit(tree, "c0"), merge, [], True)
    found.run(["sh", "-c", "! git cat-file -e BISECT_HEAD:side 2>/dev/null"], lambda line: None)
    found.keep_log()
    assert found.first_bad() == [merge]


def test_ends_between_which_nothing_lies_are_refused(tree: Path) -> None:
    check_ends(tree, commit(tree, "c0"), commit(tree, "c8"))
    for good, bad, says in (
        ("c8", "c0", "swap them"),
        ("c3", "c3", "both"),
        ("c3", "odd", "common"),
    ):
        if bad == "odd":
            git(tree, "checkout", "-q", "--orphan", "other")
            git(tree, "commit", "-q", "-m", "of another tree")
            git(tree, "tag", "odd")
        with pytest.raises(UsageError, match=says):
            check_ends(tree, commit(tree, good), commit(tree, bad))


def test_the_users_own_worktrees_are_not_forgotten(tree: Path, tmp_path: Path) -> None:
    """One lies on a disk that is not mounted, and one of ours was removed by hand."""
    away = tmp_path / "away"
    git(tree, "worktree", "add", "-q", "--detach", str(away), "c2")
    away.rename(tmp_path / "unmounted")
    found = search(tree, tmp_path)
    shutil.rmtree(found.worktree)
    again = search(tree, tmp_path)
    assert again.head() == commit(tree, "c4")
    assert str(away) in git(tree, "worktree", "list")


def test_ends_that_git_refuses_are_one_line(tree: Path, tmp_path: Path) -> None:
    found = Bisection(tree, tmp_path)
    with pytest.raises(UsageError) as caught:
        found.start(commit(tree, "c8"), commit(tree, "c8"), [], False)
    assert "\n" not in str(caught.value)
