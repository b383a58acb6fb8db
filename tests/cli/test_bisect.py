"""Bisecting: the documented recipe over packaged kernels, and the one command over a tree."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmharness import cache
from kvmharness.errors import EXIT_USAGE
from kvmharness.kernel import debian
from tests.support import history
from tests.support.kernels import CURED, UNCURED, need_lab, newest

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1600)]
# As if time ran backwards: what is new lost the cure.  One commit has built no kernel at all: the
# folder that it names is there, and holds none.
HISTORY = ("7", "6.12", ".", CURED, UNCURED, UNCURED)
FIRST_BAD = 4


def git(repository: Path, *arguments: str) -> str:
    who = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    done = subprocess.run(
        ["git", *who, *arguments], cwd=repository, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_the_first_bad_kernel_is_found(tmp_path: Path) -> None:
    need_lab(*(series for series in HISTORY if series != "."))
    git(tmp_path, "init", "-q", "-b", "main")
    commits = []
    for number, series in enumerate(HISTORY):
        name = series if series == "." else newest(series)
        (tmp_path / "kernel").write_text(name)
        (tmp_path / "number").write_text(str(number))
        git(tmp_path, "add", ".")
        git(tmp_path, "commit", "-q", "-m", f"{number}: {name}")
        commits.append(git(tmp_path, "rev-parse", "HEAD"))
    check = (
        f'{sys.executable} -m kvmharness check --lab "$(cat kernel)" --variant tdp --bisect '
        "--expect 'long64/cr0_wp < 10000 insn' --expect 'long64/cr0_wp class exit/kept'"
    )
    git(tmp_path, "bisect", "start", commits[-1], commits[0])
    found = git(tmp_path, "bisect", "run", "sh", "-c", check)
    assert f"{commits[FIRST_BAD]} is the first bad commit" in found


Cli = Callable[..., subprocess.CompletedProcess[str]]
SLOWER = ("--slower", "long64/cr0_wp", "5", "--variant", "tdp")

# A tree whose make packs what others built, for want of minutes; its one file is compiled.
MAKEFILE = """\
package := $(shell cat package)
release := $(notdir $(wildcard $(package)/lib/modules/*))
allnoconfig:
\tcp $(KCONFIG_ALLCONFIG) $(O)/.config && echo CONFIG_X86_64=y >> $(O)/.config
bzImage:
\t$(CC) -c main.c -o $(O)/main.o
\tmkdir -p $(O)/arch/x86/boot $(O)/include/config
\tcp $(package)/boot/vmlinuz-$(release) $(O)/arch/x86/boot/bzImage
\ttouch $(O)/vmlinux $(O)/System.map
\techo $(release) > $(O)/include/config/kernel.release
modules:
modules_install:
\tmkdir -p $(INSTALL_MOD_PATH)/lib/modules
\tif test -e modules; then cp -r $(package)/lib/modules $(INSTALL_MOD_PATH)/lib; fi
"""


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep what is built here out of the user's cache, but use what was fetched."""
    theirs = cache.folder()
    own = tmp_path / "cache/kvmharness"
    own.mkdir(parents=True)
    for entry in theirs.iterdir():
        if entry.name not in ("trees", "built", "jobs", "tests"):
            (own / entry.name).symlink_to(entry)
    monkeypatch.setenv("XDG_CACHE_HOME", str(own.parent))


def packing_tree(folder: Path) -> list[str]:
    """Make the tree of a base and eight commits; return all nine, of which 8 lost the cure.

    Number 4 does not compile, 6 has no KVM: of eight, git tries these two first.
    """
    (folder / "arch/x86").mkdir(parents=True)
    (folder / "arch/x86/Kconfig").touch()
    (folder / "Kconfig").touch()
    (folder / "Makefile").write_text(MAKEFILE)
    git(folder, "init", "-q", "-b", "main")
    cured, uncured = (str(debian.place(newest(series))) for series in (CURED, UNCURED))
    commits = []
    for number in range(9):
        (folder / "number").write_text(str(number))
        (folder / "package").write_text(cured if number < 8 else uncured)
        (folder / "main.c").write_text("this is no C\n" if number == 4 else "int main;\n")
        (folder / "modules").touch()
        if number == 6:
            (folder / "modules").unlink()
        git(folder, "add", "-A")
        git(folder, "commit", "-q", "-m", f"commit {number}")
        commits.append(git(folder, "rev-parse", "HEAD"))
    return commits


def one_line(text: str, begin: str) -> str:
    (found,) = [line for line in text.splitlines() if line.startswith(begin)]
    return found


@pytest.mark.usefixtures("own_cache")
def test_the_one_command(kvmharness: Cli, tmp_path: Path) -> None:
    need_lab()
    tree, kept = tmp_path / "linux", tmp_path / "kept"
    commits = packing_tree(tree)
    ends = ("bisect", str(tree), commits[0], "main", "--variant", "tdp", "--machine", "tcg-svm")
    slower = (*ends, "--slower", "long64/cr0_wp", "5", "-o", str(kept))
    done = kvmharness(*slower, timeout=1500)
    assert done.returncode == 0, done.stderr
    bad = commits[8][:12]
    assert f'first bad commit: {bad} ("commit 8")' in done.stdout
    assert one_line(done.stdout, "before:").endswith("exit/kept")
    assert one_line(done.stdout, "after:").endswith("exit/rebuilt")
    for number, why in ((4, "skipped: build "), (6, "skipped: ")):
        named = f'{commits[number][:12]} ("commit {number}"): '
        assert one_line(done.stderr, named).removeprefix(named).startswith(why)
    for name in ("run.json", "build.log"):
        assert (kept / bad / name).is_file()
    assert "no C" in (kept / commits[4][:12] / "build.log").read_text()
    assert len(git(tree, "worktree", "list").splitlines()) == 2  # its own, and where it is built
    # The same command says it again from what was kept; another one is refused its folder.
    assert kvmharness(*slower).stdout == done.stdout
    other = kvmharness(*ends, "--expect", "long64/cr0_wp class */kept", "-o", str(kept))
    assert other.returncode == EXIT_USAGE
    assert "holds another search" in other.stderr


@pytest.mark.usefixtures("own_cache")
def test_an_end_that_does_not_answer_as_claimed(kvmharness: Cli, tmp_path: Path) -> None:
    need_lab()
    tree = tmp_path / "linux"
    commits = packing_tree(tree)
    ends = (str(tree), commits[0], "main", "--expect", "long64/cr0_wp class */rebuilt")
    done = kvmharness("bisect", *ends, "--machine", "tcg-svm", cwd=tmp_path, timeout=1500)
    assert done.returncode == EXIT_USAGE
    assert f"the good end {commits[0][:12]} is bad: " in done.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_one_command_finds_what_made_toggles_slower(kvmharness: Cli, tmp_path: Path) -> None:
    need_lab(CURED)
    tree = str(history.repository())
    slow = git(Path(tree), "rev-parse", "commit8")
    call = ("bisect", tree, "base", "main", *SLOWER, "-o", str(tmp_path / "kept"))
    done = kvmharness(*call, timeout=3500)
    assert done.returncode == 0, done.stderr
    assert f'first bad commit: {slow[:12]} ("Slow toggles down")' in done.stdout
    before, after = (
        next(line for line in done.stdout.splitlines() if line.startswith(word))
        for word in ("before:", "after:")
    )
    assert before.endswith("exit/kept")
    assert after.endswith("exit/reloaded")
    skipped = [line for line in done.stderr.splitlines() if ": skipped: " in line]
    assert '("Break the build"): skipped: build' in skipped[0]
    assert "this is no C" in (tmp_path / "kept" / skipped[0][:12] / "build.log").read_text()
    assert '"): skipped: ' in skipped[1]
    (console,) = (tmp_path / "kept" / skipped[1][:12]).glob("*-tdp.log")
    assert "not syncing: planted" in console.read_text()
    for name in ("run.json", "build.log"):
        assert (tmp_path / "kept" / slow[:12] / name).is_file()
    # The same command says it again, and tries nothing.
    again = kvmharness(*call, timeout=60)
    assert again.stdout == done.stdout


def test_what_cannot_be_bisected_is_said_before_anything_is_built(
    kvmharness: Cli, tmp_path: Path
) -> None:
    for arguments, says in (
        ([str(tmp_path), "v1", "v2", *SLOWER], "not a git repository"),
        (["nothing", "v1", "v2", *SLOWER], "cannot change to 'nothing'"),
        ([str(tmp_path), "v1", "v2"], "say what is bad"),
        ([str(tmp_path), "v1", "v2", "--expect", "nonsense"], "not understood"),
        ([str(tmp_path), "v1", "v2", "--slower", "long64/*", "5"], "name one case"),
    ):
        done = kvmharness("bisect", *arguments)
        assert done.returncode == EXIT_USAGE
        assert says in done.stderr
        assert "Traceback" not in done.stderr


def test_ends_that_are_swapped_and_a_folder_that_is_in_use(kvmharness: Cli, tmp_path: Path) -> None:
    tree, kept = tmp_path / "linux", tmp_path / "kept"
    tree.mkdir()
    kept.mkdir()
    git(tree, "init", "-q", "-b", "main")
    git(tree, "commit", "-q", "--allow-empty", "-m", "older")
    git(tree, "commit", "-q", "--allow-empty", "-m", "newer")
    with (kept / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for ends, says in ((("main", "main^"), "swap them"), (("main^", "main"), "is under way")):
            done = kvmharness("bisect", str(tree), *ends, *SLOWER, "-o", str(kept))
            assert done.returncode == EXIT_USAGE
            assert says in done.stderr.splitlines()[-1]
    assert not (kept / "question.json").exists()
