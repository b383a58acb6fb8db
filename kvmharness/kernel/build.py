"""From a kernel's source to what the lab boots: configured, compiled out of tree, kept once made.

One build folder a tree, so that the next commit costs what it changes.  What came of it is laid
out as an unpacked package: boot/vmlinuz-RELEASE, boot/config-RELEASE, lib/modules/RELEASE.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kvmharness import cache
from kvmharness.child import environment
from kvmharness.errors import BuildFailed
from kvmharness.kernel import compiler, kconfig, trees
from kvmharness.kernel.compiler import Compiler
from kvmharness.kernel.trees import Source

Progress = Callable[[str], None]

BZIMAGE = Path("arch/x86/boot/bzImage")
LOG = "build.log"
# Who, where and when, which an image records: the same source makes the same image.
REPRODUCIBLE = {
    "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 1970",
    "KBUILD_BUILD_USER": "kvmharness",
    "KBUILD_BUILD_HOST": "kvmharness",
    "KBUILD_BUILD_VERSION": "1",
}
# What kbuild prints of a file that it compiles, and how many there are in a build of lab.config
# from nothing: of 6.1, since a tree's own number is known once it was built.
STEP = re.compile(r"  (?:CC|AS|HOSTCC) ")
STEPS = 1150
FIRST_ERRORS = (
    re.compile(r"(.*\berror: .*)"),
    re.compile(r"(.*(?:undefined reference|multiple definition).*|ERROR: .*|FAILED: .*)"),
    re.compile(r"(?:make\S* )?\*\*\* (.*)"),
)


@dataclass(frozen=True)
class Recipe:
    """How to build: a user's configuration (None: the lab's own), make's jobs (None: one a CPU).

    `reuse`: what a tree was built to inside of itself is taken instead.
    """

    config: Path | None = None
    jobs: int | None = None
    reuse: bool = False


AS_USUAL = Recipe()


@dataclass(frozen=True)
class _Build:
    """One build under way."""

    source: Source
    recipe: Recipe
    compiler: Compiler
    tree: Path
    folder: Path
    log: Path
    progress: Progress

    def command(self, *targets: str) -> list[str]:
        jobs = self.recipe.jobs or len(os.sched_getaffinity(0))
        return [
            "make",
            f"-j{jobs}",
            "-C",
            str(self.tree),
            f"O={self.folder}",
            f"CC={self.compiler.make}",
            f"LOCALVERSION={self.source.suffix}",  # empty too: else kbuild adds a plus sign
            "WERROR=0",  # the tree's own tools may warn
            *targets,
        ]


def first_error(log: str) -> str:
    """Return the first error of a build's log, as the compiler, the linker or make says it."""
    lines = log.splitlines()
    for pattern in FIRST_ERRORS:
        for line in lines:
            if match := pattern.match(line.strip()):
                return match[1]
    return lines[-1].strip() if lines else "make said nothing"


def _variables(build: _Build) -> dict[str, str]:
    """Return what make and ccache are told by the environment."""
    return {
        **REPRODUCIBLE,
        # ccache hits in another folder too where paths are relative to the common one.
        "CCACHE_BASEDIR": str(build.folder.parent),
        "CCACHE_NOHASHDIR": "1",
        # A make that called us would lend its options and jobs.
        "MAKEFLAGS": "",
        "MFLAGS": "",
        "MAKELEVEL": "0",
        "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin",  # depmod's place
    }


def _make(build: _Build, *targets: str, heard: Callable[[str], None] | None = None) -> None:
    """Run make, its words appended to the log.  Raises BuildFailed."""
    with build.log.open("a", buffering=1) as log:
        begin = log.tell()
        process = subprocess.Popen(
            build.command(*targets),
            stdin=subprocess.DEVNULL,  # a question of kconfig's gets its default
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment(**_variables(build)),
            start_new_session=True,
        )
        try:
            assert process.stdout is not None
            for line in process.stdout:
                log.write(line)
                if heard:
                    heard(line)
            status = process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            raise
    if status:
        said = build.log.read_bytes()[begin:].decode(errors="replace")
        what = f"build {build.source.named}: {first_error(said)}; see {build.log}"
        raise BuildFailed(what, build.log)


