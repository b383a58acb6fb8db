"""The walls: which package may import which, what stays light, what touches the core."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import kvmharness

ROOT = Path(kvmharness.__file__).parent
CORE = "kvm._core"
HEAVY = {"numpy", "scipy", "rich", "matplotlib", "jinja2", "elftools", "plotext"}
# What a compiled core needs that nothing else does.
COMPILED = {"_cffi_backend", "ioctl_opt"}

# What starts a child process.
STARTING = {
    "child.run",
    *(f"subprocess.{name}" for name in ("run", "Popen", "call", "check_call", "check_output")),
    *(f"os.{name}" for name in ("system", "popen", "posix_spawn", "execv", "execve", "execvp")),
}

LEAVES = frozenset({"errors", "text", "files", "inputs", "cache", "child", "scratch"})
# Measuring: model, kvm <- counters <- guest <- measure <- lab <- commands.
# Reading: model <- analysis <- render <- commands.
MAY_IMPORT: dict[str, frozenset[str]] = {
    "_version": frozenset(),
    "errors": frozenset(),
    "text": frozenset(),
    "files": frozenset({"errors"}),
    "inputs": frozenset(),
    "cache": frozenset({"errors", "inputs"}),
    "child": frozenset(),
    "scratch": frozenset(),
    "model": LEAVES,
    "kvm": LEAVES,
    "kernel": LEAVES | {"model"},
    "counters": LEAVES | {"model", "kvm"},
    "guest": LEAVES | {"model", "kvm", "counters"},
    "measure": LEAVES | {"model", "kvm", "counters", "guest", "kernel"},
    "analysis": LEAVES | {"model"},
    "render": LEAVES | {"model", "analysis"},
    "lab": LEAVES | {"model", "kvm", "counters", "guest", "measure", "kernel", "analysis"},
    "commands": LEAVES
    | {"model", "kvm", "counters", "guest", "measure", "kernel", "analysis", "render", "lab"},
    "api": LEAVES | {"model", "kvm", "guest", "measure", "analysis", "render"},
    "cli": LEAVES | {"commands"},
    "__main__": frozenset({"cli", "commands", "errors"}),
}


def package(module: str) -> str:
    """Return the room a module is in, e.g. render of render.report.page."""
    return module.partition(".")[0]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(p for p in parts if p != "__init__")


def files() -> dict[str, Path]:
    """Every module by its dotted name below kvmharness; core_build is run by setup.py only."""
    found = {module_name(p): p for p in ROOT.rglob("*.py") if p.name != "core_build.py"}
    return {name: path for name, path in found.items() if name}


def imported(path: Path) -> set[str]:
    """Names of our modules that a file imports, inside functions and for types too."""
    known = files()
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kvmharness"):
            base = (node.module or "").removeprefix("kvmharness").lstrip(".")
            for alias in node.names:
                name = f"{base}.{alias.name}".lstrip(".")
                found.add(name if name in known or name == CORE else base)
    return found - {""}


def test_every_package_has_its_walls() -> None:
    assert {package(name) for name in files()} == set(MAY_IMPORT)


@pytest.mark.parametrize("name", sorted(MAY_IMPORT))
def test_a_package_imports_what_it_may(name: str) -> None:
    for module, path in files().items():
        if package(module) == name:
            others = {package(other) for other in imported(path)} - {name}
            assert others <= MAY_IMPORT[name], module


def test_no_import_runs_in_a_circle() -> None:
    """Within a package too: whoever takes modules away that import nothing left ends at none."""
    left = {module: imported(path) - {CORE, module} for module, path in files().items()}
    while free := [module for module, needs in left.items() if not needs & set(left)]:
        for module in free:
            del left[module]
    assert not left


def test_one_module_touches_the_core() -> None:
    assert [n for n, p in files().items() if CORE in imported(p)] == ["kvm.raw"]


def children(path: Path) -> list[ast.Call]:
    """Return the calls of a file that start a child process."""
    return [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and ast.unparse(node.func) in STARTING
    ]


def test_every_child_process_speaks_c() -> None:
    found = [(name, call) for name, path in files().items() for call in children(path)]
    assert len(found) > 5
    for name, call in found:
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        # child.run gives it by itself to whoever names none.
        usual = "environment(" if ast.unparse(call.func) == "child.run" else ""
        assert given.get("env", usual).startswith("environment("), (name, call.lineno)


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in out.stdout.split()}


def all_of(*packages: str) -> str:
    names = sorted(f"kvmharness.{n}" for n in files() if package(n) in packages)
    return f"import {', '.join(names)}"


def test_what_runs_inside_a_lab_loads_nothing_heavy() -> None:
    loaded = loaded_by("import kvmharness.model.suites, kvmharness.lab.inside")
    assert "kvmharness" in loaded
    assert not loaded & HEAVY


def test_reading_runs_loads_no_compiled_core() -> None:
    loaded = loaded_by(all_of("model", "analysis", "render"))
    assert {"kvmharness", "numpy"} <= loaded
    assert not loaded & COMPILED


def test_help_imports_neither_statistics_nor_the_core() -> None:
    loaded = loaded_by("import kvmharness.cli")
    assert not loaded & (HEAVY | COMPILED | {"msgspec"})
