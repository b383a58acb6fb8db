"""Built as others build it and installed outside of the checkout, it is whole."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest

from tests.cli.test_help import COMMANDS

ROOT = Path(__file__).parents[1]
WHO = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_CONFIG_GLOBAL": "/dev/null"}
WHO |= {name.replace("AUTHOR", "COMMITTER"): value for name, value in WHO.items()}
FOUND = """
import json, sys
from pathlib import Path
import kvmharness
from kvmharness.guest.state import Blob
from kvmharness.lab import capsule
from kvmharness.model import suites
from kvmharness.render.report import page
print(json.dumps({
    "at": kvmharness.__file__, "version": kvmharness.__version__,
    "suites": sorted(suites.built_in()), "cases": len(suites.load("full").cases),
    "capsule": [item.place for item in capsule._base([capsule.INSIDE])],
}))
"""


def call(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, **WHO, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the tree as git has it, into a repository that has no tags."""
    folder = tmp_path_factory.mktemp("clone with a space")
    for name in call("git", "ls-files", "-z", cwd=ROOT).split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    call("git", "init", "-q", cwd=folder)
    call("git", "add", ".", cwd=folder)
    call("git", "commit", "-qm", "all of it", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def installed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build an sdist, of it a wheel, and install that into an environment of its own."""
    work = tmp_path_factory.mktemp("built")
    build = (sys.executable, "-m", "build", "--no-isolation", "--outdir", work)
    call(*build, "--sdist", source, cwd=work)
    (archive,) = work.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        files.extractall(work / "unpacked", filter="data")
    (unpacked,) = (work / "unpacked").iterdir()
    call(*build, "--wheel", unpacked, cwd=work)
    venv = work / "venv"
    call(sys.executable, "-m", "venv", "--without-pip", venv, cwd=work)
    (wheel,) = work.glob("*.whl")
    pip = (sys.executable, "-m", "pip", "--python", venv, "install", "-q")
    call(*pip, "--no-index", "--no-deps", wheel, cwd=work)
    # What it depends on is this environment's: a plain path, so that no checkout comes with it.
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return venv


pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_all_parts_are_found_outside_of_the_checkout(installed: Path, tmp_path: Path) -> None:
    found = json.loads(call(installed / "bin/python", "-c", FOUND, cwd=tmp_path))
    assert Path(found["at"]).is_relative_to(installed)
    assert found["version"].startswith("0.1.")
    assert {"quick", "full", "wx"} <= set(found["suites"])
    assert found["cases"] > 50
    places = "\n".join(found["capsule"])
    for part in ("blobs/long64.bin", "blobs/index.json", "kvmharness/lab/inside.pyc", "_core"):
        assert part in places


def test_commands_run_outside_of_the_checkout(installed: Path, tmp_path: Path) -> None:
    kvmharness = installed / "bin/kvmharness"
    recorded = ROOT / "tests/recordings/run1/6.1-tdp.json"
    assert "long64/cr0_wp" in call(kvmharness, "show", recorded, cwd=tmp_path)
    page = tmp_path / "a page.html"
    call(kvmharness, "report", recorded, "-o", page, cwd=tmp_path)
    assert "<svg " in page.read_text()
    assert "--variant" in call(kvmharness, "lab", "--help", cwd=tmp_path)
    assert "wx" in call(kvmharness, "run", "--suite", "wx", "--list", cwd=tmp_path)
    done = subprocess.run([kvmharness, "doctor"], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 77), done.stderr
    assert "lab tcg-svm" in done.stdout


def test_manual_pages_and_completions_are_installed(installed: Path) -> None:
    pages = {path.name for path in (installed / "share/man/man1").iterdir()}
    shown = {path for path, command in COMMANDS.items() if not command.hidden}
    assert pages == {f"{'-'.join(('kvmharness', *path))}.1" for path in [(), *shown]}
    for place in ("bash-completion/completions/kvmharness", "zsh/site-functions/_kvmharness"):
        assert "_KVMHARNESS_COMPLETE" in (installed / "share" / place).read_text()


def test_manual_pages_have_every_option_and_no_mistakes(installed: Path) -> None:
    for path in (installed / "share/man/man1").iterdir():
        if shutil.which("groff"):
            command = ["groff", "-man", "-Tutf8", "-ww", str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            assert done.stderr == "", path.name
    text = (installed / "share/man/man1/kvmharness-run.1").read_text().replace("\\-", "-")
    for option in (o for p in COMMANDS["run",].params for o in p.opts if o.startswith("--")):
        assert option in text


def test_the_version_is_the_tags(source: Path) -> None:
    def version() -> str:
        return call(sys.executable, "-m", "setuptools_scm", cwd=source).strip()

    assert version().startswith("0.1.1.dev1+g")  # no tag yet
    call("git", "tag", "v9.8", cwd=source)
    try:
        assert version() == "9.8"
    finally:
        call("git", "tag", "-d", "v9.8", cwd=source)
