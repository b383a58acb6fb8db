"""KVM's parameter that lets a guest force the emulation of an instruction.

It is read where KVM handles an undefined instruction, which KVM intercepts in any case, so a
guest that executes none pays nothing for it.  Every VM of the host gets it, though: on a host it is
left as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PARAMETER = Path("/sys/module/kvm/parameters/force_emulation_prefix")
OFF = frozenset({"0", "N"})


@contextmanager
def allowed(may_set: bool, parameter: Path = PARAMETER) -> Iterator[str | None]:
    """Keep the prefix on within a `with` block, set if `may_set`; yield why it is off, or None."""
    try:
        before = parameter.read_text().strip()
    except OSError:
        yield "this KVM has no parameter force_emulation_prefix"
        return
    if before not in OFF:
        yield None
        return
    if not may_set:
        yield f"kvm.force_emulation_prefix is {before}; load kvm with force_emulation_prefix=1"
        return
    try:
        parameter.write_text("1")
    except OSError:
        yield "kvm.force_emulation_prefix cannot be set while this KVM runs"
        return
    try:
        yield None
    finally:
        with suppress(OSError):
            parameter.write_text(before)
