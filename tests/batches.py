"""Record batches and log rows, byte by byte and slowly: what the tests of the native core compare it with.

`batch_bytes` builds a batch v2 of anything, also of what no producer would send. `RowColumns` reads a COPY tuple back
as PostgreSQL would store it, and `encode` turns it into a batch again with the native core.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from crc32c import crc32c

from pg_kafka.wire import _records, compression
from pg_kafka.wire._records import Batch, Slice

HEADER = struct.Struct(">qiibIhiqqqhii")
NO_PRODUCER = (-1, -1, -1)
Headers = tuple[tuple[bytes, bytes | None], ...]


@dataclass(frozen=True)
class Record:
    offset: int
    timestamp: int
    key: bytes | None = None
    value: bytes | None = None
    headers: Headers = ()


def varint(value: int) -> bytes:
    raw = (value << 1) ^ (value >> 63)
    raw &= 0xFFFF_FFFF_FFFF_FFFF
    out = bytearray()
    while raw >= 0x80:
        out.append(raw & 0x7F | 0x80)
        raw >>= 7
    out.append(raw)
    return bytes(out)


def varbytes(value: bytes | None) -> bytes:
    return varint(-1) if value is None else varint(len(value)) + value


def signed64(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


def record_bytes(record: Record, base_offset: int = 0, base_timestamp: int = 0) -> bytes:
    body = b"\x00" + varint(signed64(record.timestamp - base_timestamp)) + varint(record.offset - base_offset)
    body += varbytes(record.key) + varbytes(record.value) + varint(len(record.headers))
    for key, value in record.headers:
        body += varbytes(key) + varbytes(value)
    return varint(len(body)) + body


def with_crc(data: bytes | bytearray) -> bytes:
    """`data` with the CRC that its bytes have."""
    return bytes(data[:17]) + struct.pack(">I", crc32c(bytes(data[21:]))) + bytes(data[21:])


def batch_bytes(
    records: Sequence[Record] = (),
    *,
    codec: int = 0,
    base_offset: int = 0,
    last_offset: int | None = None,
    leader_epoch: int = -1,
    magic: int = 2,
    attributes: int = 0,
    base_timestamp: int | None = None,
    max_timestamp: int | None = None,
    producer: tuple[int, int, int] = NO_PRODUCER,
    count: int | None = None,
    raw: bytes | None = None,
) -> bytes:
    if base_timestamp is None:
        base_timestamp = records[0].timestamp if records else 0
    if max_timestamp is None:
        max_timestamp = max((record.timestamp for record in records), default=-1)
    if last_offset is None:
        last_offset = records[-1].offset if records else base_offset
    if raw is None:
        raw = b"".join(record_bytes(record, base_offset, base_timestamp) for record in records)
    body = compression.compress(codec, raw) if codec in range(1, 5) else raw
    header = HEADER.pack(
        base_offset,
        HEADER.size - 12 + len(body),
        leader_epoch,
        magic,
        0,
        attributes | codec,
        last_offset - base_offset,
        base_timestamp,
        max_timestamp,
        *producer,
        len(records) if count is None else count,
    )
    return with_crc(header + body)


def elements(body: bytes | None) -> list[bytes | None]:
    """The elements of an array's body."""
    out: list[bytes | None] = []
    at = 0
    while body is not None and at < len(body):
        (size,) = struct.unpack_from(">i", body, at)
        at += 4
        out.append(None if size < 0 else body[at : at + size])
        at += max(size, 0)
    assert at == len(body or b"")
    return out


def integers(body: bytes | None) -> list[int]:
    return [int.from_bytes(element or b"", signed=True) for element in elements(body)]


