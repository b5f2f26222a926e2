"""Whatever a batch or a row says, the native core answers with a RecordsError, and never takes memory for a claim."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import cramjam
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.batches import (
    HEADER,
    Record,
    batch_bytes,
    batch_records,
    encode_arguments,
    make_row,
    read_row,
    record_bytes,
    varint,
    with_crc,
)

from pg_kafka.wire import _records, compression
from pg_kafka.wire._records import RecordsError
from pg_kafka.wire.error_codes import ErrorCode

NOW = 1_700_000_000_000
CODECS = range(5)
RECORDS = [
    Record(0, NOW, b"key", b"value", ((b"h", b"x"), (b"h", None))),
    Record(1, NOW + 70_000, None, None),
    Record(2, NOW - 1, b"", b"v" * 200, ((b"", b""),)),
]


def refused(data: bytes, code: ErrorCode, index: int = -1, **options: object) -> str:
    with pytest.raises(RecordsError) as raised:
        _records.decode_batch(data, **options)  # type: ignore[arg-type]
    assert (ErrorCode(raised.value.code), raised.value.record_index) == (code, index)
    assert str(raised.value) == raised.value.message
    return raised.value.message


def tried(data: bytes, *, from_producer: bool, max_raw_bytes: int = 1 << 20) -> None:
    """Decode and use what comes out; only RecordsError is allowed."""
    try:
        batch = _records.decode_batch(data, from_producer=from_producer, max_raw_bytes=max_raw_bytes)
    except RecordsError as error:
        assert isinstance(ErrorCode(error.code), ErrorCode)
        assert error.record_index >= -1
        return
    assert len(batch_records(batch)) == batch.count
    if batch.slices:
        row = read_row(make_row(batch.slices))
        assert len(row.array("values") or ()) == batch.count


@contextmanager
def memory_below(limit: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < limit, f"{peak} bytes at the peak"


# ---- Kafka's rules for a producer's batch


def patched(offset: int, form: str, value: int, *, codec: int = 0) -> bytes:
    data = bytearray(batch_bytes(RECORDS, codec=codec))
    struct.pack_into(form, data, offset, value)
    return with_crc(data)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(b"", ErrorCode.INVALID_RECORD, id="nothing"),
        pytest.param(bytes(11), ErrorCode.INVALID_RECORD, id="no length"),
        pytest.param(bytes(100), ErrorCode.CORRUPT_MESSAGE, id="length 0"),
        pytest.param(patched(8, ">i", -1), ErrorCode.CORRUPT_MESSAGE, id="negative length"),
        pytest.param(patched(8, ">i", 2**31 - 1), ErrorCode.INVALID_RECORD, id="length above what is there"),
        pytest.param(batch_bytes(RECORDS)[:-1], ErrorCode.INVALID_RECORD, id="cut short"),
        pytest.param(batch_bytes(RECORDS) + b"\x00", ErrorCode.INVALID_RECORD, id="a byte too many"),
        pytest.param(batch_bytes(RECORDS) * 2, ErrorCode.INVALID_RECORD, id="two batches"),
        pytest.param(batch_bytes(RECORDS, magic=0), ErrorCode.INVALID_RECORD, id="magic 0"),
        pytest.param(batch_bytes(RECORDS, magic=1), ErrorCode.INVALID_RECORD, id="magic 1"),
        pytest.param(batch_bytes(RECORDS, magic=3), ErrorCode.CORRUPT_MESSAGE, id="magic 3"),
        pytest.param(batch_bytes(RECORDS, magic=-1), ErrorCode.CORRUPT_MESSAGE, id="magic -1"),
        pytest.param(bytes(8) + struct.pack(">ii", 48, -1) + b"\x02" + bytes(43), ErrorCode.CORRUPT_MESSAGE, id="48"),
        pytest.param(patched(0, ">q", 5), ErrorCode.INVALID_RECORD, id="base offset"),
        pytest.param(patched(23, ">i", -1), ErrorCode.INVALID_RECORD, id="negative last offset delta"),
        pytest.param(patched(23, ">i", 3), ErrorCode.INVALID_RECORD, id="last offset delta above the count"),
        pytest.param(patched(57, ">i", 0), ErrorCode.INVALID_RECORD, id="no records"),
        pytest.param(patched(57, ">i", -1), ErrorCode.INVALID_RECORD, id="negative count"),
        pytest.param(patched(21, ">h", 0x20), ErrorCode.INVALID_RECORD, id="control"),
        pytest.param(patched(21, ">h", 0x10), ErrorCode.INVALID_RECORD, id="transactional without a producer"),
        pytest.param(patched(21, ">h", 0x40), ErrorCode.INVALID_RECORD, id="delete horizon"),
        pytest.param(patched(21, ">h", 0x08), ErrorCode.INVALID_TIMESTAMP, id="LogAppendTime"),
        pytest.param(patched(43, ">q", 0), ErrorCode.INVALID_RECORD, id="producer without sequence and epoch"),
        pytest.param(
            batch_bytes(RECORDS, producer=(1, 0, -1)), ErrorCode.INVALID_RECORD, id="producer without sequence"
        ),
        pytest.param(batch_bytes(RECORDS, producer=(1, -1, 0)), ErrorCode.INVALID_RECORD, id="producer without epoch"),
        *(
            pytest.param(patched(21, ">h", codec), ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, id=f"codec {codec}")
            for codec in (5, 6, 7)
        ),
    ],
)
def test_batch_is_refused_with_kafkas_error(data: bytes, code: ErrorCode) -> None:
    refused(data, code)


@given(st.integers(12, len(batch_bytes(RECORDS)) - 1), st.integers(1, 255))
def test_one_changed_byte_is_found(at: int, change: int) -> None:
    """Everything but the base offset and the leader epoch; a length that changes is found before the CRC."""
    data = bytearray(batch_bytes(RECORDS))
    data[at] ^= change
    if 12 <= at < 16:
        assert _records.decode_batch(bytes(data)).count == len(RECORDS)
    else:
        with pytest.raises(RecordsError):
            _records.decode_batch(bytes(data))


def test_wrong_crc_is_corrupt() -> None:
    data = bytearray(batch_bytes(RECORDS))
    data[-1] ^= 1
    assert "CRC" in refused(bytes(data), ErrorCode.CORRUPT_MESSAGE)


# ---- records that lie; all behind a right CRC


def raw_batch(raw: bytes, count: int, codec: int = 0) -> bytes:
    return batch_bytes(raw=raw, count=count, codec=codec, last_offset=count - 1, base_timestamp=NOW, max_timestamp=NOW)


GOOD = record_bytes(Record(0, NOW, b"k", b"v"), 0, NOW)


def record(body: bytes) -> bytes:
    return varint(len(body)) + body


TOO_LONG_INT = b"\x80\x80\x80\x80\x80\x00"
TOO_LONG_LONG = b"\x80" * 10 + b"\x00"
HUGE = varint(2**31 - 1)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    ("second", "wanted"),
    [
        (b"", "length"),
        (TOO_LONG_INT, "length"),
        (b"\x80", "length"),
        (varint(0), "length"),
        (varint(-1), "length"),
        (HUGE + b"\x00" * 20, "length"),
        (varint(8) + b"\x00" * 7, "length"),
        (record(b"\x00"), "timestamp"),
        (record(b"\x00" + TOO_LONG_LONG), "timestamp"),
        (record(b"\x00\x80"), "timestamp"),
        (record(b"\x00\x00"), "offset"),
        (record(b"\x00\x00" + TOO_LONG_INT), "offset"),
        (record(b"\x00\x00\x02"), "key"),
        (record(b"\x00\x00\x02" + HUGE), "key"),
        (record(b"\x00\x00\x02" + varint(1)), "key"),
        (record(b"\x00\x00\x02" + TOO_LONG_INT), "key"),
        (record(b"\x00\x00\x02\x01"), "value"),
        (record(b"\x00\x00\x02\x01" + HUGE), "value"),
        (record(b"\x00\x00\x02\x01" + varint(2) + b"a"), "value"),
        (record(b"\x00\x00\x02\x01\x01"), "header count"),
        (record(b"\x00\x00\x02\x01\x01" + varint(-1)), "header count"),
        (record(b"\x00\x00\x02\x01\x01" + HUGE), "header count"),
        (record(b"\x00\x00\x02\x01\x01" + varint(2) + b"\x00\x01\x00"), "header count"),
        (record(b"\x00\x00\x02\x01\x01" + varint(1) + varint(-1) + b"\x01"), "header longer"),
        (record(b"\x00\x00\x02\x01\x01" + varint(1) + varint(2) + b"a"), "header longer"),
        (record(b"\x00\x00\x02\x01\x01" + varint(1) + HUGE + b"a"), "header longer"),
        (record(b"\x00\x00\x02\x01\x01" + varint(1) + varint(1) + b"a" + HUGE), "header longer"),
        (record(b"\x00\x00\x02\x01\x01" + varint(1) + varint(0) + TOO_LONG_INT), "header longer"),
        (record(b"\x00\x00\x02\x01\x01\x00\x00"), "longer than what it holds"),
        (record(b"\x00\x00\x00\x01\x01\x00"), "offset after the one before"),
        (record(b"\x00\x00\x04\x01\x01\x00"), "offset after the one before"),
        (record(b"\x00\x00\x01\x01\x01\x00"), "offset after the one before"),
    ],
)
def test_damaged_record_is_named(second: bytes, wanted: str, codec: int) -> None:
    # Enough bytes for the count, so that the record itself is looked at; they belong to no record.
    first = record_bytes(Record(0, NOW, b"k", b"v" * 20), 0, NOW)
    message = refused(raw_batch(first + second, 2, codec), ErrorCode.INVALID_RECORD, 1)
    assert wanted in message


@pytest.mark.parametrize("codec", CODECS)
def test_bytes_after_the_last_record_are_refused(codec: int) -> None:
    assert "after the last record" in refused(raw_batch(GOOD + b"\x00", 1, codec), ErrorCode.INVALID_RECORD)
    assert "after the last record" in refused(raw_batch(GOOD * 2, 1, codec), ErrorCode.INVALID_RECORD)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("count", [2, 3, 1000, 2**31 - 1])
def test_count_above_the_records_takes_no_memory(count: int, codec: int) -> None:
    data = raw_batch(GOOD, count, codec)
    with memory_below(1_000_000):
        refused(data, ErrorCode.INVALID_RECORD)


@pytest.mark.parametrize("offset", [-1, 1, 3])
def test_offsets_of_a_stored_batch_rise_up_to_its_last(offset: int) -> None:
    records = [Record(1, NOW), Record(offset, NOW)]
    data = batch_bytes(records, last_offset=2)
    if offset == 1:
        records[0] = Record(1, NOW)
    refused(data, ErrorCode.INVALID_RECORD, 1, from_producer=False)


def test_largest_offset_delta() -> None:
    records = [Record(0, NOW), Record(2**31 - 2, NOW), Record(2**31 - 1, NOW)]
    assert batch_records(_records.decode_batch(batch_bytes(records), from_producer=False)) == records
    again = [*records[:2], Record(2**31 - 1, NOW), Record(2**31 - 1, NOW)]
    with pytest.raises(RecordsError):
        _records.decode_batch(batch_bytes(again), from_producer=False)


@pytest.mark.parametrize(
    ("field", "form", "value"), [(0, ">q", -1), (0, ">q", 2**63 - 1), (23, ">i", -1), (57, ">i", -1)]
)
def test_stored_batch_with_impossible_numbers_is_refused(field: int, form: str, value: int) -> None:
    refused(patched(field, form, value), ErrorCode.INVALID_RECORD, from_producer=False)


# ---- everything else, by chance


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("from_producer", [True, False])
def test_every_truncation_is_refused(codec: int, from_producer: bool) -> None:
    data = batch_bytes(RECORDS, codec=codec)
    for size in range(len(data)):
        with pytest.raises(RecordsError):
            _records.decode_batch(data[:size], from_producer=from_producer)


@pytest.mark.parametrize("codec", CODECS)
def test_every_truncation_with_right_length_and_crc_is_refused(codec: int) -> None:
    data = batch_bytes(RECORDS, codec=codec)
    for size in range(HEADER.size, len(data)):
        cut = bytearray(data[:size])
        struct.pack_into(">i", cut, 8, size - 12)
        with pytest.raises(RecordsError) as raised:
            _records.decode_batch(with_crc(cut))
        assert raised.value.code == ErrorCode.INVALID_RECORD


@settings(max_examples=500)
@given(
    st.sampled_from(CODECS),
    st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), min_size=1, max_size=6),
    st.booleans(),
)
def test_changed_bytes_behind_a_right_crc(codec: int, changes: list[tuple[int, int]], from_producer: bool) -> None:
    data = bytearray(batch_bytes(RECORDS, codec=codec))
    for at, value in changes:
        # The frame stays: length and magic have their own tests.
        at = 21 + at % (len(data) - 21)
        data[at] = value
    tried(with_crc(data), from_producer=from_producer)


@settings(max_examples=500)
@given(st.binary(max_size=200), st.integers(0, 30), st.booleans(), st.sampled_from(CODECS))
def test_records_of_chance_bytes(raw: bytes, count: int, from_producer: bool, codec: int) -> None:
    tried(raw_batch(raw, count, codec), from_producer=from_producer)


@settings(max_examples=300)
@given(st.binary(max_size=300), st.booleans())
@example(b"\x00" * 61, True)
def test_chance_bytes(data: bytes, from_producer: bool) -> None:
    tried(data, from_producer=from_producer)
    if len(data) >= 61:
        framed = bytearray(data)
        struct.pack_into(">i", framed, 8, len(data) - 12)
        framed[16] = 2
        tried(with_crc(framed), from_producer=from_producer)
    try:
        _records.peek(data)
    except RecordsError:
        pass


@settings(max_examples=200)
@given(st.integers(1, 4), st.binary(max_size=100), st.integers(0, 3))
def test_compressed_part_of_chance_bytes(codec: int, noise: bytes, where: int) -> None:
    compressed = compression.compress(codec, b"".join([GOOD] * 3))
    body = [noise, compressed + noise, noise + compressed, compressed[: len(compressed) // 2] + noise][where]
    data = bytearray(raw_batch(body, 3))
    struct.pack_into(">h", data, 21, codec)
    tried(with_crc(data), from_producer=True)


# ---- bombs


def bomb(codec: int, size: int) -> bytes:
    if codec == compression.SNAPPY:
        # One block that declares more than it could hold, as large as a varint allows.
        body = b"\xff\xff\xff\xff\x0f" + b"\xfe\x01\x00" * 100
    else:
        body = compression.compress(codec, bytes(size))
    data = bytearray(raw_batch(body, 1))
    struct.pack_into(">h", data, 21, codec)
    return with_crc(data)


@pytest.mark.parametrize("codec", [1, 3, 4])
def test_bomb_is_too_large_and_takes_no_memory(codec: int) -> None:
    data = bomb(codec, 64 << 20)
    assert len(data) < 1_000_000
    with memory_below(6 << 20):
        refused(data, ErrorCode.MESSAGE_TOO_LARGE, max_raw_bytes=2 << 20)


def test_snappy_that_declares_gigabytes_takes_no_memory() -> None:
    with memory_below(1 << 20):
        with pytest.raises(RecordsError):
            _records.decode_batch(bomb(compression.SNAPPY, 0))


def test_snappy_bomb_is_too_large() -> None:
    block = bytes(cramjam.snappy.compress_raw(bytes(8 << 20)))
    data = bytearray(raw_batch(block, 1))
    struct.pack_into(">h", data, 21, compression.SNAPPY)
    with memory_below(1 << 20):
        refused(with_crc(data), ErrorCode.MESSAGE_TOO_LARGE, max_raw_bytes=2 << 20)


@pytest.mark.parametrize("codec", CODECS)
def test_limit_counts_uncompressed_bytes(codec: int) -> None:
    data = batch_bytes(RECORDS, codec=codec)
    size = _records.decode_batch(data).raw_bytes
    assert _records.decode_batch(data, max_raw_bytes=size).count == len(RECORDS)
    refused(data, ErrorCode.MESSAGE_TOO_LARGE, max_raw_bytes=size - 1)


def test_records_that_grow_in_arrays_are_bounded() -> None:
    """A header of two bytes takes eight in the row's arrays."""
    headers = 300_000
    body = b"\x00\x00\x00\x01\x01" + varint(headers) + b"\x00\x01" * headers
    data = raw_batch(varint(len(body)) + body, 1)
    with memory_below(1 << 20):
        refused(data, ErrorCode.MESSAGE_TOO_LARGE, max_raw_bytes=700_000)
    assert _records.decode_batch(data).slices[0].headers == headers


