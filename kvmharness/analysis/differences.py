"""What lies between two sides of runs: what is compared, what could explain it away."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from kvmharness.model.host import Cpu, Lab
from kvmharness.model.run import Run

Facts = Mapping[str, object]

# The modules' parameters that choose the MMU: these are compared, all others disturb.
MMU_PARAMETERS = frozenset({"tdp_mmu", "npt", "ept"})
# A parameter that was an integer in one kernel is a bool in the next.
BOOLS = {"Y": "1", "N": "0"}
# How the kernel says that a CPU needs no mitigation: as good as not knowing of the weakness.
NOT_AFFECTED = "Not affected"
# Words of a kernel command line that are listed as parameters, or that only carry a lab's job.
LISTED = ("kvm.", "kvm_amd.", "kvm_intel.")
JOB = ("virtme", "/virtme-init-", "init=")


def _text(value: object) -> str:
    if value is None:
        return "unknown"
    return ("off", "on")[value] if isinstance(value, bool) else str(value)


def _cpu(cpu: Cpu) -> str:
    return f"{cpu.vendor} family {cpu.family} model {cpu.model} stepping {cpu.stepping}"


def _mitigation(state: str) -> str:
    """Return a mitigation's state as every kernel could have put it."""
    parts = [part.strip() for part in re.split("[,;]", state)]
    return ", ".join(p for p in parts if not p.endswith(NOT_AFFECTED)) or NOT_AFFECTED


def _cpu_state(cpu: Cpu, of: str = "") -> Facts:
    return {
        f"{of}microcode": cpu.microcode,
        f"{of}governor": cpu.governor,
        f"{of}turbo": cpu.turbo,
        f"{of}SMT": cpu.smt_active,
        f"{of}CPUs online": cpu.online,
        **{f"{of}mitigation {n}": _mitigation(state) for n, state in cpu.mitigations.items()},
    }


def _parameters(run: Run, wanted: Callable[[str], bool]) -> Facts:
    return {
        f"{module}.{name}": BOOLS.get(value, value)
        for module, parameters in run.host.kvm.parameters.items()
        for name, value in parameters.items()
        if wanted(name)
    }


def kernel(run: Run) -> str:
    """Return which kernel a run measured, and in a lab its variant."""
    lab = run.host.lab
    release = run.host.kernel.release
    return _on(f"{release} {lab.variant}", lab) if lab else release


def _on(text: str, lab: Lab) -> str:
    """Add the kernel below, where there are two levels: `6.1 tdp on 5.10 tdp`."""
    below = lab.below
    if below is None or below.lab is None:
        return text
    return f"{text} on {below.kernel.release} {below.lab.variant}"


def subject(run: Run) -> Facts:
    """Return what somebody compares: the kernel, how it was built, which MMU it uses."""
    lab = run.host.lab
    return {
        "kernel": kernel(run),
        "build": run.host.kernel.build,
        **_parameters(run, MMU_PARAMETERS.__contains__),
        **{f"module {name}": f"sha256 {sha}" for name, sha in (lab.modules if lab else {}).items()},
    }


def _inside(lab: Lab) -> Facts:
    """Return what carried the harness into a lab: virtme-ng, or since run/2 a capsule."""
    carriers = {"virtme-ng": lab.virtme_ng, "capsule": lab.capsule and f"sha256 {lab.capsule}"}
    return {name: what for name, what in carriers.items() if what}


def _surroundings(run: Run) -> Facts:
    """Return what should have been the same on both sides."""
    host, lab, settings = run.host, run.host.lab, run.settings
    facts = {
        "tool version": run.tool.version,
        "host": host.name,
        "machine": lab.machine if lab else "no lab",
        "hypervisor": host.hypervisor or "none",
        "KVM module": host.kvm.module,
        "clocksource": host.clocksource,
        "TSC": host.tsc_unstable or "trusted",
        # In GiB, as kernels keep some MiB more or less to themselves.
        "memory": host.memory_bytes and f"{host.memory_bytes / 2**30:.2g} GiB",
        "pinned to CPU": "none" if settings.cpu is None else settings.cpu,
        **_cpu_state(host.cpu),
        **_parameters(run, lambda name: name not in MMU_PARAMETERS),
    }
    if lab:
        facts |= {
            lab.emulator.name: lab.emulator.version,
            **_inside(lab),
            "L0 host": lab.l0.name,
            "L0 kernel": f"{lab.l0.kernel.release} {lab.l0.kernel.build}",
            "L0 command line": lab.l0.kernel.cmdline,
            "L0 KVM module": lab.l0.kvm_module or "none",
            "L0 CPU": f"{lab.l0.cpu.model_name}, {_cpu(lab.l0.cpu)}",
            "L0 hypervisor": lab.l0.hypervisor or "none",
            **_cpu_state(lab.l0.cpu, "L0 "),
        }
    return facts


