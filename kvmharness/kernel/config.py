"""How a kernel was configured, and what it lacks of what the lab needs."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from kvmharness.errors import UsageError
from kvmharness.kernel import resolve
from kvmharness.kernel.resolve import Kernel

# kernel/configs.c: a gzip stream follows this; a configuration has 0.3 MB.
BEGIN, LIMIT = b"IKCFG_ST", 4 << 20
# What the capsule needs of a kernel to begin and to be heard.
NEEDED = """
    CONFIG_X86_64 CONFIG_BLK_DEV_INITRD CONFIG_BINFMT_ELF CONFIG_BINFMT_SCRIPT CONFIG_DEVTMPFS
    CONFIG_PROC_FS CONFIG_SYSFS CONFIG_TTY CONFIG_PRINTK CONFIG_SERIAL_8250
    CONFIG_SERIAL_8250_CONSOLE CONFIG_POSIX_TIMERS CONFIG_FUTEX CONFIG_MULTIUSER
""".split()
# Built in or as modules.
EITHER = "CONFIG_KVM"
VENDORS = {"kvm_amd": "CONFIG_KVM_AMD", "kvm_intel": "CONFIG_KVM_INTEL"}


def parse(text: str) -> dict[str, str]:
    """Return the options that a .config sets, name to value; what is not set is left out."""
    return dict(re.findall(r"^(CONFIG_\w+)=(.*)$", text, re.MULTILINE))


def _places(kernel: Kernel) -> Iterable[Path]:
    """Yield where a kernel's configuration may lie as a file."""
    yield kernel.image.with_name(f"config-{kernel.release}")
    yield kernel.image.with_name("config")
    if kernel.modules:
        yield kernel.modules / "config"
    if kernel.image.match(str(resolve.BZIMAGE)):
        yield kernel.image.parents[3] / ".config"


def embedded(vmlinux: bytes) -> str | None:
    """Return the configuration that a kernel carries (CONFIG_IKCONFIG), None where it has none."""
    begin = vmlinux.find(BEGIN)
    if begin < 0:
        return None
    try:
        text = zlib.decompressobj(wbits=31).decompress(vmlinux[begin + len(BEGIN) :], LIMIT)
    except zlib.error:
        return None
    return text.decode(errors="replace")


def file_of(kernel: Kernel) -> Path | None:
    """Return the file that has a kernel's configuration, None where there is none."""
    return next((path for path in _places(kernel) if path.is_file()), None)


def of(kernel: Kernel) -> dict[str, str] | None:
    """Return how a kernel was configured, None where nothing tells.  Raises UsageError."""
    path = file_of(kernel)
    if path:
        try:
            return parse(path.read_text(errors="replace"))
        except OSError as error:
            raise UsageError(f"read {path}: {error.strerror}; make it readable") from None
    text = embedded(resolve.bootable(kernel).read_bytes())
    return parse(text) if text else None


def lacking(config: Mapping[str, str], vendor: str) -> list[str]:
    """Return the options that are off and that the lab needs, for a vendor module's machine."""
    missing = [name for name in NEEDED if config.get(name) != "y"]
    either = [EITHER, VENDORS[vendor]]
    return missing + [name for name in either if config.get(name) not in ("y", "m")]
