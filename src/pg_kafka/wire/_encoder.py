"""Writes and compiles the encoder of one message in one version.

An encoder is straight code that appends to a bytearray: runs of fixed-size fields are packed together, with the length
that follows them where its size is fixed too. Record batches above a small size become parts of their own, uncopied.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from pg_kafka.wire._source import FIXED, Source, TooManyItems, fixed_size, has_records, plain_fields, tagged_fields
from pg_kafka.wire.message import Field, Message

Parts = list[bytes | memoryview]
Encoder = Callable[[Any, int], Parts]

# Below this a copy into the bytes around it costs less than one more buffer in the write to the socket.
COPIED_RECORDS_BYTES = 1024


def put_varint(buffer: bytearray, value: int) -> None:
    while value > 0x7F:
        buffer.append(value & 0x7F | 0x80)
        value >>= 7
    buffer.append(value)


_SCOPE = {"pack": struct.pack, "put_varint": put_varint, "TooManyItems": TooManyItems}


def compile_encoder(cls: type[Message], version: int, flexible: bool) -> Encoder:
    """A function (message, items) -> parts that follow each other on the wire.

    It raises TooManyItems when all arrays together have more than `items`.
    """
    return _EncoderSource(cls, version, flexible).compile()


class _EncoderSource:
    def __init__(self, cls: type[Message], version: int, flexible: bool) -> None:
        self._cls = cls
        self._version = version
        self._flexible = flexible
        self._source = Source("def encode(m, items_left):", _SCOPE)
        self._buffer = "b"
        # Fixed-size values not yet written: letter and expression.
        self._run: list[tuple[str, str]] = []

    def compile(self) -> Encoder:
        source = self._source
        with_records = has_records(self._cls, self._version)
        source.line("b = bytearray()")
        if with_records:
            source.line("parts = []")
        self._struct(self._cls, "m")
        self._flush()
        if with_records:
            with source.block("if b:"):
                source.line("parts.append(bytes(b))")
            source.line("return parts")
        else:
            source.line("return [bytes(b)]")
        return source.compile("encode", f"encoder of {self._cls.__name__} v{self._version}")

    def _put(self, letter: str, expression: str) -> None:
        self._run.append((letter, expression))

    def _flush(self) -> None:
        run, self._run = self._run, []
        if run:
            self._source.line(f"{self._buffer} += {self._packed(run)}")

    def _packed(self, run: list[tuple[str, str]]) -> str:
        layout = struct.Struct(">" + "".join(letter for letter, _ in run))
        expressions = [expression for letter, expression in run if letter != "x"]
        if not expressions:
            return repr(bytes(layout.size))
        return f"{self._source.constant('pack', layout.pack)}({', '.join(expressions)})"

    def _fixed(self, kind: str, expression: str) -> tuple[str, str]:
        return FIXED[kind], f"{expression}.bytes" if kind == "uuid" else expression

    def _struct(self, cls: type[Message], value: str) -> None:
        for name, field in plain_fields(cls, self._version):
            self._value(f"{value}.{name}", field.kind, field.is_array, field.is_nullable_in(self._version))
        if self._flexible:
            tagged = tagged_fields(cls, self._version)
            if tagged:
                self._flush()
                self._tags(tagged, value)
            else:
                self._put("x", "")

    def _tags(self, tagged: list[tuple[str, Field]], value: str) -> None:
        source = self._source
        outer, count, section = self._buffer, source.name("n"), source.name("b")
        source.line(f"{count} = 0")
        for name, field in tagged:
            item, self._buffer = source.name("v"), source.name("b")
            source.line(f"{item} = {value}.{name}")
            with source.block(f"if {self._differs(item, field)}:"):
                source.line(f"{self._buffer} = bytearray()")
                self._value(item, field.kind, field.is_array, field.is_nullable_in(self._version))
                self._flush()
                with source.block(f"if not {count}:"):
                    source.line(f"{section} = bytearray()")
                source.line(f"put_varint({section}, {field.tag})")
                source.line(f"put_varint({section}, len({self._buffer}))")
                source.line(f"{section} += {self._buffer}")
                source.line(f"{count} += 1")
        self._buffer = outer
        source.line(f"put_varint({outer}, {count})")
        with source.block(f"if {count}:"):
            source.line(f"{outer} += {section}")

    def _differs(self, value: str, field: Field) -> str:
        if field.default is None:
            return f"{value} is not None"
        if field.is_array:
            return f"len({value})"
        default = self._source.constant("default", field.default)
        if isinstance(field.default, Message):
            return f"{value} is not {default} and {value} != {default}"
        return f"{value} != {default}"

    def _value(self, value: str, kind: str | type[Message], is_array: bool, nullable: bool) -> None:
        if is_array:
            self._array(value, kind, nullable)
        elif not isinstance(kind, str):
            self._nested(value, kind, nullable)
        elif kind in FIXED:
            self._run.append(self._fixed(kind, value))
        elif kind == "string":
            self._string(value, nullable)
        elif kind == "bytes":
            item = self._source.name("v")
            self._source.line(f"{item} = {value}")
            self._length(item, "i", nullable)
            self._source.line(f"{self._buffer} += {item} or b''" if nullable else f"{self._buffer} += {item}")
        else:
            self._records(value, nullable)

    def _nested(self, value: str, cls: type[Message], nullable: bool) -> None:
        source = self._source
        item = source.name("v")
        source.line(f"{item} = {value}")
        if not nullable:
            self._struct(cls, item)
            return
        # KIP-893: a byte below zero stands for null.
        self._flush()
        with source.block(f"if {item} is None:"):
            source.line(f"{self._buffer}.append(255)")
        with source.block("else:"):
            source.line(f"{self._buffer}.append(1)")
            self._struct(cls, item)
            self._flush()

    def _length(self, item: str, letter: str, nullable: bool) -> None:
        """Write the length or count of `item`, and whatever was waiting before it."""
        source = self._source
        length = f"len({item}) + 1" if self._flexible else f"len({item})"
        if nullable:
            length = f"{0 if self._flexible else -1} if {item} is None else {length}"
        if not self._flexible:
            self._put(letter, length)
            self._flush()
            return
        size = source.name("n")
        source.line(f"{size} = {length}")
        self._count(size)

    def _count(self, size: str) -> None:
        """Write a varint, and whatever was waiting before it."""
        source = self._source
        # With fixed-size fields before it, one byte of length costs next to nothing as part of their run.
        waiting, self._run = self._run, []
        with source.block(f"if {size} < 128:"):
            if waiting:
                self._run = [*waiting, ("B", size)]
                self._flush()
            else:
                source.line(f"{self._buffer}.append({size})")
        with source.block("else:"):
            self._run = waiting
            self._flush()
            source.line(f"put_varint({self._buffer}, {size})")

    def _string(self, value: str, nullable: bool) -> None:
        source = self._source
        item = source.name("v")
        source.line(f"{item} = {value}")
        if nullable:
            with source.block(f"if {item} is not None:"):
                source.line(f"{item} = {item}.encode()")
        else:
            source.line(f"{item} = {item}.encode()")
        self._length(item, "h", nullable)
        if nullable:
            with source.block(f"if {item}:"):
                source.line(f"{self._buffer} += {item}")
        else:
            source.line(f"{self._buffer} += {item}")

    def _records(self, value: str, nullable: bool) -> None:
        source = self._source
        item, size = source.name("v"), source.name("n")
        source.line(f"{item} = {value}")
        with source.block(f"if isinstance({item}, (list, tuple)):"):
            source.line(f"{size} = sum(map(len, {item}))")
        if nullable:
            with source.block(f"elif {item} is None:"):
                source.line(f"{size} = -1")
        with source.block("else:"):
            source.line(f"{size} = len({item})")
            source.line(f"{item} = ({item},)")
        if self._flexible:
            source.line(f"{size} += 1")
            self._count(size)
        else:
            self._put("i", size)
            self._flush()
        with source.block(f"if {size} > {COPIED_RECORDS_BYTES}:"):
            source.line("parts.append(bytes(b))")
            source.line(f"parts += {item}")
            source.line("b = bytearray()")
        with source.block(f"elif {size} > 0:"):
            with source.block(f"for part in {item}{' or ()' if nullable else ''}:"):
                source.line("b += part")

    def _array(self, value: str, kind: str | type[Message], nullable: bool) -> None:
        source = self._source
        items = source.name("v")
        source.line(f"{items} = {value}")
        source.line(f"items_left -= len({items}{' or ()' if nullable else ''})")
        with source.block("if items_left < 0:"):
            source.line("raise TooManyItems")
        self._length(items, "i", nullable)
        if not isinstance(kind, str):
            self._structs(f"{items} or ()" if nullable else items, kind)
        elif kind in FIXED and kind != "uuid":
            with source.block(f"if {items}:"):
                source.line(f'{self._buffer} += pack(f">{{len({items})}}{FIXED[kind]}", *{items})')
        else:
            item = source.name("v")
            with source.block(f"for {item} in {items} or ():" if nullable else f"for {item} in {items}:"):
                self._value(item, kind, False, False)
                self._flush()

    def _structs(self, items: str, cls: type[Message]) -> None:
        source = self._source
        item = source.name("v")
        fields = plain_fields(cls, self._version)
        if fixed_size(cls, self._version) and not (self._flexible and tagged_fields(cls, self._version)):
            run = [self._fixed(str(field.kind), f"{item}.{name}") for name, field in fields]
            packed = self._packed([*run, ("x", "")] if self._flexible else run)
            source.line(f"{self._buffer} += b''.join([{packed} for {item} in {items}])")
            return
        with source.block(f"for {item} in {items}:"):
            self._struct(cls, item)
            self._flush()
            source.line("pass")
