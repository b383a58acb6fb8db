"""`git bisect` over a tree that is not checked out: a worktree without files holds its state.

git searches; whoever calls it says which commit is good.  With --no-checkout git moves the ref
BISECT_HEAD only, so that neither the user's checkout nor a build's is in its way, and a search
that was interrupted goes on where it was.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kvmharness.errors import UsageError
from kvmharness.kernel import trees
from kvmharness.kernel.trees import environment

HEAD = "BISECT_HEAD"
_FOUND = re.compile(r"^# first bad commit: \[([0-9a-f]{40})\]", re.MULTILINE)
_LEFT = re.compile(r"^# possible first bad commit: \[([0-9a-f]{40})\]", re.MULTILINE)
# What a person wants to hear of what git says: how much is left.
_NEWS = re.compile(r"Bisecting: (.*)")


def check_ends(tree: Path, good: str, bad: str) -> None:
    """Raise UsageError for two commits between which nothing can be searched."""
    if good == bad:
        raise UsageError(f"bisect: GOOD and BAD are both {good[:12]}; name two commits")
    turned = trees.git(tree, "merge-base", "--all", good, bad, check=False).split()
    if turned == [bad]:
        raise UsageError(
            f"bisect: BAD {bad[:12]} comes before GOOD {good[:12]}; swap them, and to find what "
            "mended it expect what the older one does"
        )
    if not turned:
        raise UsageError(f"bisect: {good[:12]} and {bad[:12]} have no history in common")


@dataclass(frozen=True)
class Bisection:
    """A search in the repository `tree`, whose state lies in `folder`."""

    tree: Path
    folder: Path

    @property
    def worktree(self) -> Path:
        """The worktree that has no files."""
        return self.folder / "tree"

    @property
    def log(self) -> Path:
        """What git did, as `git bisect log` shows it, once the search has ended."""
        return self.folder / "bisect.log"

    def start(self, good: str, bad: str, paths: Sequence[str], first_parent: bool) -> None:
        """Begin, or do nothing where it has begun.  Raises UsageError."""
        if trees.git(self.worktree, "bisect", "log", check=False) if self._exists() else False:
            return
        if not self._exists():
            shutil.rmtree(self.worktree, ignore_errors=True)
            trees.add_worktree(self.tree, self.worktree.absolute(), bad)
        options = ["--no-checkout", *(["--first-parent"] if first_parent else [])]
        trees.git(self.worktree, "bisect", "start", *options, bad, good, "--", *paths)

    def _exists(self) -> bool:
        return (self.worktree / ".git").is_file() and bool(
            trees.git(self.worktree, "rev-parse", "--git-dir", check=False)
        )

    def head(self) -> str:
        """Return the commit that is to be tried."""
        return trees.commit_of(self.worktree, HEAD)

    def run(
        self,
        command: Sequence[str],
        progress: Callable[[str], None],
        descriptors: Sequence[int] = (),
    ) -> int:
        """Let git search, `command` trying the commit `head`; return git's exit status.

        Both are given the descriptors.
        """
        with subprocess.Popen(
            ["git", "-C", str(self.worktree), "bisect", "run", *command],
            stdout=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment(),
            pass_fds=descriptors,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if news := _NEWS.match(line):
                    progress(news[1])
        return process.returncode

    def keep_log(self) -> None:
        """Copy what git did out of its own folder."""
        self.log.write_text(trees.git(self.worktree, "bisect", "log") + "\n")

    def first_bad(self) -> list[str]:
        """Return the first bad commit, or all that it may be; [] before it was found."""
        said = self.log.read_text() if self.log.is_file() else ""
        return _FOUND.findall(said) or _LEFT.findall(said)

    def close(self) -> None:
        """Remove the worktree, and with it what git keeps of the search in the repository."""
        if self._exists():
            trees.git(self.tree, "worktree", "remove", "--force", str(self.worktree.absolute()))

    def describe(self, commit: str) -> str:
        """Return a commit as the kernel's own texts cite it: 12 digits and ("subject")."""
        subject = trees.git(self.tree, "show", "--no-patch", "--format=%s", commit)
        return f'{commit[:12]} ("{subject}")'

    def parent(self, commit: str) -> str:
        """Return a commit's first parent.  Raises UsageError where it has none."""
        found = trees.git(self.tree, "rev-parse", "--verify", "--quiet", f"{commit}^", check=False)
        if not found:
            raise UsageError(f"bisect: {commit[:12]} has no parent to compare it with")
        return found