def test_memory_of_the_smallest_records_is_in_proportion() -> None:
    raw = b"".join(b"\x0c\x00" + varint(i % 2) + varint(i) + b"\x01\x01\x00" for i in range(60))
    count = 60
    data = raw_batch(raw, count)
    with memory_below(20_000):
        batch = _records.decode_batch(data)
    assert sum(len(part.values) + len(part.timestamps or b"") for part in batch.slices) == 16 * count


@pytest.mark.parametrize("limit", [-1, 1 << 40])
def test_limit_that_no_row_can_hold_is_refused(limit: int) -> None:
    with pytest.raises(ValueError, match="max_raw_bytes"):
        _records.decode_batch(batch_bytes(RECORDS), max_raw_bytes=limit)


# ---- rows that lie

ROW = read_row(make_row(_records.decode_batch(batch_bytes(RECORDS)).slices))
ARRAYS = ("timestamps", "offset_deltas", "keys", "header_ends", "header_keys", "header_values", "values")


def sparse_row() -> dict[str, object]:
    records = [
        Record(record.offset * 2, record.timestamp, record.key, record.value, record.headers) for record in RECORDS
    ]
    batch = _records.decode_batch(batch_bytes(records), from_producer=False)
    return encode_arguments(read_row(make_row(batch.slices)))


