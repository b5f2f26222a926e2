"""Writes and compiles the decoder of one message in one version.

A decoder is straight code: runs of fixed-size fields are unpacked together, an array of fixed-size structs by one
iterator, and structs are filled without calling their `__init__`. It trusts nothing: a length is compared with what
remains before anything of that size is made. Reads of single bytes and of fixed runs rely on IndexError and
struct.error, which the codec turns into MalformedRequest.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import repeat
from typing import Any
from uuid import UUID, SafeUUID

from pg_kafka.wire._source import (
    FIXED,
    FIXED_SIZES,
    Source,
    TooManyItems,
    fixed_size,
    has_records,
    minimum_size,
    plain_fields,
    tagged_fields,
)
from pg_kafka.wire.message import ZERO_UUID, Message
from pg_kafka.wire.text import AS_KAFKA

Decoder = Callable[[bytes | memoryview, int, int], Any]


class MalformedRequest(Exception):
    """Bytes that are not what they should be."""


def read_varint(data: bytes | memoryview, first: int, offset: int) -> tuple[int, int]:
    """The rest of an unsigned varint whose first byte, already read, has its high bit set: value and new offset."""
    value = first & 0x7F
    for shift in (7, 14, 21, 28):
        byte = data[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, offset
    raise MalformedRequest("a varint of more than five bytes")


def read_tag(data: bytes | memoryview, offset: int, previous: int) -> tuple[int, int, int]:
    """Head of a tagged field: tag, offset of its value, offset of the end of its value. Tags must ascend."""
    tag = data[offset]
    offset += 1
    if tag > 0x7F:
        tag, offset = read_varint(data, tag, offset)
    if tag <= previous:
        raise MalformedRequest(f"tag {tag} after tag {previous}")
    size = data[offset]
    offset += 1
    if size > 0x7F:
        size, offset = read_varint(data, size, offset)
    if size > len(data) - offset:
        raise MalformedRequest(f"a tagged field of {size} bytes where {len(data) - offset} remain")
    return tag, offset, offset + size


def skip_tags(data: bytes | memoryview, count: int, offset: int) -> int:
    """The offset after a tag section of which nothing is known; `count` is the first byte of the number of tags."""
    if count > 0x7F:
        count, offset = read_varint(data, count, offset)
    tag = -1
    for _ in range(count):
        tag, _, offset = read_tag(data, offset, tag)
    return offset


_new_object = object.__new__
_set_uuid_int = UUID.__dict__["int"].__set__
_set_uuid_safe = UUID.__dict__["is_safe"].__set__


def read_uuid(data: bytes) -> UUID:
    """A third of the time of UUID(bytes=...), whose checks have nothing to find here."""
    value = int.from_bytes(data, "big")
    if not value:
        return ZERO_UUID
    result = _new_object(UUID)
    _set_uuid_int(result, value)
    _set_uuid_safe(result, SafeUUID.unknown)
    return result


_SCOPE = {
    "new": _new_object,
    "repeat": repeat,
    "unpack": struct.unpack_from,
    "read_uuid": read_uuid,
    "read_varint": read_varint,
    "read_tag": read_tag,
    "skip_tags": skip_tags,
    "Malformed": MalformedRequest,
    "AS_KAFKA": AS_KAFKA,
    "TooManyItems": TooManyItems,
}


def compile_decoder(cls: type[Message], version: int, flexible: bool, *, fills: bool = True) -> Decoder:
    """A function (data, offset, items) -> message that reads from the offset on, to the end if the message `fills` it.

    It raises TooManyItems when all arrays together have more than `items`: one of two bytes can be an object of a hundred.
    """
    return _DecoderSource(cls, version, flexible, fills).compile()


class _DecoderSource:
    def __init__(self, cls: type[Message], version: int, flexible: bool, fills: bool) -> None:
        self._fills = fills
        self._cls = cls
        self._version = version
        self._flexible = flexible
        self._source = Source("def decode(d, o, items_left):", _SCOPE)
        # Fixed-size values not yet read: where each goes, and its letter.
        self._run: list[tuple[str, str]] = []

    def compile(self) -> Decoder:
        source = self._source
        # Records are handed on as slices of what was received; without them a copy makes all other reads faster.
        source.line("view = memoryview(d)" if has_records(self._cls, self._version) else "d = bytes(d)")
        source.line("end = len(d)")
        message = self._new_struct(self._cls)
        self._struct(self._cls, message)
        self._flush()
        with source.block("if o != end:" if self._fills else "if o > end:"):
            source.line('raise Malformed(f"{end - o} bytes too many")')
        source.line(f"return {message}")
        return source.compile("decode", f"decoder of {self._cls.__name__} v{self._version}")

    def _take(self, target: str, letter: str) -> None:
        self._run.append((target, letter))

    def _flush(self) -> None:
        run, self._run = self._run, []
        if not run:
            return
        if len(run) == 1 and run[0][1] == "B":
            self._source.line(f"{run[0][0]} = d[o]")
            self._source.line("o += 1")
            return
        layout, targets, conversions = self._layout(run)
        unpack = self._source.constant("unpack", layout.unpack_from)
        self._source.line(f"{targets} = {unpack}(d, o)")
        self._source.line(f"o += {layout.size}")
        for conversion in conversions:
            self._source.line(conversion)

    def _layout(self, run: list[tuple[str, str]]) -> tuple[struct.Struct, str, list[str]]:
        """How to unpack a run: the layout, the targets as text, and what remains to be converted."""
        targets, conversions = [], []
        for target, letter in run:
            if letter == "16s":
                raw = self._source.name("raw")
                conversions.append(f"{target} = read_uuid({raw})")
                targets.append(raw)
            elif letter != "x":
                targets.append(target)
        return (
            struct.Struct(">" + "".join(letter for _, letter in run)),
            "".join(f"{t}, " for t in targets),
            conversions,
        )

    def _new_struct(self, cls: type[Message]) -> str:
        name = self._source.name("x")
        self._source.line(f"{name} = new({self._source.constant('cls', cls)})")
        return name

    def _defaults(self, cls: type[Message], target: str) -> None:
        """Give their defaults to the fields that this version lacks or may leave out."""
        plain = {name for name, _ in plain_fields(cls, self._version)}
        for name, field in cls.FIELDS.items():
            if name not in plain:
                self._source.line(f"{target}.{name} = {self._source.constant('default', field.default)}")

    def _struct(self, cls: type[Message], target: str) -> None:
        self._defaults(cls, target)
        for name, field in plain_fields(cls, self._version):
            self._value(f"{target}.{name}", name, field.kind, field.is_array, field.is_nullable_in(self._version))
        if self._flexible:
            self._tags(cls, target)

    def _tags(self, cls: type[Message], target: str) -> None:
        source = self._source
        count = source.name("n")
        self._take(count, "B")
        self._flush()
        known = tagged_fields(cls, self._version)
        with source.block(f"if {count}:"):
            if not known:
                source.line(f"o = skip_tags(d, {count}, o)")
                return
            with source.block(f"if {count} > 127:"):
                source.line(f"{count}, o = read_varint(d, {count}, o)")
            tag, stop = source.name("tag"), source.name("stop")
            source.line(f"{tag} = -1")
            with source.block(f"for _ in range({count}):"):
                source.line(f"{tag}, o, {stop} = read_tag(d, o, {tag})")
                for index, (name, field) in enumerate(known):
                    with source.block(f"{'elif' if index else 'if'} {tag} == {field.tag}:"):
                        nullable = field.is_nullable_in(self._version)
                        self._value(f"{target}.{name}", name, field.kind, field.is_array, nullable)
                        self._flush()
                with source.block("else:"):
                    source.line(f"o = {stop}")
                with source.block(f"if o != {stop}:"):
                    source.line(f'raise Malformed(f"tag {{{tag}}} does not fill its size")')

    def _value(self, target: str, name: str, kind: str | type[Message], is_array: bool, nullable: bool) -> None:
        if is_array:
            self._array(target, name, kind, nullable)
        elif not isinstance(kind, str):
            if nullable:
                # KIP-893: a byte below zero stands for null.
                mark = self._source.name("n")
                self._take(mark, "b")
                self._flush()
                with self._source.block(f"if {mark} < 0:"):
                    self._source.line(f"{target} = None")
                with self._source.block("else:"):
                    self._nested(target, kind)
                    self._flush()
            else:
                self._nested(target, kind)
        elif kind in FIXED:
            self._take(target, FIXED[kind])
        else:
            self._sized(target, name, kind, nullable)

    def _nested(self, target: str, cls: type[Message]) -> None:
        struct_name = self._new_struct(cls)
        self._source.line(f"{target} = {struct_name}")
        self._struct(cls, struct_name)

    def _length(self, letter: str) -> tuple[str, int]:
        """Read a length or count: the variable, and the value that stands for zero in it (below it is null)."""
        source = self._source
        length = source.name("n")
        if not self._flexible:
            self._take(length, letter)
            self._flush()
            return length, 0
        self._take(length, "B")
        self._flush()
        with source.block(f"if {length} > 127:"):
            source.line(f"{length}, o = read_varint(d, {length}, o)")
        return length, 1

    def _null(self, target: str, name: str, length: str, zero: int, nullable: bool) -> None:
        """The branch for a length below zero."""
        with self._source.block(f"elif {length} == {zero - 1}:" if nullable else "else:"):
            if nullable:
                self._source.line(f"{target} = None")
            else:
                self._source.line(f'raise Malformed("{name} is null or has a negative length")')
        if nullable and not zero:
            with self._source.block("else:"):
                self._source.line(f'raise Malformed(f"{name} has the length {{{length}}}")')

    def _sized(self, target: str, name: str, kind: str, nullable: bool) -> None:
        source = self._source
        length, zero = self._length("h" if kind == "string" else "i")
        with source.block(f"if {length} >= {zero}:"):
            source.line(f"e = o + {length}{' - 1' if zero else ''}")
            with source.block("if e > end:"):
                source.line(f'raise Malformed(f"{name} of {{e - o}} bytes where {{end - o}} remain")')
            if kind == "string":
                source.line(f'{target} = str(d[o:e], "utf-8", AS_KAFKA)')
            elif kind == "bytes":
                source.line(f"{target} = bytes(d[o:e])")
            else:
                source.line(f"{target} = view[o:e]")
            source.line("o = e")
        self._null(target, name, length, zero, nullable)

    def _array(self, target: str, name: str, kind: str | type[Message], nullable: bool) -> None:
        source = self._source
        length, zero = self._length("i")
        with source.block(f"if {length} >= {zero}:"):
            if zero:
                source.line(f"{length} -= 1")
            size = minimum_size(kind, self._version, self._flexible)
            with source.block(f"if {length} * {size} > end - o:" if size > 1 else f"if {length} > end - o:"):
                source.line(f'raise Malformed(f"{{{length}}} {name} in {{end - o}} bytes")')
            source.line(f"items_left -= {length}")
            with source.block("if items_left < 0:"):
                source.line("raise TooManyItems")
            if not isinstance(kind, str):
                self._structs(target, kind, length)
            elif kind in FIXED:
                self._fixed_values(target, kind, length)
            else:
                items, item = source.name("items"), source.name("item")
                source.line(f"{items} = []")
                with source.block(f"for _ in range({length}):"):
                    self._value(item, name, kind, False, False)
                    source.line(f"{items}.append({item})")
                source.line(f"{target} = tuple({items})")
        self._null(target, name, length, zero, nullable)

    def _fixed_values(self, target: str, kind: str, length: str) -> None:
        # The caller has compared the whole size: the smallest size of these is their only one.
        source = self._source
        source.line(f"e = o + {length} * {FIXED_SIZES[kind]}")
        if kind == "uuid":
            source.line(f"{target} = tuple([read_uuid(d[i : i + 16]) for i in range(o, e, 16)])")
        else:
            source.line(f'{target} = unpack(f">{{{length}}}{FIXED[kind]}", d, o)')
        source.line("o = e")

    def _structs(self, target: str, cls: type[Message], length: str) -> None:
        source = self._source
        items, item = source.name("items"), source.name("x")
        source.line(f"{target} = {items} = tuple(map(new, repeat({source.constant('cls', cls)}, {length})))")
        size = fixed_size(cls, self._version)
        if not size:
            self._each_struct(cls, items, item)
        elif not self._flexible:
            self._run_of_structs(cls, items, item, length)
        else:
            # Elements have one size when the count of tags, their last byte, is zero in each.
            with source.block(
                f"if bytes(d[o + {size} : o + {length} * {size + 1} : {size + 1}]).count(0) == {length}:"
            ):
                self._run_of_structs(cls, items, item, length)
            with source.block("else:"):
                self._each_struct(cls, items, item)

    def _each_struct(self, cls: type[Message], items: str, item: str) -> None:
        with self._source.block(f"for {item} in {items}:"):
            self._struct(cls, item)
            self._flush()
            self._source.line("pass")

    def _run_of_structs(self, cls: type[Message], items: str, item: str, length: str) -> None:
        source = self._source
        run = [(f"{item}.{name}", FIXED[str(field.kind)]) for name, field in plain_fields(cls, self._version)]
        layout, targets, conversions = self._layout([*run, ("", "x")] if self._flexible else run)
        unpack = source.constant("unpack", layout.iter_unpack)
        source.line(f"e = o + {length} * {layout.size}")
        with source.block(f"for {item}, ({targets}) in zip({items}, {unpack}(d[o:e])):"):
            for conversion in conversions:
                source.line(conversion)
            self._defaults(cls, item)
            source.line("pass")
        source.line("o = e")
