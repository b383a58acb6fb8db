"""Kernel source as a user names it: a folder, a folder at a git revision, a Debian package."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from kvmharness import cache, child
from kvmharness.errors import UsageError
from kvmharness.kernel import debian

PACKAGE = re.compile(r"linux-source-\d[\w.+~-]*")
SOURCE = "source"
_ERROR = re.compile("(fatal|error): ")
# What a build inside of a tree leaves, and what keeps another one from being made outside of it.
BUILT_INSIDE = (".config", "include/config", "arch/x86/include/generated")


@dataclass(frozen=True)
class Source:
    """A kernel's source: what the user called it, and where it lies.

    `folder` is the user's, or a package's in the cache; `commit` what to build of it, in 40
    hexadecimal digits, None for the folder as it stands; `suffix` what is added to its release,
    "" where git does not know it.  `content` stands for every byte of it: the commit or the
    package's file; None where the folder may change.
    """

    named: str
    folder: Path
    commit: str | None = None
    suffix: str = ""
    content: str | None = None


def is_source(folder: Path) -> bool:
    """Tell whether a folder is a kernel's source."""
    return (folder / "Kconfig").is_file() and (folder / "arch/x86").is_dir()


def environment() -> dict[str, str]:
    """Return the environment without what git hands down to its children, such as GIT_DIR."""
    given = child.environment()
    return {name: value for name, value in given.items() if not name.startswith("GIT_")}


def _reason(said: str) -> str:
    """Return why git failed: what it says of an error, for it may say what it does before."""
    lines = said.strip().splitlines() or ["it failed"]
    errors = [line for line in lines if _ERROR.match(line)]
    return _ERROR.sub("", (errors or lines)[0])


def git(folder: Path, *arguments: str, check: bool = True) -> str:
    """Run git in a folder and return what it says; "" where it fails and `check` is off.

    Raises UsageError with git's own reason.
    """
    try:
        done = child.run(
            # Reading a checkout's state would else rewrite, and lock, its index.
            ["git", "--no-optional-locks", "-C", str(folder), *arguments],
            env=environment(),
        )
    except OSError as error:
        raise UsageError(f"git: {error.strerror}; apt-get install git") from None
    if done.returncode:
        if not check:
            return ""
        raise UsageError(f"git {arguments[0]} in {folder}: {_reason(done.stderr)}")
    return done.stdout.strip()


def commit_of(folder: Path, revision: str) -> str:
    """Return the commit that a revision means.  Raises UsageError."""
    found = git(
        folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}",
        check=False,
    )  # fmt: skip
    if not found:
        git(folder, "rev-parse", "--git-dir")  # raises where it is no repository
        raise UsageError(
            f"kernel {folder}@{revision}: this repository has no such revision; fetch it first"
        )
    return found


def _suffix(commit: str) -> str:
    """Return what kbuild's own CONFIG_LOCALVERSION_AUTO adds to a release for a commit."""
    return f"-g{commit[:12]}"


def _as_it_stands(named: str, folder: Path) -> Source:
    head = git(folder, "rev-parse", "--verify", "--quiet", "HEAD", check=False)
    # A tree may lie in someone else's repository, say that of a home folder.
    if not head or git(folder, "rev-parse", "--show-prefix", check=False):
        return Source(named, folder)
    changed = git(folder, "status", "--porcelain", "-uno", check=False)
    return Source(named, folder, None, _suffix(head) + ("-dirty" if changed else ""))


def _package(named: str) -> Source:
    """Return the source of one of Debian's linux-source packages, fetched and unpacked once."""

    def make(into: Path) -> None:
        (deb,) = debian.download([named], into)
        for command in (
            ["dpkg-deb", "-x", str(deb), str(into)],
            ["tar", "xf", str(into / f"usr/src/{named}.tar.xz"), "-C", str(into)],
        ):
            done = child.run(command)
            if done.returncode:
                why = (done.stderr.strip().splitlines() or ["it failed"])[0]
                raise UsageError(f"unpack {named}: {why}; see the disk and apt")
        (into / named).rename(into / SOURCE)
        (into / "package").write_text(deb.name)
        deb.unlink()
        shutil.rmtree(into / "usr")

    made = cache.made_once(cache.folder("trees") / named, make)
    return Source(named, made / SOURCE, content=(made / "package").read_text())


def home(source: Source) -> Path:
    """Return the folder in the cache where a tree is built, made if need be.

    What the cache holds itself lies there as SOURCE, so that it looks the same to ccache from the
    build folder beside it.
    """
    if source.content and not source.commit:
        return source.folder.parent
    of = git(source.folder, "rev-parse", "--git-common-dir") if source.commit else "."
    real = os.path.realpath(source.folder / of)
    return cache.folder("trees", hashlib.sha256(real.encode()).hexdigest()[:16])


def find(named: str) -> Source | None:
    """Return the source that is named `TREE`, `TREE@REVISION` or linux-source-VERSION.

    None where none is named so: it may be a kernel that is built.  Raises UsageError.
    """
    if named and is_source(Path(named)):
        return _as_it_stands(named, Path(named).absolute())
    if "/" not in named and PACKAGE.fullmatch(named) and not Path(named).exists():
        return _package(named)
    # A revision may hold an @ too (HEAD@{1}), and so may a path.
    for at in re.finditer("@", named):
        folder, revision = Path(named[: at.start()]), named[at.end() :]
        if folder.is_dir() and not Path(named).exists():
            commit = commit_of(folder, revision)
            return Source(named, folder.absolute(), commit, _suffix(commit), commit)
    return None


def built_inside(folder: Path) -> bool:
    """Tell whether a tree holds a build of its own."""
    return any((folder / name).exists() for name in BUILT_INSIDE)


def add_worktree(repository: Path, place: Path, commit: str) -> None:
    """Make a worktree without files, also where one of that name was removed.  Raises UsageError.

    Not by `worktree prune`, which would forget the user's own on a disk that is not mounted.
    """
    options = ["--force", "--no-checkout", "--detach"]
    git(repository, "worktree", "add", *options, str(place), commit)


def edits(source: Source) -> tuple[str, list[tuple[str, int]]]:
    """Return what tells whether a folder has changed since: its suffix, and what was edited when.

    Nothing is told of a folder that git does not know, and of source that stays as it is.
    """
    if source.content or not source.suffix:
        return source.suffix, []
    names = git(source.folder, "diff", "--name-only", "-z", "HEAD", check=False).split("\0")
    places = [source.folder / name for name in names if name]
    times = [(str(path), path.stat().st_mtime_ns) for path in places if path.exists()]
    return _as_it_stands(source.named, source.folder).suffix, times


def check_out(source: Source) -> Path:
    """Return a folder that holds the source at its commit: a worktree in the cache, or its own.

    The caller holds the lock of the source's home.  The user's checkout is not touched.
    """
    commit = source.commit
    if commit is None:
        return source.folder
    worktree = home(source) / SOURCE
    private = git(worktree, "rev-parse", "--absolute-git-dir", check=False)
    if not private:
        shutil.rmtree(worktree, ignore_errors=True)
        add_worktree(source.folder, worktree, commit)
        private = git(worktree, "rev-parse", "--absolute-git-dir")
    # Of a process that was killed, since nobody else works here.
    Path(private, "index.lock").unlink(missing_ok=True)
    git(worktree, "checkout", "--quiet", "--detach", "--force", commit)
    git(worktree, "clean", "--quiet", "-fdx")
    return worktree
