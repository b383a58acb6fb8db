"""Where a machine stops, to be saved and gone on with later, and how it is told its job then.

Both by devices of QEMU's, and by instructions that wait for nobody: the machine stops at this one,
and finds its job there before the next one.  So it executes the same, however often it goes on and
whenever.  Its clock alone may differ: QEMU, before it knows that it has stopped, may take the CPU
for idle and let the clock jump to the next tick.  So the machine stops right before one, which then
meets the same process in the same mode either way, and waits for a time that comes after both.
Light: one side of it runs inside.
"""

from __future__ import annotations

import time

from kvmharness.kvm import raw

# docs/specs/pvpanic.rst: a device that is written to when a guest has panicked.
PANIC_PORT, PANICKED = 0x505, 1
# docs/specs/fw_cfg.rst: files that QEMU shows its guest; those of others begin with opt/.
SELECT, DATA, DIRECTORY = 0x510, 0x511, 0x19
NAME = "opt/kvmharness/job"
ENTRY = 64
# Without it no process may use the ports; kernels before v5.5 are not asked.
NEEDED = "CONFIG_X86_IOPL_IOPERM"
# What the inside says before it stops: whoever panics has not said it.
READY = "ready"
# ns.  From the stop to the tick: more than the way to it takes, and less than reading the job.
LEAD, LONGEST = 40_000, 200_000_000
# The machine goes on with its work at a multiple of this: longer than any tick.
STEP = 100_000_000


def _select(key: int, size: int) -> bytes:
    raw.port_write(SELECT, key, size=2)
    return raw.port_read(DATA, size)


def _found() -> tuple[int, int] | None:
    """Return key and size of the job, None where there is none."""
    count = int.from_bytes(_select(DIRECTORY, 4))
    rows = raw.port_read(DATA, count * ENTRY)  # read on: the count is followed by the entries
    for at in range(0, len(rows), ENTRY):
        row = rows[at : at + ENTRY]
        if row[8:].rstrip(b"\0") == NAME.encode():
            return int.from_bytes(row[4:6]), int.from_bytes(row[:4])
    return None


def until_told() -> bytes:
    """Stop the machine; return the job that it finds when it goes on.  Raises OSError."""
    raw.open_ports(PANIC_PORT, 1)
    raw.open_ports(SELECT, 2)
    raw.before_tick(LEAD, LONGEST)
    raw.port_write(PANIC_PORT, PANICKED)
    found = _found()
    if found is None:
        raise OSError("the machine went on and was given no job")
    job = _select(*found)
    raw.sleep_until((time.monotonic_ns() // STEP + 1) * STEP)
    return job
