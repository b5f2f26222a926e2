"""Metrics as clients push them (KIP-714): OpenTelemetry's MetricsData, version 1.x, in Protocol Buffers' encoding.

    for point in points(data): ...        raises InvalidOtlp at the first byte that cannot be right

A message is a row of fields, each a tag and its content. A tag is a varint: (number << 3) | type.

    type 0  a varint: 7 bits in a byte, the lowest first, the top bit set in all but the last; 10 bytes at most
    type 1  8 bytes, little-endian
    type 2  a varint with the length, and as many bytes: text in UTF-8, or another message
    type 5  4 bytes

    MetricsData ──1──> ResourceMetrics ──1──> Resource ──1──> KeyValue
                            │2
                            └──> ScopeMetrics ──2──> Metric    1 name (text)
                                                       │5        7
                                                     Gauge      Sum    2 temporality (1 delta, 2 cumulative)
                                                       │1        │1    3 is_monotonic
                                                       └────┬────┘
                                               NumberDataPoint ──7──> KeyValue    1 key (text)
                                                  2 start, in ns (type 1)         2 AnyValue  1 text   2 bool
                                                  4 as_double (type 1)                        3 int64  4 double
                                                  6 as_int (type 1, signed)
                                                  8 flags: bit 0, there is no value

Fields with other numbers, or with another type, are read over, as Protocol Buffers asks for; of those that may come once,
the last one counts.
Groups (types 3 and 4) are refused: nobody writes them. Histograms and summaries are read over as well: no client of Kafka
sends any. Nothing is allocated by a length before that many bytes are there.

https://opentelemetry.io/docs/specs/otlp/ and opentelemetry/proto/metrics/v1/metrics.proto
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Final, NamedTuple

MAX_FIELDS: Final = 1_000
"""Of one data point, resource, or attribute. Without a bound, one of a megabyte could hold up the event loop."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DOUBLE = struct.Struct("<d")
_INT64 = struct.Struct("<q")
_UINT64 = struct.Struct("<Q")
_NO_VALUE = 1

Attributes = tuple[tuple[str, str], ...]
"""Names and values as they came, in their order; numbers and booleans as text."""


class InvalidOtlp(ValueError):
    """The bytes are no MetricsData."""


class Kind(IntEnum):
    """What a number tells."""

    GAUGE = 0  # a figure of the moment
    SUM = 1  # what has been added up


class Temporality(IntEnum):
    """Since when a sum has been added up; OpenTelemetry's numbers."""

    UNSPECIFIED = 0
    DELTA = 1  # since the last time it was told
    CUMULATIVE = 2  # since `start`


class Point(NamedTuple):
    """One number."""

    name: str  # of the metric
    resource: Attributes  # of whoever tells it
    attributes: Attributes
    kind: Kind
    temporality: int  # of a sum
    is_monotonic: bool  # a sum that never goes back
    start_ns: int  # 0: not said
    value: float | int


def points(data: bytes) -> Iterator[Point | None]:
    """The numbers in `data`, in their order. Raises InvalidOtlp, perhaps after some of them.

    None stands for something that has no number. So whoever takes items one by one can do other things in between,
    whatever `data` are.
    """
    for tag, at, end in _fields(data, 0, len(data)):
        yield None
        if tag == _tag(1, _BYTES):
            yield from _of_resource(data, at, end)


def _of_resource(data: bytes, start: int, stop: int) -> Iterator[Point | None]:
    resource: Attributes = ()
    scopes: list[tuple[int, int]] = []
    for tag, at, end in _fields(data, start, stop):
        if tag == _tag(1, _BYTES):
            resource = tuple(_attributes(data, at, end, 1))
        elif tag == _tag(2, _BYTES):
            scopes.append((at, end))
        yield None
    for at, end in scopes:
        yield from _of_scope(data, at, end, resource)


def _of_scope(data: bytes, start: int, stop: int, resource: Attributes) -> Iterator[Point | None]:
    for tag, at, end in _fields(data, start, stop):
        if tag == _tag(2, _BYTES):
            yield from _of_metric(data, at, end, resource)
        yield None


def _of_metric(data: bytes, start: int, stop: int, resource: Attributes) -> Iterator[Point | None]:
    name = ""
    found: tuple[Kind, int, int] | None = None
    for tag, at, end in _fields(data, start, stop):
        if tag == _tag(1, _BYTES):
            name = _text(data, at, end)
        elif tag == _tag(5, _BYTES):
            found = Kind.GAUGE, at, end
        elif tag == _tag(7, _BYTES):
            found = Kind.SUM, at, end
        elif tag in _OTHER_DATA:
            found = None
        yield None
    if found is None:
        return
    kind, at, end = found
    temporality, is_monotonic = int(Temporality.UNSPECIFIED), False
    numbers: list[tuple[int, int]] = []
    for tag, first, last in _fields(data, at, end):
        if tag == _tag(1, _BYTES):
            numbers.append((first, last))
        elif kind is Kind.SUM and tag == _tag(2, _VARINT):
            temporality = first
        elif kind is Kind.SUM and tag == _tag(3, _VARINT):
            is_monotonic = first != 0
        yield None
    for first, last in numbers:
        yield _point(data, first, last, name, resource, kind, temporality, is_monotonic)


