"""What a user may call a kernel's source; git repositories are real, and small."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kvmharness.errors import UsageError
from kvmharness.kernel import trees

WHO = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *WHO, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Make what looks like a kernel's source, in a repository of two commits, tagged v1 and v2."""
    folder = tmp_path / "linux"
    (folder / "arch/x86").mkdir(parents=True)
    (folder / "arch/x86/Kconfig").touch()
    (folder / "Kconfig").touch()
    git(folder, "init", "-q", "-b", "main")
    for tag in ("v1", "v2"):
        (folder / "Makefile").write_text(f"# {tag}\n")
        git(folder, "add", ".")
        git(folder, "commit", "-q", "-m", f"the commit of {tag}")
        git(folder, "tag", tag)
    return folder


def test_a_tree_as_it_stands(tree: Path) -> None:
    head = git(tree, "rev-parse", "HEAD")
    found = trees.find(str(tree))
    assert found == trees.Source(str(tree), tree, None, f"-g{head[:12]}", None)
    (tree / "Makefile").write_text("# mine\n")
    changed = trees.find(str(tree))
    assert changed is not None
    assert changed.suffix == f"-g{head[:12]}-dirty"
    assert trees.check_out(changed) == tree


def test_a_tree_in_no_repository_and_in_someone_elses(tree: Path) -> None:
    inner = tree / "inner"
    (inner / "arch/x86").mkdir(parents=True)
    (inner / "Kconfig").touch()
    found = trees.find(str(inner))
    assert found is not None
    assert (found.commit, found.suffix) == (None, "")


@pytest.mark.parametrize("revision", ["v1", "HEAD^", "main@{0}~1", "v2~"])
def test_a_revision(tree: Path, revision: str) -> None:
    found = trees.find(f"{tree}@{revision}")
    assert found is not None
    assert found.commit == found.content == git(tree, "rev-parse", "v1")
    assert (found.folder, found.named) == (tree, f"{tree}@{revision}")


def test_a_folder_that_has_an_at_sign(tree: Path) -> None:
    other = tree.rename(tree.with_name("linux@home"))
    found = trees.find(f"{other}@v1")
    assert found is not None
    assert found.folder == other
    plain = trees.find(str(other))
    assert plain is not None
    assert plain.commit is None


def test_no_source_is_none(tmp_path: Path) -> None:
    assert trees.find("linux-image-6.1.0-56-amd64") is None
    assert trees.find("6.1.0-56-amd64") is None
    assert trees.find("nothing@v1") is None
    assert trees.find(str(tmp_path)) is None


def test_what_git_refuses_is_one_line(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such revision; fetch it first"):
        trees.find(f"{tree}@v3")
    with pytest.raises(UsageError, match="not a git repository") as caught:
        trees.find(f"{tmp_path}@v3")
    assert "\n" not in str(caught.value)


def test_git_is_quoted_by_its_error_not_by_what_it_was_about(tree: Path, tmp_path: Path) -> None:
    place = tmp_path / "taken"
    place.mkdir()
    (place / "file").touch()
    with pytest.raises(UsageError, match=r": '.*taken' already exists$"):
        trees.add_worktree(tree, place, "v1")


def test_a_checkout_leaves_the_users_alone(tree: Path) -> None:
    (tree / "Makefile").write_text("# mine\n")
    before = {path: path.stat().st_mtime_ns for path in tree.rglob("*") if ".git" not in path.parts}
    index = (tree / ".git/index").read_bytes()
    (tree / ".git/index.lock").touch()  # as while the user's own git works
    places = []
    for tag in ("v1", "v2", "v1"):
        source = trees.find(f"{tree}@{tag}")
        assert source is not None
        place = trees.check_out(source)
        places.append(place)
        assert (place / "Makefile").read_text() == f"# {tag}\n"
        (place / "left").touch()  # a build of an old tree may
    assert len(set(places)) == 1
    after = {path: path.stat().st_mtime_ns for path in tree.rglob("*") if ".git" not in path.parts}
    assert before == after
    assert (tree / ".git/index").read_bytes() == index
    assert git(tree, "rev-parse", "--abbrev-ref", "HEAD") == "main"


def test_a_checkout_that_was_killed_is_mended(tree: Path) -> None:
    source = trees.find(f"{tree}@v1")
    assert source is not None
    place = trees.check_out(source)
    private = Path(git(place, "rev-parse", "--absolute-git-dir"))
    (private / "index.lock").touch()
    (place / "Makefile").write_text("half\n")
    assert (trees.check_out(source) / "Makefile").read_text() == "# v1\n"
    (place / ".git").unlink()
    assert (trees.check_out(source) / "Makefile").read_text() == "# v1\n"


def test_a_tree_built_inside_of_itself(tree: Path) -> None:
    assert not trees.built_inside(tree)
    (tree / ".config").touch()
    assert trees.built_inside(tree)
