"""What the two compilers of the codec share: lines of Python being written, and facts about a message's fields."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

from pg_kafka.wire.message import Field, Message

# Types of fixed size and their letter in the struct module.
FIXED = {
    "bool": "?",
    "int8": "b",
    "int16": "h",
    "uint16": "H",
    "int32": "i",
    "uint32": "I",
    "int64": "q",
    "float64": "d",
    "uuid": "16s",
}
FIXED_SIZES = {
    "bool": 1,
    "int8": 1,
    "int16": 2,
    "uint16": 2,
    "int32": 4,
    "uint32": 4,
    "int64": 8,
    "float64": 8,
    "uuid": 16,
}


class TooManyItems(Exception):
    """A message whose arrays have more items, all together, than the caller allows."""


class Source:
    """The text of one function and the objects that it refers to by name."""

    def __init__(self, head: str, scope: dict[str, Any]) -> None:
        self.lines = [head]
        self.scope = dict(scope)
        self._indent = "    "
        self._numbers = count(1)

    def line(self, text: str) -> None:
        self.lines.append(self._indent + text)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        self.line(head)
        self._indent += "    "
        yield
        self._indent = self._indent[4:]

    def name(self, stem: str) -> str:
        return f"{stem}{next(self._numbers)}"

    def constant(self, stem: str, value: object) -> str:
        """A name for `value`; a literal where that is shorter."""
        if value is None or isinstance(value, bool | int | str | bytes) or value == ():
            return repr(value)
        for name, known in self.scope.items():
            if known is value:
                return name
        name = self.name(stem)
        self.scope[name] = value
        return name

    def compile(self, name: str, label: str) -> Callable[..., Any]:
        exec(compile("\n".join(self.lines), f"<{label}>", "exec"), self.scope)
        function: Callable[..., Any] = self.scope[name]
        return function


def plain_fields(cls: type[Message], version: int) -> list[tuple[str, Field]]:
    """The fields of a version that every instance has on the wire, in their order there."""
    return [(name, field) for name, field in cls.FIELDS.items() if field.is_in(version) and field.tag is None]


def tagged_fields(cls: type[Message], version: int) -> list[tuple[str, Field]]:
    """The fields of a version that are sent only when they differ from their default, by ascending tag."""
    found = [(name, field) for name, field in cls.FIELDS.items() if field.is_in(version) and field.tag is not None]
    return sorted(found, key=lambda pair: pair[1].tag or 0)


def fixed_size(cls: type[Message], version: int) -> int | None:
    """The size of the plain fields when all of them have a fixed one, without the tag section."""
    size = 0
    for _, field in plain_fields(cls, version):
        if field.is_array or not isinstance(field.kind, str) or field.kind not in FIXED:
            return None
        size += FIXED_SIZES[field.kind]
    return size


def minimum_size(kind: str | type[Message], version: int, flexible: bool) -> int:
    """The bytes that the smallest value takes; at least one, so that a count is always bounded by what follows it."""
    return max(1, _minimum(kind, version, flexible))


def _minimum(kind: str | type[Message], version: int, flexible: bool) -> int:
    if not isinstance(kind, str):
        size = 1 if flexible else 0
        for _, field in plain_fields(kind, version):
            if field.is_array:
                size += 1 if flexible else 4
            elif not isinstance(field.kind, str) and field.is_nullable_in(version):
                size += 1
            else:
                size += _minimum(field.kind, version, flexible)
        return size
    if kind in FIXED_SIZES:
        return FIXED_SIZES[kind]
    if flexible:
        return 1
    return 2 if kind == "string" else 4


def has_records(cls: type[Message], version: int) -> bool:
    return any(
        field.kind == "records" or (not isinstance(field.kind, str) and has_records(field.kind, version))
        for field in cls.FIELDS.values()
        if field.is_in(version)
    )