def encoded(arguments: dict[str, object]) -> None:
    """Encode; what comes out must be a batch, and what is refused must be refused by RecordsError."""
    try:
        data = _records.encode_row(**({"codec": 0} | arguments))  # type: ignore[arg-type]
    except RecordsError:
        return
    batch = _records.decode_batch(data, from_producer=False)
    assert len(batch_records(batch)) == batch.count


@settings(max_examples=500)
@given(
    st.sampled_from(ARRAYS),
    st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), min_size=1, max_size=4),
    st.sampled_from([0, 1, 100, 10_000]),
    st.integers(-1, 6),
)
def test_changed_arrays(name: str, changes: list[tuple[int, int]], max_bytes: int, start_offset: int) -> None:
    arguments = sparse_row()
    data = bytearray(arguments[name])  # type: ignore[call-overload]
    for at, value in changes:
        data[at % len(data)] = value
    encoded(arguments | {name: bytes(data), "max_bytes": max_bytes, "start_offset": start_offset})


@pytest.mark.parametrize("name", ARRAYS)
def test_every_truncation_of_an_array_is_refused(name: str) -> None:
    arguments = sparse_row()
    data = arguments[name]
    assert isinstance(data, bytes)
    for size in range(len(data)):
        with pytest.raises(RecordsError):
            _records.encode_row(**(arguments | {"codec": 0, name: data[:size]}))  # type: ignore[arg-type]
    with pytest.raises(RecordsError):
        _records.encode_row(**(arguments | {"codec": 0, name: data + b"\x00"}))  # type: ignore[arg-type]


