"""Record batches for producers that must cost little: the records are encoded once, the header with every send.

    base offset 8 | length 4 | leader epoch 4 | magic 1 | crc 4 | attributes 2 | last offset delta 4 |
    base timestamp 8 | max timestamp 8 | producer id 8 | producer epoch 2 | base sequence 4 | count 4 | records

The CRC covers all from the attributes on. A record: length | attributes | timestamp delta | offset delta | key length (-1) |
value length | value | header count (0); numbers are zigzag varints.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import accumulate

from pg_kafka.wire import compression
from pg_kafka.wire._records import crc32c

HEADER_BYTES = 61
_HEAD = struct.Struct(">qiibI")
_CHECKED = struct.Struct(">hiqqqhii")
_LENGTH_FROM = 12  # the length counts what follows it

# A sequence wraps around to 0 after this.
_MAX_SEQUENCE = 2**31 - 1


class BatchTemplate:
    """The same records in batch after batch, of whatever producer, time and sequence."""

    def __init__(self, values: Sequence[bytes], codec: int = compression.NONE) -> None:
        self.count = len(values)
        self.payload_bytes = sum(map(len, values))
        self._codec = codec
        records = [encode_record(delta, value) for delta, value in enumerate(values)]
        self._ends = [0, *accumulate(map(len, records))]
        self._records = b"".join(records)
        self._whole = compression.compress(codec, self._records)

    def batch(
        self,
        timestamp_ms: int,
        producer_id: int = -1,
        producer_epoch: int = -1,
        base_sequence: int = -1,
        count: int | None = None,
    ) -> bytes:
        """A batch of the first `count` records, or of all, as it goes over the wire."""
        if count is None or count == self.count:
            count, records = self.count, self._whole
        else:
            records = compression.compress(self._codec, self._records[: self._ends[count]])
        times = (timestamp_ms, timestamp_ms)
        start = _CHECKED.pack(self._codec, count - 1, *times, producer_id, producer_epoch, base_sequence, count)
        checked = start + records
        return _HEAD.pack(0, HEADER_BYTES - _LENGTH_FROM + len(records), -1, 2, crc32c(checked)) + checked


def encode_record(delta: int, value: bytes) -> bytes:
    """A record without key and headers, of the batch's base timestamp."""
    body = b"".join((b"\x00\x00", _varint(delta), b"\x01", _varint(len(value)), value, b"\x00"))
    return _varint(len(body)) + body


def values_for(batch_bytes: int, record_bytes: int, source: bytes) -> list[bytes]:
    """Values cut from `source`, as many as a batch of that size takes; at least one."""
    longest = len(encode_record(batch_bytes, bytes(record_bytes)))
    count = max(1, (batch_bytes - HEADER_BYTES) // longest)
    starts = (index * record_bytes % max(1, len(source) - record_bytes) for index in range(count))
    return [source[start : start + record_bytes] for start in starts]


def next_sequence(base_sequence: int, count: int) -> int:
    """The base sequence of the batch that follows one of `count` records."""
    return (base_sequence + count) % (_MAX_SEQUENCE + 1)


def _varint(number: int) -> bytes:
    rest = number << 1  # zigzag of what is not negative
    parts = bytearray()
    while rest > 0x7F:
        parts.append(rest & 0x7F | 0x80)
        rest >>= 7
    parts.append(rest)
    return bytes(parts)
