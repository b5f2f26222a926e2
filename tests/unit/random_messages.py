"""Random messages of every API and version that has classes, made from the tables of the classes themselves."""

from __future__ import annotations

import random
from typing import Any
from uuid import UUID

from pg_kafka.wire.codec import decode_request, decode_response, encode_request, encode_response, message_class
from pg_kafka.wire.message import Field, Message
from pg_kafka.wire.messages import API_SCHEMAS

# (api key, version, "request" or "response")
Case = tuple[int, int, str]
CASES: list[Case] = [
    (key, version, kind)
    for key, schema in API_SCHEMAS.items()
    for version in range(schema.first_version, schema.last_version + 1)
    for kind in ("request", "response")
]

# The same without the inner versions: for tests of what hardly varies with the version.
OUTER_CASES = [
    case for case in CASES if case[1] in (API_SCHEMAS[case[0]].first_version, API_SCHEMAS[case[0]].last_version)
]

INTEGERS = {
    "int8": (8, True),
    "int16": (16, True),
    "uint16": (16, False),
    "int32": (32, True),
    "uint32": (32, False),
    "int64": (64, True),
}


def case_name(case: Case) -> str:
    key, version, kind = case
    return f"{API_SCHEMAS[key].name}-v{version}-{kind}"


def decode(case: Case, data: bytes | memoryview) -> Any:
    key, version, kind = case
    return (decode_request if kind == "request" else decode_response)(key, version, data, 0)


def encode(case: Case, message: Message) -> bytes:
    key, version, kind = case
    return b"".join((encode_request if kind == "request" else encode_response)(message, key, version))


def random_message(case: Case, rng: random.Random, size: int) -> Message:
    """A message with the fields of its version; arrays have up to `size` items, and strings grow with it too."""
    key, version, kind = case
    return _random_struct(message_class(key, kind), version, rng, size)


def _random_struct(cls: type[Message], version: int, rng: random.Random, size: int) -> Message:
    values: dict[str, Any] = {}
    for name, field in cls.FIELDS.items():
        is_nullable = field.is_nullable_in(version)
        has_default = is_nullable or field.default is not None
        if not field.is_in(version) or (has_default and rng.random() < 0.2):
            continue
        if is_nullable and rng.random() < 0.25:
            values[name] = None
        elif field.is_array:
            values[name] = [_random_value(field, version, rng, size) for _ in range(rng.randint(0, size))]
        else:
            values[name] = _random_value(field, version, rng, size)
    return cls(**values)


def _random_value(field: Field, version: int, rng: random.Random, size: int) -> Any:
    if not isinstance(field.kind, str):
        return _random_struct(field.kind, version, rng, max(0, size - 1))
    if field.kind in INTEGERS:
        return random_integer(field.kind, rng)
    match field.kind:
        case "bool":
            return rng.random() < 0.5
        case "float64":
            return rng.uniform(-1e9, 1e9)
        case "uuid":
            return UUID(int=rng.choice((0, rng.getrandbits(128))))
        case "string":
            return random_text(rng, size)
    return random_bytes(rng, size)


def random_integer(kind: str, rng: random.Random) -> int:
    """Often one of the ends of its range."""
    bits, signed = INTEGERS[kind]
    low = -(1 << bits - 1) if signed else 0
    return rng.choice((0, 1, low, low + (1 << bits) - 1, rng.randrange(low, low + (1 << bits))))


def random_text(rng: random.Random, size: int) -> str:
    length = rng.choice((0, 1, 5, 5, 125, 126, 127, 128, 300)) if size else rng.randint(0, 3)
    return "".join(rng.choice("abcdefgh.-é漢🐘\0") for _ in range(length))


def random_bytes(rng: random.Random, size: int) -> bytes:
    return rng.randbytes(rng.choice((0, 1, 126, 127, 128, 1023, 1024, 1025, 20_000)) if size else 2)
