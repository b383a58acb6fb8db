"""Building: a toy tree whose make does what kbuild's targets do, for all but the compiling."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kvmharness.errors import BuildFailed, UsageError
from kvmharness.kernel import build, kconfig, resolve, trees
from kvmharness.kernel.build import Recipe, first_error
from tests.kernel.test_trees import git

# A kernel takes minutes: this one has one file, which a real compiler compiles.  Real kernels are
# built in tests/kernel/test_minimal.py.
MAKEFILE = """\
release := 6.1.0-toy$(LOCALVERSION)
allnoconfig:
\tcp $(KCONFIG_ALLCONFIG) $(O)/.config
olddefconfig:
\tgrep -q CONFIG_KVM $(O)/.config
bzImage:
\t@mkdir -p $(O)/arch/x86/boot $(O)/include/config
\t@echo "  CC      init/main.o"
\t@$(CC) -c init/main.c -o $(O)/main.o
\t@cp main.bin $(O)/arch/x86/boot/bzImage && cat init/main.c >> $(O)/arch/x86/boot/bzImage
\t@touch $(O)/vmlinux $(O)/System.map
\t@echo $(release) > $(O)/include/config/kernel.release
modules:
\t@mkdir -p $(O)/arch/x86/kvm && echo kvm > $(O)/arch/x86/kvm/kvm.ko
\t@echo arch/x86/kvm/kvm.ko > $(O)/modules.order
modules_install:
\tmkdir -p $(INSTALL_MOD_PATH)/lib/modules/$(release)/kernel
\tln -s $(O) $(INSTALL_MOD_PATH)/lib/modules/$(release)/build
"""


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "linux"
    for name, text in (
        ("Makefile", MAKEFILE),
        ("Kconfig", ""),
        ("arch/x86/Kconfig", ""),
        ("init/main.c", "int main;\n"),
        ("main.bin", "image "),
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "a toy")
    return folder


def built(named: str, recipe: Recipe = build.AS_USUAL) -> tuple[Path, list[str]]:
    source = trees.find(named)
    assert source is not None
    said: list[str] = []
    return build.build(source, recipe, said.append), said


def test_a_commit_is_built_once_and_laid_out_as_a_package(tree: Path) -> None:
    made, said = built(f"{tree}@HEAD")
    release = f"6.1.0-toy-g{git(tree, 'rev-parse', 'HEAD')[:12]}"
    assert {str(path.relative_to(made)) for path in made.rglob("*") if path.is_file()} == {
        f"boot/vmlinuz-{release}",
        f"boot/System.map-{release}",
        f"boot/config-{release}",
        "build.log",
    }
    assert not list(made.glob("lib/modules/*/build"))
    assert f"compiling: 1 of about {build.STEPS}" in said
    again, nothing = built(f"{tree}@main")
    assert (again, nothing) == (made, [])
    assert not (tree / "vmlinux").exists()


def test_a_tree_as_it_stands_is_built_as_it_stands(tree: Path) -> None:
    first, _ = built(str(tree))
    assert built(str(tree))[0] == first
    (tree / "init/main.c").write_text("int other;\n")
    second, said = built(str(tree))
    assert second != first
    assert next(second.glob("boot/vmlinuz-*")).name.endswith("-dirty")
    assert "compiling: 1" in said  # what a change costs is not known beforehand
    assert sorted(path.name for path in tree.iterdir()) == sorted(
        [".git", "Makefile", "Kconfig", "arch", "init", "main.bin"]
    )


def test_another_configuration_is_another_kernel(tree: Path, tmp_path: Path) -> None:
    lab, _ = built(f"{tree}@HEAD")
    mine = tmp_path / "config"
    mine.write_text("CONFIG_KVM=m\nCONFIG_MINE=y\n")
    made, said = built(f"{tree}@HEAD", Recipe(config=mine))
    assert made != lab
    got = kconfig.values(next(made.glob("boot/config-*")).read_text())
    assert (got["MINE"], got["KVM"], got["PROC_FS"]) == ("y", "m", "y")
    assert any(line.startswith(f"{mine} with ") and "PROC_FS=y (was n)" in line for line in said)
    assert any(line.startswith("built without KPROBES") for line in said)


def test_what_does_not_compile_is_one_line_with_the_log(tree: Path) -> None:
    (tree / "init/main.c").write_text("int main\nint other;\n")
    with pytest.raises(BuildFailed, match=r"init/main\.c:\d+:\d+: error: .*; see ") as caught:
        built(str(tree))
    assert "\n" not in str(caught.value)
    assert caught.value.log is not None
    assert "error: " in caught.value.log.read_text()
    (tree / "init/main.c").write_text("int main;\n")
    built(str(tree))


@pytest.mark.parametrize("change", ["edit", "commit"])
def test_a_tree_that_changes_while_it_is_built_is_no_kernel(tree: Path, change: str) -> None:
    source = trees.find(str(tree))
    assert source is not None

    def meddle(line: str) -> None:
        if line.startswith("compiling"):
            (tree / "init/main.c").write_text("int other;\n")
            if change == "commit":
                git(tree, "commit", "-q", "-a", "-m", "meanwhile")

    with pytest.raises(BuildFailed, match=r"changed meanwhile; build again, or name a commit"):
        build.build(source, build.AS_USUAL, meddle)
    assert not list((tree.parent / "cache/kvmharness").glob("built/*"))
    built(str(tree))


def test_a_tree_that_cannot_have_kvm(tree: Path) -> None:
    (tree / "Makefile").write_text(
        MAKEFILE.replace("cp $(KCONFIG_ALLCONFIG)", "grep -v _KVM $(KCONFIG_ALLCONFIG) >")
    )
    with pytest.raises(BuildFailed, match=r"will not have KVM \(the thing itself\), KVM_INTEL"):
        built(str(tree))


def test_a_build_that_is_interrupted_leaves_nothing_running(tree: Path) -> None:
    (tree / "Makefile").write_text(MAKEFILE.replace("modules:\n", "modules: bzImage\n\tsleep 60\n"))
    source = trees.find(str(tree))
    assert source is not None

    def interrupt(line: str) -> None:
        if line.startswith("compiling"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build.build(source, Recipe(jobs=1), interrupt)
    assert not list((tree.parent / "cache/kvmharness").glob("built/*"))


def test_a_tree_built_inside_of_itself_is_not_taken_unasked(tree: Path) -> None:
    with pytest.raises(UsageError, match="run make in it first"):
        resolve.resolve(str(tree), Recipe(reuse=True))
    (tree / ".config").touch()
    with pytest.raises(UsageError, match="--reuse takes that build") as caught:
        resolve.resolve(str(tree))
    assert "\n" not in str(caught.value)
    built(f"{tree}@HEAD")


@pytest.mark.parametrize(
    ("log", "first"),
    [
        (
            "  CC      a.o\na.c:1:2: warning: w\nk/a.c:3:1: error: expected ';'\n"
            "make[3]: *** [Makefile:2: a.o] Error 1\n",
            "k/a.c:3:1: error: expected ';'",
        ),
        ("a.c:3:10: fatal error: b.h: No such file\n", "a.c:3:10: fatal error: b.h: No such file"),
        ("ld: a.o: in function `f':\na.c:(.text+0x1): undefined reference to `g'\n"
         "make: *** [Makefile:9: vmlinux] Error 1\n",
         "a.c:(.text+0x1): undefined reference to `g'"),
        ("make[1]: *** No rule to make target 'x'.  Stop.\n", "No rule to make target 'x'.  Stop."),
        ("*** Compiler is too old.\n", "Compiler is too old."),
        ("", "make said nothing"),
    ],
)  # fmt: skip
def test_the_first_error(log: str, first: str) -> None:
    assert first_error(log) == first


def test_the_tools_that_are_missing_are_named(
    monkeypatch: pytest.MonkeyPatch, tree: Path, tmp_path: Path
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("cc", "git", "make"):
        (tools / name).symlink_to(shutil.which(name) or name)
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(UsageError, match=r"apt-get install .*flex bison bc perl"):
        built(str(tree))
