"""The lab's own configuration, and what becomes of a user's."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvmharness.errors import UsageError
from kvmharness.kernel import kconfig

OPTIONS = kconfig.parse(kconfig.lab_text())


def test_every_option_is_there_once_and_says_why() -> None:
    names = [option.name for option in OPTIONS]
    assert len(set(names)) == len(names)
    # The mitigations are one paragraph, which says why it is there.
    unsaid = {option.name for option in OPTIONS if not option.reason}
    assert all("MITIGATION" in n or n.startswith(("CPU_", "RET", "PAGE", "SLS")) for n in unsaid)


def test_a_line_is_parsed() -> None:
    text = "# a comment\n\nKVM=m  # must: the thing\nHZ_250=y\t# so\nSLS=y\n"
    assert kconfig.parse(text) == [
        kconfig.Option("KVM", "m", "must", "the thing"),
        kconfig.Option("HZ_250", "y", "", "so"),
        kconfig.Option("SLS", "y", "", ""),
    ]
    with pytest.raises(ValueError, match="is no option"):
        kconfig.parse("KVM m\n")


def test_what_kconfig_writes_is_read_back() -> None:
    values = {"KVM": "m", "NET": "n", "LOCALVERSION": '"-x"', "NR_CPUS": "64"}
    assert kconfig.values(kconfig.text_of(values)) == values


def test_a_users_configuration_gets_what_no_lab_can_do_without() -> None:
    mine = {"KVM": "n", "NET": "y", "SERIAL_8250": "m", "SYSTEM_TRUSTED_KEYS": '"debian.pem"'}
    merged = kconfig.merge(mine, OPTIONS)
    assert merged.values["KVM"] == "m"
    assert merged.values["SYSTEM_TRUSTED_KEYS"] == '""'
    assert "KVM=m (was n)" in merged.changed
    assert 'SYSTEM_TRUSTED_KEYS="" (was "debian.pem")' in merged.changed
    assert not [line for line in merged.changed if line.startswith("NET=")]
    # What only shows more is the user's to choose: it moves figures.
    assert "FUNCTION_TRACER" not in merged.values
    assert kconfig.merge(merged.values, OPTIONS).changed == []


def test_what_a_tree_lacks_is_named_with_its_reason() -> None:
    got = {option.name: option.value for option in OPTIONS}
    assert kconfig.missing(OPTIONS, got, "must") == []
    assert kconfig.missing(OPTIONS, {**got, "KVM": "y"}, "must") == []
    assert kconfig.missing(OPTIONS, {**got, "KVM": "n"}, "must") == ["KVM (the thing itself)"]
    assert kconfig.missing(OPTIONS, got | {"KPROBES": "n"}, "shows") == ["KPROBES (probes)"]


@pytest.mark.parametrize("content", [b"", b"hello\n", b"\xff\xfe\x00"])
def test_what_is_no_configuration(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"--config .*; name a kernel's \.config"):
        kconfig.read(path)


def test_what_a_run_records_of_a_configuration() -> None:
    got = {"CONFIG_KVM": "m", "CONFIG_SOUND": "y", "CONFIG_CC_VERSION_TEXT": '"gcc 12"'}
    assert kconfig.asked(got) == {"KVM": "m", "CC_VERSION_TEXT": '"gcc 12"'}
    assert kconfig.asked(None) is None
