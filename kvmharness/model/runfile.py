"""Read and write result files."""

from __future__ import annotations

from pathlib import Path

import msgspec

from kvmharness import files, inputs
from kvmharness.errors import UsageError
from kvmharness.model import jsonfile
from kvmharness.model.cases import MOST_CASES
from kvmharness.model.clocks import UNITS
from kvmharness.model.run import LEAST_PER_OP, MOST_PER_OP, SCHEMA, CaseResult, Run
from kvmharness.model.upgrade import STEPS, upgrade


class _Header(msgspec.Struct):
    """What is looked at before all of it is taken apart: of a million cases not one is."""

    schema: str
    cases: list[msgspec.Raw] = []


def encode(run: Run) -> bytes:
    """Return the file's text: JSON, indented, with a final newline."""
    return msgspec.json.format(msgspec.json.encode(run), indent=1) + b"\n"


def read(path: Path) -> Run:
    """Read a result file.  Raises UsageError for anything that is not one."""
    try:
        data = inputs.read(path)
    except OSError as error:
        raise UsageError(f"read {path}: {error.strerror}; name a result file") from None
    return decode(data, path)


def decode(data: bytes, path: Path | str) -> Run:
    """Return the run that a result file's bytes hold; `path` names them in errors.

    Raises UsageError for anything that is not one.
    """
    try:
        header = msgspec.json.decode(data, type=_Header)
        if len(header.cases) > MOST_CASES:
            raise msgspec.ValidationError(f"{len(header.cases):,} cases, over {MOST_CASES:,}")
        schema = header.schema
        if schema == SCHEMA:
            run = jsonfile.decode(data, Run)
        elif schema in STEPS:
            document = jsonfile.decode(data, dict)
            upgrade(document)
            run = msgspec.convert(document, type=Run)
        else:
            raise UsageError(
                f"read {path}: schema {schema!r} where {SCHEMA!r} is needed; use the kvmharness "
                "that wrote it"
            )
    except msgspec.ValidationError as error:
        raise UsageError(f"read {path}: not a run: {error}; measure again") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"read {path}: not JSON or cut short: {error}; measure again") from None
    wrong = _contradiction(run)
    if wrong:
        raise UsageError(f"read {path}: not a run: {wrong}; measure again")
    return run


def _wrong_samples(case: CaseResult) -> str | None:
    """Say what is wrong with a case's raw figures."""
    late = case.deferred_samples
    if len(case.vms) != len(case.samples):
        return f"{len(case.samples)} samples of {len(case.vms)} VMs"
    if not all(s == 0 or LEAST_PER_OP <= s < MOST_PER_OP for s in case.samples):
        return "a sample is out of range"
    if len(case.deferred_vms) != len(late):
        return f"{len(late)} figures of deferred work of {len(case.deferred_vms)} VMs"
    if not all(abs(ns) < MOST_PER_OP for ns in late):
        return "deferred work is out of range"
    if not all(LEAST_PER_OP <= ticks < MOST_PER_OP for ticks in case.paces):
        return "a pace is out of range"
    return None


def _contradiction(run: Run) -> str | None:
    """Say where a file that has the right types contradicts itself."""
    names = [case.name for case in run.cases]
    if len(set(names)) != len(names):
        return "a case comes twice"
    for case in run.cases:
        wrong = _wrong_samples(case)
        if wrong:
            return f"{case.name}: {wrong}"
        if case.unit != UNITS[run.clock]:
            return f"{case.name}: unit {case.unit!r} by the clock {run.clock}"
        if case.tsc_khz is not None and not 0 < case.tsc_khz < MOST_PER_OP:
            return f"{case.name}: tsc_khz is out of range"
    return None


def write(path: Path, run: Run) -> None:
    """Write a result file, whole or not at all."""
    files.write_whole(path, encode(run))
