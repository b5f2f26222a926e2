"""Fuzzer of the native core, built anew with sanitizers.

Batches are damaged in their header, in their records before they are compressed, and after it, mostly behind a right
length and CRC so that the damage is looked at. What is accepted goes through a row and back. Rows get arrays and numbers
that lie. What is read lies in memory of exactly its size, so that a read one byte too far is seen.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from array import array
from functools import partial
from random import Random
from typing import Any

from tests.fuzz import sanitized

INSTRUMENTED = sanitized.load("_records")

from tests.batches import (  # noqa: E402
    HEADER,
    Record,
    batch_bytes,
    batch_records,
    encode,
    encode_arguments,
    make_row,
    moved,
    read_row,
    record_bytes,
    varint,
    with_crc,
)
from tests.fuzz.target import TOKENS, Target, damage, playing  # noqa: E402

from pg_kafka.wire import _records  # noqa: E402
from pg_kafka.wire._records import Batch, RecordsError  # noqa: E402
from pg_kafka.wire.compression import decompress  # noqa: E402
from pg_kafka.wire.error_codes import ErrorCode  # noqa: E402

BATCHES = 20
NOW = 1_700_000_000_000
MAX_BASE_OFFSET = 2**63 - 1 - (2**31 - 1)
# Large, and a batch may begin at any offset of one that begins here.
LARGE_OFFSET = MAX_BASE_OFFSET - 2**31
INT16 = (0, 1, -1, 2**15 - 1, -(2**15))
INT32 = (0, 1, 2, -1, -2, 2**31 - 1, -(2**31), 2**31 - 2, 1 << 20)
INT64 = (*INT32, NOW, 2**63 - 1, -(2**63), 2**63 - 2, MAX_BASE_OFFSET, MAX_BASE_OFFSET + 1, 1 << 40)
# Offset, width of each number in a batch's header but the CRC, and what it may lie.
FIELDS = ((0, 8), (8, 4), (12, 4), (16, 1), (21, 2), (23, 4), (27, 8), (35, 8), (43, 8), (51, 2), (53, 4), (57, 4))
LIMITS = (0, 10, 500, 40_000, 3 << 20, 1 << 27)


def play(rng: Random) -> int:
    for _ in range(BATCHES):
        data = batch(rng)
        from_producer = rng.random() < 0.5
        limit = rng.choice(LIMITS) if rng.random() < 0.2 else LIMITS[-1]
        try:
            check_batch(rng, data, from_producer, limit)
            check_rest(rng, data)
        except Exception as error:
            if len(data) < 20_000:
                raise AssertionError(f"{from_producer=} {limit=}: {error!r}: {data.hex()}") from error
            raise
    check_row(rng)
    return BATCHES + ROWS


# ---- batches


def some_bytes(rng: Random, size: int) -> bytes | None:
    return (
        None
        if rng.random() < 0.15
        else rng.randbytes(rng.choice((0, 1, 5, 60, 63, 64, 127, 128, rng.randint(0, size))))
    )


def some_records(rng: Random) -> list[Record]:
    size = rng.choice((0, 10, 200, 200, 3000))
    if rng.random() < 0.02:
        size = rng.choice((40_000, 700_000, 1_500_000))
    same_time = rng.random() < 0.3
    is_sparse = rng.random() < 0.3
    records = []
    offset = 0
    for _ in range(rng.choice((1, 1, 2, 3, 10, 60)) if size < 40_000 else rng.randint(1, 4)):
        time = NOW if same_time else rng.choice((NOW, NOW + rng.randrange(-(10**6), 10**6), rng.choice(INT64)))
        headers = tuple(
            (some_bytes(rng, 9) or b"", some_bytes(rng, size)) for _ in range(rng.choice((0, 0, 0, 1, 2, 30)))
        )
        records.append(Record(offset, time, some_bytes(rng, 30), some_bytes(rng, size), headers))
        offset += 1 + (rng.choice((0, 1, 7, 1 << 20)) if is_sparse else 0)
    return records


def batch(rng: Random) -> bytes:
    """A batch of any codec with damage in one or more of its layers."""
    if rng.random() < 0.03:
        return rng.randbytes(rng.randrange(200))
    records = some_records(rng)
    base_offset = 0 if rng.random() < 0.6 else rng.choice((5, 1 << 33, LARGE_OFFSET))
    base_timestamp = records[0].timestamp
    raw = b"".join(record_bytes(one, 0, base_timestamp) for one in records)
    count = len(records)
    if rng.random() < 0.3:
        raw = with_damaged_record(rng, records, base_timestamp)
        count += 1
    for _ in range(rng.choice((0, 0, 0, 1, 2, 5))):
        raw = damage(rng, raw)
    is_dense = rng.random() < 0.7
    data = batch_bytes(
        codec=rng.choice((0, 0, 1, 2, 3, 4)),
        base_offset=base_offset,
        last_offset=base_offset + (count - 1 if is_dense else records[-1].offset + 1),
        leader_epoch=rng.choice(INT32),
        attributes=rng.choice((0, 0, 0, 0x08, 0x10, 0x20, 0x30, 0x40, 0x7F80)) & 0x7FF8,
        base_timestamp=base_timestamp,
        max_timestamp=max(one.timestamp for one in records),
        producer=rng.choice(((-1, -1, -1), (7, 3, 12), (7, 3, 2**31 - 1), (0, 0, 0))),
        count=count,
        raw=raw,
    )
    if rng.random() < 0.3:
        data = data[: HEADER.size] + damage(rng, data[HEADER.size :])
    changed = bytearray(data)
    if rng.random() < 0.9:
        changed[8:12] = (len(data) - 12).to_bytes(4)
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        at, width = rng.choice(FIELDS)
        number = rng.choice({1: INT16, 2: INT16, 4: INT32, 8: INT64}[width])
        changed[at : at + width] = (number % (1 << 8 * width)).to_bytes(width)
    data = bytes(changed) if rng.random() < 0.05 else with_crc(changed)
    if rng.random() < 0.1:
        data += rng.randbytes(rng.randrange(70))
    return data[: rng.randrange(len(data) + 1)] if rng.random() < 0.05 else data


def with_damaged_record(rng: Random, records: list[Record], base_timestamp: int) -> bytes:
    """The records and one more whose fields are varints of our choice; often it is the last, and cut somewhere."""
    at = rng.choice((len(records), rng.randrange(len(records) + 1)))
    lies = (*INT32, *INT64, 1, 5, 10)
    numbers = [varint(rng.choice((0, 1, -1, at, at, rng.choice(lies)))) for _ in range(rng.randint(1, 8))]
    body = b"\x00" + b"".join(numbers) + rng.randbytes(rng.choice((0, 0, 0, 1, 5, 9)))
    if rng.random() < 0.4:
        body += rng.choice(TOKENS)
    body = body[: rng.randint(1, len(body))] if rng.random() < 0.3 else body
    length = varint(len(body) + rng.choice((0, 0, 0, 0, 1, -1, 2**31)))
    whole = [record_bytes(one, 0, base_timestamp) for one in records]
    return b"".join([*whole[:at], length + body, *whole[at:]])


def exactly(data: bytes | memoryview) -> memoryview:
    """The data in memory of their size and not a byte more."""
    view = memoryview(array("B", b"\0") * len(data))
    view[:] = data
    return view


def decompress_exactly(codec: int, data: memoryview, limit: int) -> memoryview:
    return exactly(decompress(codec, data, limit))


def guarded(data: bytes) -> bytes:
    """A copy of the data whose NUL at the end must not be read."""
    if not INSTRUMENTED or len(data) < 2:
        return data
    copy = bytes(bytearray(data))
    poison(ctypes.c_void_p(id(copy) + sys.getsizeof(copy) - 1), ctypes.c_size_t(1))
    return copy


if INSTRUMENTED:
    poison = ctypes.CDLL(None).__asan_poison_memory_region
    _records.decompress = decompress_exactly  # type: ignore[attr-defined]


def decoded(data: bytes, from_producer: bool, limit: int = LIMITS[-1], *, keeps_packed: bool = False) -> Batch | None:
    try:
        return _records.decode_batch(
            exactly(data), from_producer=from_producer, max_raw_bytes=limit, keeps_packed=keeps_packed
        )
    except RecordsError as error:
        assert isinstance(ErrorCode(error.code), ErrorCode)
        assert error.record_index >= -1
        return None


def check_packed(rng: Random, found: Batch, packed: Batch) -> None:
    """One that is kept as it came is known as well, and comes back from its row."""
    assert packed.is_packed == (found.codec != 0 and found.is_read_by_all and found.count > 0)
    assert bytes(packed.wire) == bytes(found.wire)
    if not packed.is_packed:
        return
    (summary,) = packed.slices
    for name in (
        "count",
        "span",
        "headers",
        "raw_bytes",
        "wire_bytes",
        "null_keys",
        "null_values",
        "null_header_values",
    ):
        assert getattr(summary, name) == sum(getattr(part, name) for part in found.slices), name
    base = rng.choice((0, 9, LARGE_OFFSET))
    if found.last_offset_delta < 2**31 - 1:
        wire = _records.restamp(exactly(bytes(packed.wire)), base, 1)
        row = read_row(make_row(packed.slices, base_offset=base, packed=[wire, wire][: rng.choice((1, 1, 2))]))
        stored = row.columns["batch"]
        assert stored is not None and set(_records.batches_in(stored)) == {wire}
    with contextlib.suppress(RecordsError):
        _records.batches_in(damage(rng, bytes(packed.wire)), rng.choice(INT64))


def check_batch(rng: Random, data: bytes, from_producer: bool, limit: int) -> None:
    """What is accepted is what a row gives back."""
    found = decoded(data, from_producer, limit)
    packed = decoded(data, from_producer, limit, keeps_packed=True)
    if found is None:
        assert packed is None
        return
    assert packed is not None
    check_packed(rng, found, packed)
    records = batch_records(found)
    assert len(records) == found.count
    assert found.raw_bytes <= limit
    wire = bytes(found.wire)
    again = decoded(wire, from_producer)
    assert again is not None and batch_records(again) == records
    base, time = rng.choice((0, 9, LARGE_OFFSET)), rng.choice((-1, -1, 0, NOW))
    stamped = decoded(_records.restamp(exactly(wire), base, rng.choice(INT32), time), False)
    assert stamped is not None
    if time < 0:
        assert batch_records(stamped) == moved(records, base - found.base_offset)
    else:
        assert {record.timestamp for record in batch_records(stamped)} <= {time}
    if not found.slices or found.last_offset_delta == 2**31 - 1 or found.base_offset > LARGE_OFFSET:
        return  # more offsets than a row may have, or the rest of it would begin beyond the largest offset
    assert sum(part.span for part in found.slices) == found.last_offset_delta + 1
    assert sum(part.raw_bytes for part in found.slices) == found.raw_bytes
    row = read_row(
        make_row(
            found.slices,
            base_offset=found.base_offset,
            timestamp_type=found.timestamp_type,
            is_transactional=found.is_transactional,
            is_control=found.is_control,
            delete_horizon=found.delete_horizon,
            running_max_timestamp=rng.choice(INT64),
            producers=[(found.producer_id, found.producer_epoch, found.base_sequence, found.base_offset, found.count)]
            if rng.random() < 0.5
            else [(7, 1, 2, found.base_offset, 1)] * rng.choice((0, 2, 5)),
        )
    )
    assert len(row.array("values") or ()) == found.count
    read = decoded(encode(row, codec=rng.randrange(5)), False)
    assert read is not None and batch_records(read) == records
    start = found.base_offset + rng.randint(-1, found.last_offset_delta + 1)
    part = decoded(
        encode(row, codec=rng.randrange(5), start_offset=start, max_bytes=rng.choice((1, 90, 4000, 1 << 30))), False
    )
    assert part is not None
    some = batch_records(part)
    after = [record for record in records if record.offset >= start]
    assert some == after[: len(some)] and (some or not after), "a fetch gave other records"


def check_rest(rng: Random, data: bytes) -> None:
    """The functions that look at a header only, at any place, and the marker of a transaction."""
    view = exactly(data)
    for offset in (0, len(data) - rng.randint(59, 63), rng.randint(-70, len(data) + 70), rng.choice(INT64)):
        with contextlib.suppress(RecordsError):
            header = _records.peek(view, offset)
            assert header.base_offset == int.from_bytes(data[offset : offset + 8], signed=True)
    with contextlib.suppress(RecordsError):
        copy = _records.restamp(view, rng.choice(INT64), rng.choice(INT32), rng.choice(INT64))
        assert len(copy) == len(data)
    start = rng.randrange(len(data) + 1)
    assert _records.crc32c(view[start:]) == _records.crc32c(view[start:], by_table=True)
    marker = _records.control_batch(
        base_offset=rng.choice((0, 5, MAX_BASE_OFFSET)),
        leader_epoch=rng.choice(INT32),
        timestamp=rng.choice(INT64),
        producer_id=rng.choice(INT64),
        producer_epoch=rng.choice(INT16),
        is_commit=rng.random() < 0.5,
        coordinator_epoch=rng.choice(INT32),
    )
    assert decoded(marker, False) is not None


# ---- rows

ROWS = 30
ARRAYS = ("timestamps", "offset_deltas", "keys", "header_ends", "header_keys", "header_values", "values")
NUMBERS = {
    "base_offset": INT64,
    "last_offset": INT64,
    "leader_epoch": INT32,
    "record_count": INT32,
    "first_timestamp": INT64,
    "max_timestamp": INT64,
    "timestamp_type": INT16,
    "producer_id": INT64,
    "producer_epoch": INT16,
    "base_sequence": INT32,
    "batch_base_offset": INT64,
    "delete_horizon": (None, *INT64),
    "codec": (-1, 5, *range(5)),
    "start_offset": INT64,
    "max_bytes": INT64,
}
PRODUCER = {"producer_id": 7, "producer_epoch": 3, "base_sequence": 5, "batch_base_offset": 0}


def check_row(rng: Random) -> None:
    """Rows whose parts disagree are refused or give a batch."""
    found = None
    while found is None:
        records = some_records(rng)
        found = decoded(batch_bytes(records), False)
    base = rng.choice((0, 3, LARGE_OFFSET))
    true = (
        encode_arguments(read_row(make_row(found.slices, base_offset=base, leader_epoch=4))) | PRODUCER | {"codec": 0}
    )
    for _ in range(ROWS):
        arguments = dict(true)
        for _ in range(rng.choice((1, 1, 2, 4))):
            lie(rng, arguments)
        for name in ARRAYS:
            if arguments[name] is not None:
                arguments[name] = guarded(arguments[name])
        try:
            data = _records.encode_row(**arguments)
        except RecordsError:
            continue
        again = decoded(data, False)
        if again is None:
            assert arguments["last_offset"] > MAX_BASE_OFFSET, f"a batch that is none of {short(arguments)}"
        else:
            assert len(batch_records(again)) == again.count


def lie(rng: Random, arguments: dict[str, Any]) -> None:
    if rng.random() < 0.4:
        name = rng.choice(list(NUMBERS))
        arguments[name] = rng.choice(NUMBERS[name])
        if rng.random() < 0.3 and isinstance(arguments[name], int):
            arguments[name] = max(
                min(NUMBERS[name][1:]), min(max(NUMBERS[name][1:]), arguments[name] + rng.randint(-2, 2))
            )
        return
    name = rng.choice(ARRAYS)
    data = arguments[name]
    match rng.randrange(8):
        case 0:
            arguments[name] = None if name != "values" else b""
        case 1:
            arguments[name] = arguments[rng.choice(ARRAYS)] or b""
        case 2 | 3 if data:
            # A number where numbers are: in the head, or the length or value of an element.
            at = 4 * rng.randrange(max(1, min(len(data), 200) // 4))
            number = rng.choice(INT32) % (1 << 32)
            arguments[name] = data[:at] + number.to_bytes(4) + data[at + 4 :]
        case _ if data:
            arguments[name] = damage(rng, data)


def short(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{name}={str(value)[:300]}" for name, value in arguments.items())


TARGET = Target(opened=playing(play), environment=partial(sanitized.environment, "_records"), memory_bytes=700 << 20)
