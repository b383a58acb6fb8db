"""requirements.lock pins by hash all that pyproject.toml asks for, and set-up takes it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = (ROOT / "requirements.lock").read_text()


def pinned() -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+) \\$", LOCK, re.M))


def test_it_has_every_dependency_in_a_version_that_will_do() -> None:
    wanted = [
        *PROJECT["build-system"]["requires"],
        *PROJECT["project"]["dependencies"],
        *PROJECT["project"]["optional-dependencies"]["test"],
        *PROJECT["project"]["optional-dependencies"]["cluster"],
    ]
    for text in wanted:
        requirement = Requirement(text)
        version = pinned().get(canonicalize_name(requirement.name))
        assert version is not None, f"{text}: not pinned; `make lock` pins anew"
        assert requirement.specifier.contains(version), f"{text}: {version} is pinned; `make lock`"


def test_every_entry_has_a_hash_and_nothing_names_a_registry() -> None:
    entries = re.split(r"^(?=[a-z0-9])", LOCK, flags=re.M)[1:]
    assert len(entries) == len(pinned())
    for entry in entries:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry[:60]
    assert "://" not in LOCK
    assert "--index-url" not in LOCK


def test_set_up_takes_it_and_nothing_else() -> None:
    installs = re.findall(r"^\t\$\(BIN\)/pip install (.+)$", (ROOT / "Makefile").read_text(), re.M)
    set_up = [line for line in installs if "pip-tools" not in line]
    assert set_up
    for line in set_up:
        assert "--require-hashes --no-deps -r requirements.lock" in line or (
            "--no-deps --no-build-isolation" in line
        )