def _configure(build: _Build) -> None:
    """Write the build's .config, and say what it lacks.  Raises UsageError, BuildFailed."""
    options = kconfig.parse(kconfig.lab_text())
    why_no_btf = compiler.why_no_btf(build.tree)
    if why_no_btf:
        options = [option for option in options if option.name != "DEBUG_INFO_BTF"]
        build.progress(f"no BTF: {why_no_btf}")
    build.progress("configuring")
    if build.recipe.config:
        merged = kconfig.merge(kconfig.read(build.recipe.config), options)
        if merged.changed:
            build.progress(f"{build.recipe.config} with {', '.join(merged.changed)}")
        (build.folder / ".config").write_text(kconfig.text_of(merged.values))
        _make(build, "olddefconfig")
    else:
        chosen = build.folder / "lab.config"
        chosen.write_text(kconfig.text_of({option.name: option.value for option in options}))
        _make(build, f"KCONFIG_ALLCONFIG={chosen}", "allnoconfig")
    got = kconfig.values((build.folder / ".config").read_text())
    lacking = kconfig.missing(options, got, "must")
    if lacking:
        raise BuildFailed(
            f"build {build.source.named}: this tree's kconfig will not have {', '.join(lacking)}; "
            f"see {build.log}",
            build.log,
        )
    for option in kconfig.missing(options, got, "shows"):
        build.progress(f"built without {option}")


def _compile(build: _Build) -> None:
    """Compile, saying how far it is."""
    known = build.folder / ".steps"
    anew = not (build.folder / "vmlinux").exists()
    total = int(known.read_text()) if known.is_file() else STEPS
    steps = 0

    def heard(line: str) -> None:
        nonlocal steps
        if STEP.match(line):
            steps += 1
            # What a commit changes is known when it is built.
            build.progress(
                f"compiling: {steps} of about {total}" if anew else f"compiling: {steps}"
            )

    _make(build, "bzImage", "modules", heard=heard)
    if anew:
        known.write_text(str(steps))


def _install(build: _Build, into: Path) -> None:
    """Lay what was built out as an unpacked package."""
    _make(build, f"INSTALL_MOD_PATH={into}", "INSTALL_MOD_STRIP=1", "modules_install")
    release = (build.folder / "include/config/kernel.release").read_text().strip()
    boot = into / "boot"
    boot.mkdir()
    shutil.copyfile(build.folder / BZIMAGE, boot / f"vmlinuz-{release}")
    shutil.copyfile(build.folder / "System.map", boot / f"System.map-{release}")
    shutil.copyfile(build.folder / ".config", boot / f"config-{release}")
    shutil.copyfile(build.log, into / LOG)
    for name in ("build", "source"):  # links to folders that the next build changes
        (into / "lib/modules" / release / name).unlink(missing_ok=True)


def _recipe_key(source: Source, recipe: Recipe, with_: Compiler) -> str:
    """Return what a build depends on besides its source."""
    options = kconfig.parse(kconfig.lab_text())
    wanted = kconfig.text_of({option.name: option.value for option in options})
    own = kconfig.text_of(kconfig.read(recipe.config)) if recipe.config else ""
    return "\n".join((source.suffix, with_.line, shutil.which("pahole") or "", own, wanted))


def _content(build: _Build) -> str:
    """Return what was built, as a text: the digest of each file that is kept."""
    modules = (build.folder / "modules.order").read_text().split()
    files = [BZIMAGE, Path(".config"), *(Path(name).with_suffix(".ko") for name in modules)]
    # modules.order of a tree before 5.5 begins each line with kernel/.
    found = [build.folder / str(name).removeprefix("kernel/") for name in files]
    return "\n".join(cache.digest(file) for file in found)


def _kept(*parts: str) -> Path:
    return cache.folder("built") / hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def build(source: Source, recipe: Recipe, progress: Progress) -> Path:
    """Return the folder of a kernel built from source, as an unpacked package.

    A commit that was built before is not built again.  `progress` hears what is being done.
    Raises BuildFailed with the first error and the log's path; UsageError where it cannot begin.
    """
    compiler.check_tools()
    with_ = compiler.chosen()
    how = _recipe_key(source, recipe, with_)
    kept = _kept(how, source.content) if source.content else None
    if kept and kept.is_dir():
        return kept
    home = trees.home(source)
    progress("checking out")
    with cache.locked(home / ".lock"):
        tree = trees.check_out(source)
        compiler.check(source.named, tree, with_)
        folder = home / "build"
        folder.mkdir(exist_ok=True)
        log = home / LOG
        log.unlink(missing_ok=True)
        under_way = _Build(source, recipe, with_, tree, folder, log, progress)
        edited = source.suffix, trees.edits(source)[1]
        _configure(under_way)
        _compile(under_way)
        if trees.edits(source) != edited:
            raise BuildFailed(
                f"build {source.named}: its files changed meanwhile; build again, or name a "
                f"commit, {source.named}@REVISION"
            )
        place = kept or _kept(how, _content(under_way))
        return cache.made_once(place, lambda into: _install(under_way, into))