def slice_records(part: Slice, start: int) -> Iterator[Record]:
    """The records of a slice that begins at offset `start`."""
    keys = elements(part.keys) if part.keys is not None else [None] * part.count
    deltas = integers(part.offset_deltas) if part.offset_deltas is not None else range(part.count)
    timestamps = integers(part.timestamps) if part.timestamps is not None else [part.first_timestamp] * part.count
    ends = integers(part.header_ends) if part.header_ends is not None else [0] * part.count
    headers = list(zip(elements(part.header_keys), elements(part.header_values), strict=True))
    values = elements(part.values)
    begin = 0
    for key, value, delta, timestamp, end in zip(keys, values, deltas, timestamps, ends, strict=True):
        named = tuple((name or b"", content) for name, content in headers[begin:end])
        yield Record(start + delta, timestamp, key, value, named)
        begin = end
    assert begin == len(headers) == part.headers


def batch_records(batch: Batch) -> list[Record]:
    return [record for part in batch.slices for record in slice_records(part, batch.base_offset + part.first_delta)]


@dataclass(frozen=True)
class RowColumns:
    """A COPY tuple, column by column, in PostgreSQL's binary format."""

    columns: dict[str, bytes | None]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.columns[name]
        except KeyError:
            raise AttributeError(name) from None

    def integer(self, name: str) -> int | None:
        data = self.columns[name]
        return None if data is None else int.from_bytes(data, signed=True)

    def array(self, name: str) -> list[bytes | None] | None:
        """The elements of an array column, its header checked."""
        data = self.columns[name]
        if data is None:
            return None
        dimensions, has_nulls, oid, count, lower = struct.unpack_from(">iiiii", data)
        found = elements(data[20:])
        assert (dimensions, count, lower) == (1, len(found), 1)
        assert has_nulls == (None in found)
        width = {20: 8, 23: 4, 21: 2, 17: None}[oid]
        assert width is None or all(element is not None and len(element) == width for element in found)
        return found

    def integers(self, name: str) -> list[int] | None:
        found = self.array(name)
        return None if found is None else [int.from_bytes(element or b"", signed=True) for element in found]


def read_row(row: bytes) -> RowColumns:
    (count,) = struct.unpack_from(">h", row)
    assert count == len(_records.COLUMNS)
    columns: dict[str, bytes | None] = {}
    at = 2
    for name in _records.COLUMNS:
        (size,) = struct.unpack_from(">i", row, at)
        at += 4
        columns[name] = None if size < 0 else row[at : at + size]
        at += max(size, 0)
    assert at == len(row)
    return RowColumns(columns)


def make_row(slices: Sequence[Slice], **changes: Any) -> bytes:
    arguments: dict[str, Any] = {
        "series": 0,
        "topic": 7,
        "partition": 2,
        "segment": 1,
        "base_offset": 0,
        "leader_epoch": 5,
        "global_base": 0,
        "running_max_timestamp": -1,
        "append_time": 123,
        "timestamp_type": 0,
        "codec": 0,
        "is_transactional": False,
        "is_control": False,
        "delete_horizon": None,
        "producers": [],
        "slices": slices,
    }
    return _records.copy_row(**(arguments | changes))


_ENCODED_ARRAYS = (
    "timestamps",
    "offset_deltas",
    "keys",
    "header_ends",
    "header_keys",
    "header_values",
    "values",
)
_ENCODED_INTEGERS = (
    "base_offset",
    "last_offset",
    "leader_epoch",
    "record_count",
    "first_timestamp",
    "max_timestamp",
    "timestamp_type",
    "producer_id",
    "producer_epoch",
    "base_sequence",
    "batch_base_offset",
    "delete_horizon",
)


def encode_arguments(row: RowColumns) -> dict[str, Any]:
    arguments: dict[str, Any] = {name: row.integer(name) for name in _ENCODED_INTEGERS}
    arguments |= {name: row.columns[name] for name in _ENCODED_ARRAYS}
    arguments |= {name: bool(row.integer(name)) for name in ("is_transactional", "is_control")}
    return arguments


def encode(row: RowColumns, **changes: Any) -> bytes:
    """The row as a batch; `array_send` of a column is exactly what the row has."""
    return _records.encode_row(**(encode_arguments(row) | {"codec": 0} | changes))


def moved(records: Sequence[Record], by: int) -> list[Record]:
    return [replace(record, offset=record.offset + by) for record in records]
