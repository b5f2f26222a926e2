"""What a message class is made of: the base class and the two ways to declare a field.

The classes in `pg_kafka.wire.messages` are generated. Each line of one is a field: its type in Python, its type on the
wire, the versions that have it, and its default. `pg_kafka.wire.codec` compiles decoders and encoders from them.

A message is a plain mutable object with slots, made with keyword arguments and compared by value (lists and tuples are
equal when their items are). Durations and times are milliseconds, error codes plain numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn, TypeAlias, cast, dataclass_transform
from uuid import UUID

ZERO_UUID = UUID(int=0)

# Record batches: the decoder gives a slice of the request, the encoder takes pieces and passes them on uncopied.
Records: TypeAlias = bytes | memoryview | Sequence[bytes | memoryview]

_NEWEST = 32767


@dataclass(frozen=True, slots=True)
class Field:
    """One row of a message's table. `versions`, `nullable` are first and last version, inclusive."""

    kind: str | type[Message]
    is_array: bool
    versions: tuple[int, int]
    nullable: tuple[int, int] | None
    tag: int | None
    default: Any

    def is_in(self, version: int) -> bool:
        return self.versions[0] <= version <= self.versions[1]

    def is_nullable_in(self, version: int) -> bool:
        return self.nullable is not None and self.nullable[0] <= version <= self.nullable[1]


def _version_range(text: str) -> tuple[int, int]:
    """Kafka's notation: `3` is one version, `3-5` a range, `3+` that one and all later."""
    if text.endswith("+"):
        return int(text[:-1]), _NEWEST
    first, _, last = text.partition("-")
    return int(first), int(last or first)


def _declare(
    kind: str | type[Message], is_array: bool, versions: str, default: object, nullable: str | None, tag: int | None
) -> Any:
    if default is None and nullable is None:
        raise TypeError(f"a {kind} that is never null needs a default")
    return Field(kind, is_array, _version_range(versions), _version_range(nullable) if nullable else None, tag, default)


def field(
    kind: str | type[Message], versions: str, *, default: object, nullable: str | None = None, tag: int | None = None
) -> Any:
    """A single value. `kind` is a primitive type of the protocol or a message class."""
    return _declare(kind, False, versions, default, nullable, tag)


def array(
    kind: str | type[Message], versions: str, *, default: object, nullable: str | None = None, tag: int | None = None
) -> Any:
    """A sequence of values of one kind."""
    return _declare(kind, True, versions, default, nullable, tag)


@dataclass_transform(kw_only_default=True, field_specifiers=(field, array))
class MessageType(type):
    """Turns the declared fields of a class into slots."""

    def __new__(mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> MessageType:
        fields = {key: value for key, value in namespace.items() if isinstance(value, Field)}
        for key in fields:
            del namespace[key]
        namespace["__slots__"] = tuple(fields)
        if bases:
            namespace.setdefault("FIELDS", fields)
        return super().__new__(mcls, name, bases, namespace)


class Message(metaclass=MessageType):
    """Base of all messages and of the structs in them."""

    FIELDS: ClassVar[dict[str, Field]] = {}

    def __init__(self, **values: object) -> None:
        # Written out and compiled when the class is first used: most classes of most processes never are.
        cls = type(self)
        cls.__init__ = _compiled_init(cls)  # type: ignore[method-assign]
        cls.__init__(self, **values)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Message) or self.FIELDS is not other.FIELDS:
            return NotImplemented
        return all(_plain(getattr(self, name)) == _plain(getattr(other, name)) for name in self.FIELDS)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        values = ((name, getattr(self, name), entry.default) for name, entry in self.FIELDS.items())
        said = ", ".join(f"{name}={value!r}" for name, value, default in values if value != default)
        return f"{type(self).__name__}({said})"


def _plain(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _compiled_init(cls: type[Message]) -> Any:
    parameters = "".join(f", {name}=_{name}" for name in cls.FIELDS)
    lines = [f"def __init__(self{', *' if parameters else ''}{parameters}):"]
    lines += [f"    self.{name} = {name}" for name in cls.FIELDS] or ["    pass"]
    scope: dict[str, Any] = {f"_{name}": entry.default for name, entry in cls.FIELDS.items()}
    exec("\n".join(lines), scope)
    return scope["__init__"]


def _refuse(self: object, name: str, value: object = None) -> NoReturn:
    raise AttributeError(f"{name} belongs to a shared default; assign a new {type(self).__bases__[0].__name__} instead")


def shared(message: Message) -> Any:
    """The same message, unchangeable: a struct that is a field's default is one object for all who leave it out."""
    cls = type(message)
    locked = MessageType(cls.__name__, (cls,), {"FIELDS": cls.FIELDS, "__module__": cls.__module__})
    copy = object.__new__(cast(type[Message], locked))
    for name in cls.FIELDS:
        setattr(copy, name, getattr(message, name))
    locked.__setattr__ = locked.__delattr__ = _refuse  # type: ignore[assignment, method-assign]
    return copy
