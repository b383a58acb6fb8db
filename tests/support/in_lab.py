"""Run the KVM tests inside a kernel booted in a lab: what `pytest --lab KERNEL` does."""

from __future__ import annotations

import importlib.metadata
import pkgutil
import re
import shlex
import sysconfig
from pathlib import Path

import _pytest
import hypothesis
import rich

import kvmharness
from kvmharness.kernel import modules, resolve, variants
from kvmharness.kernel.variants import Module
from kvmharness.lab import capsule, engine, machines
from kvmharness.lab.boot import CONSOLE, Boot, LabMachine
from kvmharness.lab.capsule import Item
from kvmharness.lab.workshop import Workshop
from tests.support.kernels import newest

ROOT = Path(__file__).parents[2]
INSIDE = "tests-of-kvmharness"
# Importing them takes a minute on an emulated CPU, and a test that fails says nothing meanwhile.
SILENT_S = 900.0
# 6.1, say: the newest that is packaged, since mirrors drop old ones.
SERIES = re.compile(r"\d+(\.\d+)?")
OPTIONS = "-v -m kvm -p no:cacheprovider -p pytest_timeout -o timeout=900 --color=no"
STATUS = "status"
# Of the standard library, what no test needs.
SPARED = {"ensurepip", "idlelib", "lib2to3", "site-packages", "test", "tests", "tkinter"}
PYTEST = "import pytest, sys; sys.exit(pytest.main())"
# What draws has libraries heavier than all the rest, and no test marked kvm uses it.
LEFT_OUT = (
    "kvmharness.render.report",
    "kvmharness.kvm.core_build",
    "kvmharness.__main__",
    "rich.__main__",
    "rich._win",
)
# Sent at the end, since a machine is whole with it only.
SEND = (
    "from kvmharness.lab.wire import Sender; port = open('/dev/ttyS1', 'r+b', buffering=0); "
    "Sender(port).send('status', open('/tmp/status', 'rb').read()); "
    "Sender(port).send('outcome.json', b'{\"state\":\"done\"}')"
)


def _kvm_tests() -> list[Path]:
    found = [p for p in sorted(ROOT.glob("tests/*/test_*.py")) if "mark.kvm" in p.read_text()]
    # Those of the host's limits, users and signals tell nothing of the kernel inside.
    return [p for p in found if p.parent.name != "reliability"]


def _names() -> list[str]:
    """Return the modules to load so as to find all that the tests may load."""
    packages = [(kvmharness.__path__, "kvmharness."), (_pytest.__path__, "_pytest.")]
    packages.append((hypothesis.internal.__path__, "hypothesis.internal."))
    packages.append((rich.__path__, "rich."))  # what it prints decides what it loads
    found = [m.name for path, prefix in packages for m in pkgutil.walk_packages(path, prefix)]
    own = [str(p.relative_to(ROOT).with_suffix("")).replace("/", ".") for p in _kvm_tests()]
    # QEMU's plugin has the name of a module that it is not.
    kept = [x for x in found if not x.startswith(LEFT_OUT) and x.replace(".", "").isidentifier()]
    return [*capsule.LAZY, "pytest", "pytest_timeout", "tests.conftest", *own, *kept]


def _metadata() -> list[Item]:
    """Return what packages say of themselves: some ask for their own version."""
    found = [f for d in importlib.metadata.distributions() for f in d.files or ()]
    kept = [f for f in found if f.name == "METADATA"]
    return [Item(f"{capsule.LIBRARY}/{f}", str(f.locate())) for f in kept]


def _standard_library() -> list[Item]:
    """Return all of it: pytest and the tests load much of it late."""
    root = Path(sysconfig.get_path("stdlib"))
    found = [path.relative_to(root) for path in root.rglob("*.py")]
    kept = [path for path in sorted(found) if not SPARED & set(path.parts)]
    compiled = [Item(f"{capsule.LIBRARY}/{p}c", str(root / p), "compile") for p in kept]
    shared = sorted((root / "lib-dynload").glob("*.so"))
    return compiled + [Item(f"{capsule.LIBRARY}/{p.name}", str(p), "strip") for p in shared]


def _items() -> list[Item]:
    standard = _standard_library()
    loaded = standard + [item for item in capsule.modules(_names()) if "/tests/" not in item.place]
    libraries = capsule.libraries(capsule.binaries(loaded))
    # pytest rewrites the tests' sources.
    kept = [p for p in ROOT.glob("tests/**/*") if p.is_file() and p.suffix != ".pyc"]
    kept += [ROOT / "pyproject.toml", *ROOT.glob("bench/*"), *ROOT.glob("guests/*")]
    sources = [Item(f"{INSIDE}/{p.relative_to(ROOT)}", str(p)) for p in kept if p.is_file()]
    # Started by tests of the command line, never imported.
    main = Path(kvmharness.__file__).with_name("__main__.py")
    started = Item(f"{capsule.LIBRARY}/kvmharness/__main__.pyc", str(main), "compile")
    return [*loaded, *libraries, *sources, *_metadata(), started]


def _command(loaded: list[tuple[Module, Path]], only: str) -> str:
    """Return the shell command that loads KVM, runs the tests and sends their exit status."""
    chosen = f"-k {shlex.quote(only)}" if only else ""
    files = " ".join(str(path.relative_to(ROOT)) for path in _kvm_tests())
    return "\n".join(
        [
            "echo progress testing > /dev/ttyS1",
            *(f"insmod /{capsule.JOB_AT}/{module.file}" for module, _ in loaded),
            f"cd /{INSIDE}",
            "export PYTHONDONTWRITEBYTECODE=1 KVMHARNESS_REQUIRE_KVM=1",
            "export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1",
            f"python3 -c {shlex.quote(PYTEST)} {OPTIONS} {chosen} {files} 2>&1",
            "echo $? > /tmp/status",
            f"python3 -c {shlex.quote(SEND)}",
        ]
    )


def _boot(named: str, kind: LabMachine, folder: Path, only: str) -> Boot:
    kernel = resolve.resolve(newest(named) if SERIES.fullmatch(named) else named)
    wanted = variants.parse("default").parameters(kind.vendor)
    loaded, _ = modules.prepare(kernel, wanted, None)
    files = {module.file: path.read_bytes() for module, path in loaded}
    capsule.job(folder / "job.cpio", files, _command(loaded, only))
    tests = capsule.part("tests", str(ROOT), _items)
    parts = [part.path for part in (capsule.base(), capsule.perf(), tests) if part]
    return Boot(kernel, kind, [*parts, folder / "job.cpio"], (), folder, SILENT_S)


def run_tests(named: str, only: str, machine: str | None) -> int:
    """Boot, run the tests marked kvm (those that `only` selects), return pytest's status."""
    kind = machines.choose(machine)
    with Workshop() as workshop:
        folder = workshop.job()
        boot = _boot(named, kind, folder, only)
        left = engine.Runner().run(boot, lambda line: print(f"{named}: {line}", flush=True))
        console = (folder / CONSOLE).read_text(errors="replace")
    print(console[max(console.find("=== test session") - 20, 0) :])
    if left.lost:
        print(f"lost: {left.lost}")
        return 4
    return int(left.files[STATUS])
