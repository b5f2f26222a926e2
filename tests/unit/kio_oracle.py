"""Random messages of every API and version, built with kio's classes, and the same messages in ours."""

from __future__ import annotations

import dataclasses
import datetime
import importlib
import io
import random
import types
import typing
import uuid
from functools import cache
from typing import Any

from kio.schema.errors import ErrorCode
from kio.serial import entity_writer
from kio.serial._introspect import classify_field

from pg_kafka.wire.codec import decode_request, decode_response, encode_request, encode_response, message_class
from pg_kafka.wire.message import ZERO_UUID, Message
from pg_kafka.wire.messages import API_SCHEMAS

MILLISECOND = datetime.timedelta(milliseconds=1)
EPOCH = datetime.datetime.fromtimestamp(0, datetime.UTC)

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

INTEGERS = {"int8": (8, True), "int16": (16, True), "int32": (32, True), "int64": (64, True), "uint16": (16, False)}


def case_name(case: Case) -> str:
    key, version, kind = case
    return f"{API_SCHEMAS[key].name}-v{version}-{kind}"


def decode(case: Case, data: bytes | memoryview) -> Any:
    key, version, kind = case
    return (decode_request if kind == "request" else decode_response)(key, version, data, 0)


def encode(case: Case, message: Message) -> bytes:
    key, version, kind = case
    return b"".join((encode_request if kind == "request" else encode_response)(message, key, version))


@cache
def kio_class(case: Case) -> Any:
    key, version, kind = case
    module = importlib.import_module(f"kio.schema.{API_SCHEMAS[key].name}.v{version}.{kind}")
    return getattr(module, message_class(key, kind).__name__)


def kio_bytes(message: Any) -> bytes:
    buffer = io.BytesIO()
    entity_writer(type(message))(buffer, message)
    return buffer.getvalue()


@cache
def _fields(cls: Any) -> list[tuple[str, str | None, Any, bool, bool, bool]]:
    found = []
    for field in dataclasses.fields(cls):
        kind = classify_field(field)
        found.append(
            (
                field.name,
                field.metadata.get("kafka_type"),
                kind.type_,
                kind.is_array,
                typing.get_origin(field.type) is types.UnionType,
                field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING,
            )
        )
    return found


def random_kio(cls: Any, rng: random.Random, size: int) -> Any:
    """An instance of a class of kio's; arrays have up to `size` items, and strings grow with it too."""
    values = {}
    for name, kafka_type, inner, is_array, nullable, has_default in _fields(cls):
        if has_default and rng.random() < 0.3:
            continue
        if nullable and rng.random() < 0.25:
            values[name] = None
        elif is_array:
            values[name] = tuple(_random_value(kafka_type, inner, rng, size) for _ in range(rng.randint(0, size)))
        else:
            values[name] = _random_value(kafka_type, inner, rng, size)
    return cls(**values)


def _random_value(kafka_type: str | None, inner: Any, rng: random.Random, size: int) -> Any:
    if kafka_type is None:
        return random_kio(inner, rng, max(0, size - 1))
    if kafka_type in INTEGERS:
        bits, signed = INTEGERS[kafka_type]
        low = -(1 << bits - 1) if signed else 0
        return rng.choice((0, 1, low, low + (1 << bits) - 1, rng.randrange(low, low + (1 << bits))))
    match kafka_type:
        case "bool":
            return rng.random() < 0.5
        case "float64":
            return rng.uniform(-1e9, 1e9)
        case "error_code":
            return rng.choice(list(ErrorCode))
        case "timedelta_i32":
            return rng.randrange(-(1 << 31), 1 << 31) * MILLISECOND
        case "timedelta_i64":
            return rng.randrange(-(10**12), 10**12) * MILLISECOND
        case "datetime_i64":
            return EPOCH + rng.randrange(10**12) * MILLISECOND
        case "uuid":
            return None if rng.random() < 0.1 else uuid.UUID(int=rng.getrandbits(128) | 1)
        case "string":
            length = rng.choice((0, 1, 5, 5, 125, 126, 127, 128, 300)) if size else rng.randint(0, 3)
            return "".join(rng.choice("abcdefgh.-é漢🐘\0") for _ in range(length))
        case "bytes" | "records":
            return rng.randbytes(rng.choice((0, 1, 126, 127, 128, 1023, 1024, 1025, 20_000)) if size else 2)
    raise AssertionError(kafka_type)


def to_ours(value: Any, kafka_type: str | None, cls: type[Message] | None) -> Any:
    """A value of kio's as it stands in our messages; `cls` is our class where the value is made of structs."""
    if isinstance(value, tuple):
        return [to_ours(item, kafka_type, cls) for item in value]
    if isinstance(value, datetime.timedelta):
        return round(value / MILLISECOND)
    if kafka_type == "datetime_i64":
        return -1 if value is None else round((value - EPOCH) / MILLISECOND)
    if kafka_type == "uuid" and value is None:
        return ZERO_UUID
    if value is not None and cls is not None:
        return message_of(value, cls)
    return value


def message_of(value: Any, cls: type[Message]) -> Message:
    """Our message for one of kio's, made with keywords for exactly the fields of its version."""
    values = {}
    for name, kafka_type, _, is_array, nullable, _ in _fields(type(value)):
        found = getattr(value, name)
        name = name if name in cls.FIELDS else f"{name}_ms"
        inner = cls.FIELDS[name].kind
        if is_array and nullable and found is None:
            values[name] = None
        else:
            values[name] = to_ours(found, kafka_type, None if isinstance(inner, str) else inner)
    return cls(**values)
