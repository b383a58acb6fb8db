"""Imports run one way, the measuring path stays light, one module touches the core."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import kvmharness

ROOT = Path(kvmharness.__file__).parent
CORE = "kvm._core"
HEAVY = {"numpy", "scipy", "rich", "matplotlib", "jinja2", "elftools", "plotext"}

# Data flows down this list: a module imports only from those above it.
ORDER = """
    errors text cache files analysis analysis.profile model model.counters model.cases
    model.suites kvm kvm.raw kvm.exits kvm.fds guest guest.paging guest.state guest.wx_check
    guest.vcpu_threads model.run model.runfile kernel kernel.btf kernel.unpacking kernel.image
    kernel.roles measure measure.host counters counters.source counters.kvmstats counters.perf
    counters.events counters.functions counters.reasons counters.profile guest.vm
    measure.feasible measure.session measure.counting measure.collect lab kernel.variants
    lab.job lab.inside measure.profile analysis.classify analysis.stats analysis.summary
    measure.running analysis.load render render.tables render.curves render.distributions
    analysis.ratios analysis.differences analysis.causes analysis.compare render.compare_table
    analysis.expectations measure.doctor render.export render.export.outcome render.export.csv
    render.export.pyperf render.export.junit render.export.ktap render.report render.report.svg
    render.report.axes render.report.figures render.report.hosts render.report.page
    kernel.debian kernel.resolve kernel.modules lab.machines lab.boot lab.pack lab.matrix
    commands commands.progress commands.options commands.completion commands.settle commands.run
    commands.lab commands.booting commands.kernels commands.show commands.compare commands.check
    commands.report commands.export commands.perf commands.doctor cli __main__
""".split()


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(p for p in parts if p != "__init__")


def imported(path: Path) -> set[str]:
    """Names of our modules that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kvmharness"):
            base = (node.module or "").removeprefix("kvmharness").lstrip(".")
            for alias in node.names:
                name = f"{base}.{alias.name}".lstrip(".")
                found.add(name if name in ORDER or name == CORE else base)
    return found - {""}


def files() -> dict[str, Path]:
    return {module_name(p): p for p in ROOT.rglob("*.py") if p.name != "core_build.py"}


def test_every_module_has_its_place() -> None:
    assert set(files()) - {""} == set(ORDER)


def test_imports_run_one_way() -> None:
    for name, path in files().items():
        if name:
            above = set(ORDER[: ORDER.index(name)]) | {CORE}
            assert imported(path) <= above, name


def test_one_module_touches_the_core() -> None:
    assert [n for n, p in files().items() if CORE in imported(p)] == ["kvm.raw"]


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in out.stdout.split()}


def test_measuring_imports_nothing_heavy() -> None:
    loaded = loaded_by("import kvmharness.model.suites, kvmharness.lab.inside")
    assert "kvmharness" in loaded
    assert not loaded & HEAVY


def test_help_imports_neither_statistics_nor_the_core() -> None:
    loaded = loaded_by("import kvmharness.cli")
    assert not loaded & (HEAVY | {"msgspec", "cffi", "_cffi_backend"})
