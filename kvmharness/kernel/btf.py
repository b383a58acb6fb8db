"""A reader of BTF, the kernel's own type information: bytes in, a few objects out.

No maintained Python library reads BTF, and `bpftool` is not on every host.  This one answers
two questions only: which members a struct has, and whether a function is recorded.  It reads
little-endian BTF, whole (vmlinux's) or split (a module's, on top of vmlinux's).
Source: the kernel's Documentation/bpf/btf.rst and include/uapi/linux/btf.h.
"""

from __future__ import annotations

import struct
from array import array
from typing import NamedTuple, Self

MAGIC = 0xEB9F
VERSION = 1
_HEADER = struct.Struct("<HBBIIIII")
# Newer writers append the place of a table that says how long each kind's record is.
_LAYOUT_AT = struct.Struct("<II")
_LAYOUT = struct.Struct("<BBH")
_RECORD = struct.Struct("<III")
_RECORD_HEAD = struct.Struct("<II")
_MEMBER = struct.Struct("<III")

_STRUCT = 4
_FUNC = 12
# Kind: bytes that follow the record, and bytes for each of its vlen elements.
_SIZES = {
    1: (4, 0),  # INT
    2: (0, 0),  # PTR
    3: (12, 0),  # ARRAY
    _STRUCT: (0, 12),
    5: (0, 12),  # UNION
    6: (0, 8),  # ENUM
    7: (0, 0),  # FWD
    8: (0, 0),  # TYPEDEF
    9: (0, 0),  # VOLATILE
    10: (0, 0),  # CONST
    11: (0, 0),  # RESTRICT
    _FUNC: (0, 0),  # its vlen is the linkage
    13: (0, 8),  # FUNC_PROTO
    14: (4, 0),  # VAR
    15: (0, 12),  # DATASEC
    16: (0, 0),  # FLOAT
    17: (4, 0),  # DECL_TAG
    18: (0, 0),  # TYPE_TAG
    19: (0, 12),  # ENUM64
}
# KSYM_NAME_LEN in include/linux/kallsyms.h; it also bounds what a hostile file can make of
# one struct whose members all name the same long string.
_NAME_MAX = 512
# vmlinux's has 5 to 10 MB.  Types and names are walked over one by one.
_SIZE_MAX = 64 << 20
# BTF_MAX_VLEN in btf.h.
_MEMBERS_MAX = 0xFFFF


class BtfError(ValueError):
    """The bytes are no BTF, or are cut short or corrupt."""


class Member(NamedTuple):
    """A struct's member; `type_name` is None where its type has no name (pointers, arrays)."""

    name: str
    type_name: str | None


class Struct(NamedTuple):
    """A struct and its members in their order; an anonymous member is named ''."""

    name: str
    members: tuple[Member, ...]


class _Sections(NamedTuple):
    types: bytes
    strings: bytes
    layout: bytes


def _cut(data: bytes, start: int, length: int, what: str) -> bytes:
    if start + length > len(data):
        raise BtfError(f"its {what} end at byte {start + length} of {len(data)}")
    return data[start : start + length]


def _sections(data: bytes) -> _Sections:
    if len(data) > _SIZE_MAX:
        raise BtfError(f"{len(data) >> 20} MiB are more than any kernel's")
    if len(data) < _HEADER.size:
        raise BtfError(f"{len(data)} bytes hold no header")
    magic, version, _, header, type_at, type_size, text_at, text_size = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise BtfError(f"magic {magic:#06x} where {MAGIC:#06x} is needed (little-endian)")
    if version != VERSION:
        raise BtfError(f"version {version} is not known")
    if header < _HEADER.size or header > len(data):
        raise BtfError(f"a header of {header} bytes in {len(data)}")
    types = _cut(data, header + type_at, type_size, "types")
    strings = _cut(data, header + text_at, text_size, "strings")
    if strings and strings[-1]:
        raise BtfError("its last string does not end")
    layout = b""
    if header >= _HEADER.size + _LAYOUT_AT.size:
        at, size = _LAYOUT_AT.unpack_from(data, _HEADER.size)
        layout = _cut(data, header + at, size - size % _LAYOUT.size, "layout")
    return _Sections(types, strings, layout)


def is_split(data: bytes) -> bool:
    """Tell whether BTF needs its base: whole BTF's first string is the empty one (btf.rst, 2.1).

    Raises BtfError.
    """
    return _sections(data).strings[:1] != b"\0"


def has_string(data: bytes, text: str) -> bool:
    """Tell whether a string section holds `text` itself, without need of a split BTF's base.

    A split BTF holds only the strings that its base lacks.  Raises BtfError.
    """
    return b"\0" + text.encode() + b"\0" in b"\0" + _sections(data).strings


def _sizes(layout: bytes) -> dict[int, tuple[int, int]]:
    """Return the size of every kind's record, the known ones' as this module knows them."""
    told = {kind: row[:2] for kind, row in enumerate(_LAYOUT.iter_unpack(layout)) if kind}
    return {**told, **_SIZES}


