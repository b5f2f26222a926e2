"""Random messages of the APIs and versions that the package kio knows, built with its classes, and the same in ours."""

from __future__ import annotations

import dataclasses
import datetime
import importlib
import importlib.util
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
from tests.unit.random_messages import (
    CASES,
    INTEGERS,
    Case,
    encode,
    random_bytes,
    random_integer,
    random_message,
    random_text,
)

from pg_kafka.wire.codec import message_class
from pg_kafka.wire.message import ZERO_UUID, Message
from pg_kafka.wire.messages import API_SCHEMAS

MILLISECOND = datetime.timedelta(milliseconds=1)
EPOCH = datetime.datetime.fromtimestamp(0, datetime.UTC)

# Fields that have another name since.
RENAMED = {("TxnOffsetCommitRequest", "generation_id"): "generation_id_or_member_epoch"}


def _kio_module(case: Case) -> str:
    key, version, kind = case
    return f"kio.schema.{API_SCHEMAS[key].name}.v{version}.{kind}"


def _is_known(case: Case) -> bool:
    try:
        return importlib.util.find_spec(_kio_module(case)) is not None
    except ModuleNotFoundError:
        return False


KIO_CASES = [case for case in CASES if _is_known(case)]
_KNOWN = frozenset(KIO_CASES)
NEWER_CASES = [case for case in CASES if case not in _KNOWN]


def random_body(case: Case, rng: random.Random, size: int) -> bytes:
    """A valid message on the wire: one of kio's where kio knows the version."""
    if case in _KNOWN:
        return kio_bytes(random_kio(kio_class(case), rng, size))
    return encode(case, random_message(case, rng, size))


@cache
def kio_class(case: Case) -> Any:
    return getattr(importlib.import_module(_kio_module(case)), message_class(case[0], case[2]).__name__)


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
        return random_integer(kafka_type, rng)
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
            return random_text(rng, size)
        case "bytes" | "records":
            return random_bytes(rng, size)
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
        name = RENAMED.get((cls.__name__, name), name)
        name = name if name in cls.FIELDS else f"{name}_ms"
        inner = cls.FIELDS[name].kind
        if is_array and nullable and found is None:
            values[name] = None
        else:
            values[name] = to_ours(found, kafka_type, None if isinstance(inner, str) else inner)
    return cls(**values)