@given(st.sampled_from(ARRAYS), st.binary(max_size=120))
def test_arrays_of_chance_bytes(name: str, data: bytes) -> None:
    encoded(sparse_row() | {name: data})


@pytest.mark.parametrize("name", ["header_ends", "header_keys", "header_values"])
def test_missing_part_of_headers_is_refused(name: str) -> None:
    with pytest.raises(RecordsError):
        _records.encode_row(**(encode_arguments(ROW) | {"codec": 0, name: None}))


@pytest.mark.parametrize(
    "change",
    [
        {"record_count": 2},
        {"record_count": 4},
        {"record_count": -1},
        {"record_count": 0},
        {"base_offset": -1},
        {"last_offset": 1},
        {"last_offset": -1},
        {"last_offset": 1 << 40},
        {"base_offset": 2**63 - 1, "last_offset": 2**63 - 1},
        {"base_offset": 2**63 - 1, "last_offset": -(2**63)},
        {"codec": 5},
        {"codec": -1},
        {"timestamp_type": 1},
    ],
)
def test_row_whose_numbers_do_not_fit_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(RecordsError):
        _records.encode_row(**(encode_arguments(ROW) | {"codec": 0} | change))


@pytest.mark.parametrize("offset", [-(2**63), -1, len(batch_bytes(RECORDS)) - 60, 2**63 - 1])
def test_no_header_is_looked_at_outside(offset: int) -> None:
    with pytest.raises(RecordsError) as raised:
        _records.peek(batch_bytes(RECORDS), offset)
    assert raised.value.code == ErrorCode.CORRUPT_MESSAGE