def _values(runs: Iterable[Run], facts: Callable[[Run], Facts]) -> dict[str, list[str]]:
    """Return each fact's values over a side's runs, each once, in their order."""
    values: dict[str, dict[str, None]] = {}
    for run in runs:
        for name, value in facts(run).items():
            values.setdefault(name, {})[_text(value)] = None
    return {name: list(given) for name, given in values.items()}


def _changes(
    base: Sequence[Run], new: Sequence[Run], facts: Callable[[Run], Facts]
) -> dict[str, str]:
    """Return the facts whose values differ, as `a → b`; those that one side lacks are no change.

    A mitigation that one kernel only has, and needs, does explain a difference.
    """
    old, young = _values(base, facts), _values(new, facts)
    changes = {}
    for name in {**old, **young}:
        a, b = old.get(name), young.get(name)
        if "mitigation " in name:
            a, b = a or [NOT_AFFECTED], b or [NOT_AFFECTED]
        if a and b and (a != b or len(a) > 1):
            changes[name] = f"{', '.join(a)} → {', '.join(b)}"
    return changes


def _words(runs: Iterable[Run]) -> dict[str, None]:
    """Return the words of the kernel command lines that say something of their own."""
    return {
        word: None
        for run in runs
        for word in (run.host.kernel.cmdline or "").split()
        if not word.startswith((*LISTED, *JOB) if run.host.lab else LISTED)
    }


def _options(runs: Iterable[Run]) -> dict[str, None]:
    """Return what is set of the kernels' configurations."""
    return {
        f"{name}={value}": None
        for run in runs
        for name, value in (run.host.kernel.config or {}).items()
    }


def compared(base: Sequence[Run], new: Sequence[Run]) -> list[str]:
    """Say what is compared, one line per fact: `kernel 5.10.0 → 6.1.0`; empty for one kernel."""
    changes = _changes(base, new, subject)
    if "kernel" in changes:
        # Another kernel has another build and other modules: they tell builds of one apart.
        changes = {n: c for n, c in changes.items() if n != "build" and not n.startswith("module ")}
    return [f"{name} {change}" for name, change in changes.items()]


def differing(base: Sequence[Run], new: Sequence[Run]) -> list[str]:
    """Say what else differs and could explain a change away, one line per fact."""
    changes = _changes(base, new, _surroundings)
    sources = {"kernel command line": _words}
    if all(run.host.kernel.config for run in (*base, *new)):
        sources["configuration"] = _options
    for name, words in sources.items():
        old, young = words(base), words(new)
        gone = " ".join(word for word in old if word not in young)
        come = " ".join(word for word in young if word not in old)
        if gone or come:
            changes[name] = f"{gone or 'nothing'} → {come or 'nothing'}"
    return [f"{name}: {change}" for name, change in changes.items()]


def _lab_cpu(lab: Lab) -> str:
    emulators = [lab.emulator]
    if lab.below and lab.below.lab:
        emulators.append(lab.below.lab.emulator)
    return " in ".join([lab.emulator.cpu, *(f"{e.name} {e.version}" for e in emulators)])


def _identity(run: Run) -> Facts:
    """Return what no two runs may differ in: the clock, and the CPU that it measured."""
    lab = run.host.lab
    facts: dict[str, object] = {"clock": run.clock, "CPU": _cpu(run.host.cpu)}
    facts["CPU of the lab"] = _lab_cpu(lab) if lab else "no lab"
    if lab and run.clock != "insn":
        facts["CPU of L0"] = _cpu(lab.l0.cpu)
    return facts


def why_not_comparable(base: Sequence[Run], new: Sequence[Run]) -> str | None:
    """Return why no case of these runs can be compared, None where they can."""
    for name, change in _changes(base, new, _identity).items():
        return f"another {name}: {change}"
    return None


def why_not_guest(base: Sequence[Run], new: Sequence[Run], mode: str) -> str | None:
    """Return why this guest's cases cannot be compared: another blob, or none recorded."""
    sums = {run.tool.guests.get(mode) for run in (*base, *new)}
    if None in sums:
        return f"the sha256 of guest {mode} was not recorded"
    return None if len(sums) == 1 else f"another guest blob: the sha256 of {mode} differs"
