"""Rows of the log as they are stored: what consumers get of them, and which record has a time. Pure.

A row has its records as arrays, or, packed, as the producers' batches.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

from pg_kafka.wire import _records
from pg_kafka.wire._records import Slice

# What a packed batch held when it was taken; the setting may be lower by now.
MAX_RAW_BYTES = 1_000_000_000
_STAMP = struct.Struct(">iq")  # an element of an array: its length, and a timestamp
FIELDS = (
    "base_offset",
    "last_offset",
    "record_count",
    "leader_epoch",
    "first_timestamp",
    "max_timestamp",
    "timestamp_type",
    "is_transactional",
    "is_control",
    "delete_horizon",
    "producer_id",
    "producer_epoch",
    "base_sequence",
    "batch_base_offset",
    "timestamps",
    "offset_deltas",
    "keys",
    "header_ends",
    "header_keys",
    "header_values",
    "values",
    "codec",
)


def first_record_at(row: Any, timestamp_ms: int, start: int) -> tuple[int, int] | None:
    """Offset and timestamp of a row's first record from `start` on that is as late."""
    base = row["base_offset"]
    stamps = row["timestamps"] or [row["first_timestamp"]] * row["record_count"]
    deltas = row["offset_deltas"] or range(len(stamps))
    for delta, stamp in zip(deltas, stamps, strict=True):
        if stamp >= timestamp_ms and base + delta >= start:
            return base + delta, stamp
    return None


def first_packed_at(stored: bytes, timestamp_ms: int, start: int) -> tuple[int, int] | None:
    """The same for a packed row."""
    for wire in _records.batches_in(stored, start):
        if _records.peek(wire).max_timestamp < timestamp_ms:
            continue
        batch = _records.decode_batch(wire, from_producer=False, max_raw_bytes=MAX_RAW_BYTES)
        for part in batch.slices:
            if part.max_timestamp < timestamp_ms:
                continue
            first = batch.base_offset + part.first_delta
            for offset, stamp in enumerate(_stamps(part), first):
                if stamp >= timestamp_ms and offset >= start:
                    return offset, stamp
    return None


def largest_timestamp(row: Any, start: int) -> int:
    """The largest timestamp of a row's records from `start` on; -1 when there are none."""
    base = row["base_offset"]
    stamps = row["timestamps"] or [row["first_timestamp"]] * row["record_count"]
    deltas = row["offset_deltas"] or range(len(stamps))
    return max((stamp for delta, stamp in zip(deltas, stamps, strict=True) if base + delta >= start), default=-1)


def largest_packed_timestamp(stored: bytes, start: int) -> int:
    """The same for a packed row."""
    largest = -1
    for wire in _records.batches_in(stored, start):
        if _records.peek(wire).base_offset >= start:
            largest = max(largest, _records.peek(wire).max_timestamp)
            continue
        batch = _records.decode_batch(wire, from_producer=False, max_raw_bytes=MAX_RAW_BYTES)
        for part in batch.slices:
            stamps = enumerate(_stamps(part), batch.base_offset + part.first_delta)
            largest = max(largest, *(stamp for offset, stamp in stamps if offset >= start), -1)
    return largest


def _stamps(part: Slice) -> Iterator[int]:
    """The timestamps of a slice of a producer's batch."""
    if part.timestamps is None:
        return iter([part.first_timestamp] * part.count)
    return (stamp for _, stamp in _STAMP.iter_unpack(part.timestamps))


def encode(
    rows: Sequence[bytes | list[object]], offset: int, max_bytes: int, codec: int | None, level: int | None
) -> list[bytes]:
    """Wire batches of rows, within max_bytes but for the first; with the topic's codec or else the producer's.

    A packed row, bytes here, has its batches as they are.
    """
    batches: list[bytes] = []
    size = 0
    for values in rows:
        if isinstance(values, bytes):
            for batch in _records.batches_in(values, offset):
                if batches and size + len(batch) > max_bytes:
                    return batches
                batches.append(batch)
                size += len(batch)
            continue
        arguments: dict[str, Any] = dict(zip(FIELDS, values, strict=True))
        if codec is not None and not arguments["is_control"]:
            arguments["codec"] = codec
        if not arguments["is_transactional"]:
            # A row may hold batches of several producers; consumers look at producers of transactions only.
            arguments["producer_id"] = None
        left = max_bytes - size
        if batches and left <= 0:
            break
        batch = _records.encode_row(
            **arguments, start_offset=offset, max_bytes=0 if batches else max(1, max_bytes), level=level
        )
        if batches and len(batch) > left:
            break
        batches.append(batch)
        size += len(batch)
    return batches