@pytest.mark.parametrize("batch_base_offset", [-(2**63), -1, 2**63 - 1])
def test_sequence_of_any_claimed_offset_is_a_sequence(batch_base_offset: int) -> None:
    claimed = {
        "producer_id": 1,
        "producer_epoch": 0,
        "base_sequence": 2**31 - 1,
        "batch_base_offset": batch_base_offset,
    }
    batch = _records.decode_batch(
        _records.encode_row(**(encode_arguments(ROW) | {"codec": 0} | claimed)),  # type: ignore[arg-type]
        from_producer=False,
    )
    assert batch.base_sequence == (2**31 - 1 - batch_base_offset) % 2**31


def test_empty_arrays_are_read() -> None:
    """PostgreSQL sends an array without elements with no dimensions."""
    empty = {17: struct.pack(">iii", 0, 0, 17), 23: struct.pack(">iii", 0, 0, 23), 20: struct.pack(">iii", 0, 0, 20)}
    arguments = encode_arguments(ROW) | {
        "record_count": 0,
        "timestamps": empty[20],
        "keys": None,
        "header_ends": empty[23],
        "header_keys": empty[17],
        "header_values": empty[17],
        "values": empty[17],
        "codec": 0,
    }
    data = _records.encode_row(**arguments)
    assert (_records.peek(data).record_count, _records.peek(data).last_offset_delta) == (0, 2)