def _point(
    data: bytes,
    start: int,
    stop: int,
    name: str,
    resource: Attributes,
    kind: Kind,
    temporality: int,
    is_monotonic: bool,
) -> Point | None:
    attributes: list[tuple[str, str]] = []
    value: float | int | None = None
    start_ns = flags = 0
    for count, (tag, at, end) in enumerate(_fields(data, start, stop)):
        if count == MAX_FIELDS:
            raise InvalidOtlp(f"a data point of more than {MAX_FIELDS} fields")
        if tag == _tag(7, _BYTES):
            attributes += _attribute(data, at, end)
        elif tag == _tag(2, _FIXED64):
            (start_ns,) = _UINT64.unpack_from(data, at)
        elif tag == _tag(4, _FIXED64):
            (value,) = _DOUBLE.unpack_from(data, at)
        elif tag == _tag(6, _FIXED64):
            (value,) = _INT64.unpack_from(data, at)
        elif tag == _tag(8, _VARINT):
            flags = at
    if value is None or flags & _NO_VALUE:
        return None
    return Point(name, resource, tuple(attributes), kind, temporality, is_monotonic, start_ns, value)


def _attributes(data: bytes, start: int, stop: int, number: int) -> Iterator[tuple[str, str]]:
    """The KeyValues with this number in a message."""
    for count, (tag, at, end) in enumerate(_fields(data, start, stop)):
        if count == MAX_FIELDS:
            raise InvalidOtlp(f"a resource of more than {MAX_FIELDS} fields")
        if tag == _tag(number, _BYTES):
            yield from _attribute(data, at, end)


def _attribute(data: bytes, start: int, stop: int) -> Iterator[tuple[str, str]]:
    """One attribute, or none when its value is neither text nor a number nor a boolean."""
    key, value = "", None
    for count, (tag, at, end) in enumerate(_fields(data, start, stop)):
        if count == MAX_FIELDS:
            raise InvalidOtlp(f"an attribute of more than {MAX_FIELDS} fields")
        if tag == _tag(1, _BYTES):
            key = _text(data, at, end)
        elif tag == _tag(2, _BYTES):
            value = _any_value(data, at, end)
    if value is not None:
        yield key, value


def _any_value(data: bytes, start: int, stop: int) -> str | None:
    value = None
    for count, (tag, at, end) in enumerate(_fields(data, start, stop)):
        if count == MAX_FIELDS:
            raise InvalidOtlp(f"a value of more than {MAX_FIELDS} fields")
        if tag == _tag(1, _BYTES):
            value = _text(data, at, end)
        elif tag == _tag(2, _VARINT):
            value = "true" if at else "false"
        elif tag == _tag(3, _VARINT):
            value = str(at - (1 << 64) if at >> 63 else at)
        elif tag == _tag(4, _FIXED64):
            value = repr(_DOUBLE.unpack_from(data, at)[0])
        elif tag in _OTHER_VALUES:
            value = None
    return value


def _text(data: bytes, start: int, stop: int) -> str:
    try:
        return data[start:stop].decode()
    except UnicodeDecodeError:
        raise InvalidOtlp(f"text at byte {start} is not UTF-8") from None


def _tag(number: int, type: int) -> int:
    return number << 3 | type


_OTHER_DATA = frozenset(_tag(number, _BYTES) for number in (9, 10, 11))  # of a Metric: histograms and summaries
_OTHER_VALUES = frozenset(_tag(number, _BYTES) for number in (5, 6, 7))  # lists, maps and bytes


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Tag and content of each field between `at` and `end`: a varint's value, or where the bytes begin and end."""
    while at < end:
        tag = data[at]
        at += 1
        if tag >= 0x80:
            tag, at = _varint(data, at - 1, end)
        type = tag & 7
        if not 8 <= tag < 1 << 32:
            raise InvalidOtlp(f"no field can have number {tag >> 3}")
        if type == _BYTES:
            if at < end and data[at] < 0x80:
                size = data[at]
                at += 1
            else:
                size, at = _varint(data, at, end)
            if size > end - at:
                raise InvalidOtlp(f"a field of {size} bytes at byte {at}, {end - at} left")
            yield tag, at, at + size
            at += size
        elif type == _VARINT:
            value, at = _varint(data, at, end)
            yield tag, value, 0
        elif type in (_FIXED64, _FIXED32):
            size = 8 if type == _FIXED64 else 4
            if size > end - at:
                raise InvalidOtlp(f"a number of {size} bytes at byte {at}, {end - at} left")
            yield tag, at, at + size
            at += size
        else:
            raise InvalidOtlp(f"type {type} at byte {at}")


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A number and where it ends. What is beyond 64 bits is cut off, as Protocol Buffers does."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise InvalidOtlp(f"the bytes end in a number at byte {at}")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
    raise InvalidOtlp(f"a number of more than 10 bytes at byte {at}")
