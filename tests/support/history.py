"""A git repository of Debian's 6.1 source with eight commits on top, made once in the cache.

Commits are made of one base tree by changing single files in the index: nothing is checked out,
and names and dates are constant, so that a commit has the same name every time and what was built
of it is found again.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

from kvmharness import cache
from kvmharness.kernel import trees

PACKAGE = "linux-source-6.1"
X86, INIT, README = "arch/x86/kvm/x86.c", "init/main.c", "README"
CURE = "if (tdp_enabled && (cr0 ^ old_cr0) == X86_CR0_WP) {"
NO_CURE = f"if (0 && {CURE.removeprefix('if (')}"
BOOTS = "\tkernel_init_freeable();\n"
DIES = f'{BOOTS}\tpanic("planted");\n'
NO_C = "\tthis is no C;\n"
# What git tries of these eight depends on their names, which are digests.  It is always 4 first
# (does not build), then 2 or 6, and so one at least of 5 and 6 (do not boot), and 7 at last.
# Each: subject, file, text, what takes its place.
COMMITS = (
    ("Say more in README", README, "Linux kernel", "The Linux kernel"),
    ("Add a comment", X86, CURE, f"/* WP alone */ {CURE}"),
    ("Say it again", README, "The Linux kernel", "The Linux kernel itself"),
    ("Break the build", INIT, BOOTS, NO_C),
    ("Mend the build, break the boot", INIT, NO_C, DIES),
    ("Say it once more", README, "kernel itself", "kernel, no other"),
    ("Mend the boot", INIT, DIES, BOOTS),
    ("Slow toggles down", X86, CURE, NO_CURE),
)


class _Repository:
    """A bare repository, its index, and the folder whose files it holds."""

    def __init__(self, bare: Path, files: Path) -> None:
        who = {"NAME": "nobody", "EMAIL": "nobody@example.org", "DATE": "2024-01-01T00:00:00+0000"}
        self._env = {
            **os.environ,
            "GIT_DIR": str(bare),
            "GIT_WORK_TREE": str(files),
            "GIT_INDEX_FILE": str(bare / "index"),
            **{
                f"GIT_{role}_{what}": v
                for role in ("AUTHOR", "COMMITTER")
                for what, v in who.items()
            },
        }

    def git(self, *arguments: str, given: str | None = None) -> str:
        done = subprocess.run(
            ["git", *arguments],
            env=self._env,
            input=given,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip("\n")

    def commit(self, subject: str, *parents: str) -> str:
        tree = self.git("write-tree")
        options = [option for parent in parents for option in ("-p", parent)]
        return self.git("commit-tree", tree, *options, "-m", subject)


def _make(into: Path) -> None:
    source = trees.find(PACKAGE)
    assert source is not None
    bare = into / "linux.git"
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(bare)], check=True)
    repository = _Repository(bare, source.folder)
    # Its own .gitignore would leave files out that a build wants.
    repository.git("-c", "core.bare=false", "-c", "core.compression=1", "add", "--force", ".")
    commit = repository.commit("Linux 6.1 of Debian")
    repository.git("tag", "base", commit)
    for number, (subject, file, old, new) in enumerate(COMMITS, 1):
        text = repository.git("show", f"{commit}:{file}") + "\n"
        assert text.count(old) >= 1, f"{file} of {PACKAGE} has changed: {old!r}"
        blob = repository.git("hash-object", "-w", "--stdin", given=text.replace(old, new, 1))
        repository.git("update-index", "--cacheinfo", f"100644,{blob},{file}")
        commit = repository.commit(subject, commit)
        repository.git("tag", f"commit{number}", commit)
    repository.git("update-ref", "refs/heads/main", commit)


def repository() -> Path:
    """Return the bare repository, its commits tagged base and commit1 to commit8."""
    name = f"history-{hashlib.sha256(repr(COMMITS).encode()).hexdigest()[:8]}"
    return cache.made_once(cache.folder("tests") / name, _make) / "linux.git"