class Btf:
    """Parsed BTF; make one with `parse`."""

    def __init__(self, sections: _Sections, base: Btf | None) -> None:
        self._base = base
        self._types, self._strings, layout = sections
        # Names and type ids count on from where the base's end.
        self._first_name: int = base._end_name if base else 0
        self._end_name: int = self._first_name + len(self._strings)
        self._first_id: int = base._end_id if base else 1
        # Where each type's record starts: by it a type id is found, and no object is built.
        self._at = array("I")
        self._structs: dict[int, int] = {}
        self._functions: set[int] = set()
        self._scan(_sizes(layout))
        self._end_id: int = self._first_id + len(self._at)

    @classmethod
    def parse(cls, data: bytes, base: Self | None = None) -> Self:
        """Parse BTF; `base` is vmlinux's where `data` is a module's.

        About 0.1 s for vmlinux's 5 MB.  Raises BtfError.
        """
        sections = _sections(data)
        if base is None and sections.strings[:1] != b"\0":
            raise BtfError("it is split BTF; its base is needed")
        return cls(sections, base)

    def _scan(self, sizes: dict[int, tuple[int, int]]) -> None:
        """Walk over all records once; note where each is, and which are structs and functions."""
        types, at, note = self._types, 0, self._at.append
        try:
            while at < len(types):
                name, info = _RECORD_HEAD.unpack_from(types, at)
                kind = info >> 24 & 0x7F
                fixed, each = sizes[kind]
                note(at)
                if kind == _STRUCT:
                    self._structs.setdefault(name, at)
                elif kind == _FUNC:
                    self._functions.add(name)
                at += _RECORD.size + fixed + each * (info & 0xFFFFFF)
        except KeyError:
            raise BtfError(f"kind {kind} of type {len(self._at) + 1} is not known") from None
        except struct.error:
            raise BtfError("its last type is cut short") from None
        if at > len(types):
            raise BtfError("its last type is cut short")

    def fits_base(self) -> bool:
        """Tell whether the base is the one that this split BTF was written for.

        Its types are named by places in the base's strings and in its own, counted on from where
        the base's end: over another base most of these lie in the middle of a word.
        """
        offsets = [_RECORD_HEAD.unpack_from(self._types, at)[0] for at in self._at]
        named = [self._is_a_start(offset) for offset in offsets if offset]
        # A writer may let one name be the tail of another, but seldom does.
        return sum(named) * 2 >= len(named)

    def _is_a_start(self, offset: int) -> bool:
        """Tell whether a string begins at this offset."""
        if self._base and offset < self._first_name:
            return self._base._is_a_start(offset)
        at = offset - self._first_name
        return at < len(self._strings) and (at == 0 or self._strings[at - 1] == 0)

    def sizes(self) -> dict[str, int]:
        """Return the size of each named struct, the base's left out."""
        records = [_RECORD.unpack_from(self._types, at) for at in self._structs.values()]
        return {self._name(name): size for name, _, size in records if name}

    def own_struct(self, name: str) -> Struct | None:
        """Return the first struct of that name, the base's left out."""
        for offset in self._offsets(name):
            if offset in self._structs:
                return Struct(name, self._members(self._structs[offset]))
        return None

    def _name(self, offset: int) -> str:
        if self._base and offset < self._first_name:
            return self._base._name(offset)
        start = offset - self._first_name
        end = self._strings.find(b"\0", start, start + _NAME_MAX)
        if start >= len(self._strings) or end < 0:
            raise BtfError(f"no name at string offset {offset}")
        return self._strings[start:end].decode(errors="backslashreplace")

    def _offsets(self, name: str) -> list[int]:
        """Return every string offset that reads `name`, the base's too.

        Also inside longer strings, whose tails a writer may share.
        """
        if not name or "\0" in name:
            return []
        wanted, found, at = name.encode() + b"\0", [], 0
        while (at := self._strings.find(wanted, at)) >= 0:
            found.append(self._first_name + at)
            at += 1
        return found + (self._base._offsets(name) if self._base else [])

    def _type_name(self, type_id: int) -> str | None:
        if self._base and type_id < self._first_id:
            return self._base._type_name(type_id)
        if type_id == 0:
            return "void"
        index = type_id - self._first_id
        if index >= len(self._at):
            raise BtfError(f"no type {type_id}")
        name: int = _RECORD.unpack_from(self._types, self._at[index])[0]
        return self._name(name) or None

    def _members(self, at: int) -> tuple[Member, ...]:
        count = _RECORD.unpack_from(self._types, at)[1] & 0xFFFFFF
        if count > _MEMBERS_MAX:
            raise BtfError(f"a struct of {count} members")
        start = at + _RECORD.size
        rows = _MEMBER.iter_unpack(self._types[start : start + count * _MEMBER.size])
        return tuple(Member(self._name(name), self._type_name(kind)) for name, kind, _ in rows)

    def struct(self, name: str) -> Struct | None:
        """Return the first struct of that name, a split BTF's own before its base's, else None.

        A forward declaration is none.  Raises BtfError where a member's name or type is corrupt.
        """
        own = self.own_struct(name)
        return own or (self._base.struct(name) if self._base else None)

    def function(self, name: str) -> bool:
        """Tell whether a function of that name is recorded, here or in the base.

        False proves little: writers leave out functions that were inlined or whose
        parameters were optimised away.
        """
        if any(offset in self._functions for offset in self._offsets(name)):
            return True
        return self._base.function(name) if self._base else False
