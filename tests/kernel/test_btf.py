"""btf.py against BTF put together here, against bpftool, and against damage."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmharness.kernel.btf import Btf, BtfError, Member, has_string, is_split

VMLINUX = Path("/sys/kernel/btf/vmlinux")
INT, PTR, STRUCT, FWD, FUNC, FUNC_PROTO = 1, 2, 4, 7, 12, 13


class Writer:
    """Writes little BTF: one method a kind, each returns its type id."""

    def __init__(self, names_from: int = 0, ids_from: int = 1) -> None:
        self.strings = b"" if names_from else b"\0"
        self.types = b""
        self.names_from = names_from
        self.next_id = ids_from

    def name(self, text: str) -> int:
        offset = self.names_from + len(self.strings)
        self.strings += text.encode() + b"\0"
        return offset

    def record(self, name: int, kind: int, count: int, word: int, *rest: int) -> int:
        self.types += struct.pack(f"<III{len(rest)}I", name, kind << 24 | count, word, *rest)
        self.next_id += 1
        return self.next_id - 1

    def integer(self, name: str) -> int:
        return self.record(self.name(name), INT, 0, 4, 32)

    def structure(self, name: int | str, *members: tuple[str, int]) -> int:
        words = [w for text, kind in members for w in (self.name(text), kind, 0)]
        offset = self.name(name) if isinstance(name, str) else name
        return self.record(offset, STRUCT, len(members), 8, *words)

    def function(self, name: str) -> int:
        proto = self.record(0, FUNC_PROTO, 0, 0)
        return self.record(self.name(name), FUNC, 1, proto)

    def data(self, layout: bytes = b"") -> bytes:
        size = 32 if layout else 24
        types, strings = len(self.types), len(self.strings)
        head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, size, 0, types, types, strings)
        if layout:
            head += struct.pack("<II", types + strings, len(layout))
        return head + self.types + self.strings + layout


def role_btf(*roles: str, functions: tuple[str, ...] = ()) -> bytes:
    """Return BTF whose struct kvm_mmu has these members, and with these functions."""
    writer = Writer()
    u32 = writer.integer("u32")
    writer.structure("kvm_mmu", ("root", u32), *((role, u32) for role in roles))
    for function in functions:
        writer.function(function)
    return writer.data()


def test_struct_and_function() -> None:
    writer = Writer()
    u32 = writer.integer("u32")
    pointer = writer.record(0, PTR, 0, u32)
    writer.record(writer.name("only_declared"), FWD, 0, 0)
    writer.structure("pair", ("number", u32), ("where", pointer), ("", u32))
    writer.function("make_pair")
    btf = Btf.parse(writer.data())
    found = btf.struct("pair")
    assert found is not None
    assert found.members == (Member("number", "u32"), Member("where", None), Member("", "u32"))
    assert btf.function("make_pair")
    for name in ("", "only_declared", "u32", "make_pair", "pai", "air\0", "absent"):
        assert btf.struct(name) is None, name
        assert btf.function(name) is (name == "make_pair"), name


def test_name_at_the_end_of_a_longer_string() -> None:
    writer = Writer()
    u32 = writer.integer("u32")
    writer.structure(writer.name("old_pair") + len("old_"), ("x", u32))
    assert Btf.parse(writer.data()).struct("pair") is not None


def split_pair() -> tuple[bytes, bytes]:
    base = Writer()
    u32 = base.integer("u32")
    in_base = base.name("named_in_base")
    base.structure("of_base", ("x", u32))
    base.function("base_function")
    split = Writer(names_from=len(base.strings), ids_from=base.next_id)
    split.structure("own", ("y", u32))
    split.structure(in_base, ("z", split.integer("s8")))
    split.function("own_function")
    return base.data(), split.data()


def test_split() -> None:
    base, split = split_pair()
    btf = Btf.parse(split, Btf.parse(base))
    members = {
        name: found.members
        for name in ("of_base", "own", "named_in_base")
        if (found := btf.struct(name))
    }
    assert members == {
        "of_base": (Member("x", "u32"),),
        "own": (Member("y", "u32"),),
        "named_in_base": (Member("z", "s8"),),
    }
    assert btf.function("own_function")
    assert btf.function("base_function")
    assert not Btf.parse(base).function("own_function")


def test_split_without_its_base() -> None:
    base, split = split_pair()
    assert is_split(split)
    assert not is_split(base)
    assert has_string(split, "own")
    assert not has_string(split, "of_base")
    assert not has_string(split, "wn")
    with pytest.raises(BtfError, match="base"):
        Btf.parse(split)


def test_kind_told_by_the_layout_only() -> None:
    writer = Writer()
    writer.record(0, 25, 2, 0, 1, 2, 3)  # 4 bytes, and 4 for each of 2
    writer.function("after")
    with pytest.raises(BtfError, match="kind 25 of type 1"):
        Btf.parse(writer.data())
    layout = bytes(4 * 25) + struct.pack("<BBH", 4, 4, 0)
    assert Btf.parse(writer.data(layout)).function("after")


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (0, b"\xeb\x9f"),
        (2, b"\x02"),
        (4, b"\xff\xff\xff\xff"),
        (12, b"\xff\xff\xff\xff"),
        (20, b"\x03\0\0\0"),
        (24 + 7, b"\x7f"),
    ],
    ids=["big-endian", "version", "header", "types", "last-string", "kind"],
)
def test_damage_is_seen(at: int, value: bytes) -> None:
    data = bytearray(role_btf("cpu_role"))
    data[at : at + len(value)] = value
    with pytest.raises(BtfError):
        Btf.parse(bytes(data))


def ask_everything(data: bytes, base: Btf | None = None) -> None:
    """Parse and look names up; BtfError alone may come of it."""
    try:
        is_split(data)
        btf = Btf.parse(data, base)
        for name in ("kvm_mmu", "own", "u32", "list_head", "task_struct"):
            btf.struct(name)
            btf.function(name)
    except BtfError:
        pass


edits = st.lists(st.tuples(st.integers(min_value=0), st.integers(0, 255)), max_size=8)


def damaged(data: bytes, changes: list[tuple[int, int]], end: int) -> bytes:
    copy = bytearray(data)
    for at, value in changes:
        copy[at % len(copy)] = value
    return bytes(copy[: end % (len(copy) + 1)]) if end else bytes(copy)


@given(edits, st.integers(0, 1000))
@settings(max_examples=400, deadline=None)
def test_damaged_small(changes: list[tuple[int, int]], end: int) -> None:
    ask_everything(damaged(role_btf("cpu_role", functions=("f",)), changes, end))
    base, split = split_pair()
    ask_everything(damaged(split, changes, end), Btf.parse(base))


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_noise(data: bytes) -> None:
    ask_everything(data)
    ask_everything(struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(data), 0, len(data)) + data)


@pytest.fixture(scope="module")
def vmlinux() -> bytes:
    if not VMLINUX.exists():
        pytest.skip(f"{VMLINUX}: this kernel has no BTF")
    return VMLINUX.read_bytes()


@given(changes=edits, count=st.integers(1, 5000), end=st.just(0) | st.integers(0, 1 << 20))
@settings(max_examples=60, deadline=None)
def test_damaged_slices_of_the_running_kernels(
    vmlinux: bytes, changes: list[tuple[int, int]], count: int, end: int
) -> None:
    """The beginning of the types, where the edits then fall, over all or part of the strings."""
    header, type_at, type_size, text_at, text_size = struct.unpack_from("<IIIII", vmlinux, 4)
    start = header + type_at
    types = damaged(vmlinux[start : start + min(count * 4, type_size)], changes, 0)
    strings = vmlinux[header + text_at : header + text_at + text_size][: end or None]
    head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    ask_everything(head + types + strings)


@given(changes=edits, end=st.just(0) | st.integers(min_value=1))
@settings(max_examples=10, deadline=None)
def test_damaged_whole_of_the_running_kernels(
    vmlinux: bytes, changes: list[tuple[int, int]], end: int
) -> None:
    ask_everything(damaged(vmlinux, changes, end))


def test_quick(vmlinux: bytes) -> None:
    before = time.process_time()
    btf = Btf.parse(vmlinux)
    btf.struct("kvm_mmu")
    btf.function("kvm_mmu_load")
    assert time.process_time() - before < 1


@pytest.fixture(scope="module")
def dump(vmlinux: bytes) -> str:
    if shutil.which("bpftool") is None:
        pytest.skip("bpftool is not installed (Debian package bpftool)")
    command = ["bpftool", "btf", "dump", "file", str(VMLINUX)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


@pytest.mark.parametrize("name", ["kvm_mmu", "kvm_vcpu", "task_struct", "list_head"])
def test_members_as_bpftool_says(vmlinux: bytes, dump: str, name: str) -> None:
    block = re.search(rf"\] STRUCT '{name}' .*\n((?:\t.*\n)*)", dump)
    if block is None:
        pytest.skip(f"this kernel's BTF has no struct {name}")
    wanted = ["" if n == "(anon)" else n for n in re.findall(r"^\t'([^']*)'", block[1], re.M)]
    found = Btf.parse(vmlinux).struct(name)
    assert found is not None
    assert [member.name for member in found.members] == wanted


def test_functions_as_bpftool_says(vmlinux: bytes, dump: str) -> None:
    functions = re.findall(r"\] FUNC '([^']*)'", dump)
    others = set(re.findall(r"\] STRUCT '([^']*)'", dump)) - set(functions)
    btf = Btf.parse(vmlinux)
    assert len(functions) > 1000
    kvm = [name for name in functions if name.startswith("kvm_mmu")][:50]
    for name in kvm + functions[:: len(functions) // 100]:
        assert btf.function(name), name
    for name in sorted(others)[:: len(others) // 100]:
        assert not btf.function(name), name
