"""The native core against independent implementations: what they write we read, what we write they read."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import crc32c as published_crc32c
import pytest
from aiokafka.record.control_record import ABORT_MARKER, COMMIT_MARKER, ControlRecord
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from hypothesis import given, settings
from hypothesis import strategies as st
from kio.records.readers import read_batch
from kio.records.schema import NewRecordBatch
from kio.records.schema import Record as KioRecord
from kio.records.schema import RecordHeader as KioHeader
from kio.records.writers import write_new_batch
from kio.static.primitive import TZAwareMicros
from tests.batches import (
    HEADER,
    Record,
    batch_bytes,
    batch_records,
    encode,
    make_row,
    moved,
    read_row,
    record_bytes,
    varint,
    with_crc,
)

from pg_kafka.wire import _records

NOW = 1_700_000_000_000
CODECS = range(5)
INT64 = st.integers(-(2**63), 2**63 - 1)

small_bytes = st.binary(max_size=40)
texts = st.text(max_size=8).map(lambda text: text.encode())
header_lists = st.lists(st.tuples(texts, st.none() | small_bytes), max_size=4).map(tuple)
payloads = st.none() | small_bytes | st.binary(max_size=3).map(lambda seed: seed * 100)
near_now = st.integers(NOW - 10**6, NOW + 10**6)


@st.composite
def record_lists(
    draw: st.DrawFn, *, timestamps: st.SearchStrategy[int] = near_now, sparse: bool = False, max_size: int = 12
) -> list[Record]:
    """Records from offset 0. Often without any keys, headers or different times, which rows store in another way."""
    size = draw(st.integers(1, max_size))
    keys = draw(st.sampled_from([payloads, st.none(), small_bytes]))
    headers = draw(st.sampled_from([header_lists, st.just(())]))
    times = draw(st.sampled_from([timestamps, st.just(draw(timestamps))]))
    offset = draw(st.integers(0, 300)) if sparse else 0
    out = []
    for _ in range(size):
        out.append(Record(offset, draw(times), draw(keys), draw(payloads), draw(headers)))
        offset += draw(st.integers(1, 300)) if sparse else 1
    return out


def by_aiokafka(records: list[Record], codec: int, producer: tuple[int, int, int] = (-1, -1, -1)) -> bytes:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=codec,
        is_transactional=0,
        producer_id=producer[0],
        producer_epoch=producer[1],
        base_sequence=producer[2],
        batch_size=1 << 30,
    )
    for record in records:
        headers = [(key.decode(), value) for key, value in record.headers]
        assert builder.append(record.offset, record.timestamp, record.key, record.value, headers) is not None
    return bytes(builder.build())


def read_by_aiokafka(data: bytes) -> list[Record]:
    batch = DefaultRecordBatch(data)
    assert batch.validate_crc()
    return [
        Record(
            record.offset,
            record.timestamp,
            record.key,
            record.value,
            tuple((key.encode(), value) for key, value in record.headers),
        )
        for record in batch
    ]


def by_kio(records: list[Record]) -> bytes:
    out = io.BytesIO()
    write_new_batch(
        out,
        NewRecordBatch(
            producer_id=-1,
            producer_epoch=-1,
            base_sequence=-1,
            attributes=0,
            records=tuple(
                KioRecord(
                    attributes=0,
                    timestamp=TZAwareMicros.parse(datetime.fromtimestamp(record.timestamp // 1000, UTC)),
                    offset=record.offset,
                    key=record.key,
                    value=record.value,
                    headers=tuple(KioHeader(key=key, value=value) for key, value in record.headers),
                )
                for record in records
            ),
        ),
    )
    return out.getvalue()


def read_by_kio(data: bytes) -> list[Record]:
    """Timestamps of kio are cut to seconds."""
    batch, size = read_batch(data, 0)
    assert size == len(data)
    return [
        Record(
            record.offset,
            int(record.timestamp.timestamp()) * 1000,
            record.key,
            record.value,
            tuple((header.key or b"", header.value) for header in record.headers),
        )
        for record in batch.records
    ]


def in_seconds(records: list[Record]) -> list[Record]:
    return [replace(record, timestamp=record.timestamp // 1000 * 1000) for record in records]


# ---- agreement


@given(record_lists(), st.sampled_from(CODECS))
def test_batches_of_aiokafka_decode_to_their_records(records: list[Record], codec: int) -> None:
    data = by_aiokafka(records, codec, producer=(77, 3, 500))

    batch = _records.decode_batch(data)

    assert batch_records(batch) == records
    assert (batch.count, batch.last_offset_delta) == (len(records), len(records) - 1)
    assert (batch.producer_id, batch.producer_epoch, batch.base_sequence) == (77, 3, 500)
    assert batch.wire is data


@given(record_lists())
def test_batches_of_kio_decode_to_their_records(records: list[Record]) -> None:
    batch = _records.decode_batch(memoryview(by_kio(records)))

    assert batch_records(batch) == in_seconds(records)


@given(record_lists(), st.sampled_from(CODECS), st.sampled_from(CODECS), st.integers(0, 2**60))
def test_rows_encode_to_batches_that_others_read(records: list[Record], given: int, wanted: int, base: int) -> None:
    batch = _records.decode_batch(batch_bytes(records, codec=given))
    row = read_row(make_row(batch.slices, base_offset=base))

    data = encode(row, codec=wanted)

    assert read_by_aiokafka(data) == moved(records, base)
    if wanted == 0:
        assert read_by_kio(data) == in_seconds(moved(records, base))
    assert _records.peek(data).max_timestamp == max(record.timestamp for record in records)
    assert _records.peek(data).leader_epoch == 5


@given(record_lists(timestamps=INT64), st.sampled_from(CODECS))
def test_any_timestamp_survives(records: list[Record], codec: int) -> None:
    batch = _records.decode_batch(batch_bytes(records, codec=codec))
    assert batch_records(batch) == records
    assert batch.min_timestamp == min(record.timestamp for record in records)
    assert batch.max_record_timestamp == max(record.timestamp for record in records)
    first_with_max = next(record for record in records if record.timestamp == batch.max_record_timestamp)
    assert batch.max_timestamp_delta == first_with_max.offset

    again = _records.decode_batch(encode(read_row(make_row(batch.slices))))

    assert batch_records(again) == records


@given(record_lists(sparse=True), st.integers(0, 400), st.integers(0, 2**60), st.sampled_from(CODECS))
def test_sparse_batches_keep_their_offsets(records: list[Record], beyond: int, base: int, codec: int) -> None:
    records = moved(records, base)
    data = batch_bytes(records, base_offset=base, last_offset=records[-1].offset + beyond, codec=codec)

    batch = _records.decode_batch(data, from_producer=False)
    row = read_row(make_row(batch.slices, base_offset=base))
    again = encode(row)

    assert batch_records(batch) == records
    assert row.integer("last_offset") == records[-1].offset + beyond
    assert read_by_aiokafka(again) == records
    assert _records.peek(again).base_offset == base
    assert _records.peek(again).last_offset_delta == records[-1].offset + beyond - base


@given(st.lists(record_lists(max_size=5), min_size=1, max_size=5), st.integers(0, 2**40))
def test_batches_that_share_a_row_follow_one_another(batches: list[list[Record]], base: int) -> None:
    slices = [part for records in batches for part in _records.decode_batch(batch_bytes(records)).slices]
    expected: list[Record] = []
    for records in batches:
        expected += moved(records, base + len(expected))

    row = read_row(make_row(slices, base_offset=base))

    assert read_by_aiokafka(encode(row)) == expected
    assert row.integer("record_count") == len(expected) == len(row.array("values") or ())
    assert (row.integer("base_offset"), row.integer("last_offset")) == (base, expected[-1].offset)
    assert row.integer("first_timestamp") == expected[0].timestamp
    assert row.integer("max_timestamp") == max(record.timestamp for record in expected)
    assert row.offset_deltas is None
    assert (row.timestamps is None) == (len({record.timestamp for record in expected}) == 1)
    assert (row.keys is None) == all(record.key is None for record in expected)
    assert (row.header_ends is None) == all(not record.headers for record in expected)
    assert row.integer("row_bytes") == sum(part.raw_bytes for part in slices)


@given(st.lists(record_lists(max_size=4, sparse=True), min_size=2, max_size=4))
def test_sparse_batches_that_share_a_row_follow_one_another(batches: list[list[Record]]) -> None:
    slices = []
    expected: list[Record] = []
    start = 0
    for records in batches:
        batch = _records.decode_batch(batch_bytes(records, last_offset=records[-1].offset + 2), from_producer=False)
        slices += batch.slices
        expected += moved(records, start)
        start += batch.last_offset_delta + 1

    row = read_row(make_row(slices))

    assert read_by_aiokafka(encode(row)) == expected
    assert row.integer("last_offset") == start - 1


@given(record_lists(), st.binary(min_size=1, max_size=4))
def test_header_keys_need_not_be_text(records: list[Record], key: bytes) -> None:
    records[-1] = replace(records[-1], headers=((key, None), (key, b"\xff\x00"), (b"", b"")))

    batch = _records.decode_batch(batch_bytes(records))

    assert batch_records(batch) == records
    assert batch_records(_records.decode_batch(encode(read_row(make_row(batch.slices))))) == records


# ---- the row


def test_columns_are_those_of_the_log_table() -> None:
    schema = Path(_records.__file__).parents[1] / "storage/sql/schema/010_log.sql"
    body = re.search(r"CREATE TABLE kafka\.log \((.*?)\n\) PARTITION", schema.read_text(), re.S)
    assert body is not None
    assert tuple(re.findall(r"^    ([a-z_]+) +(?:big|small|int|bool|bytea)", body[1], re.M)) == _records.COLUMNS


def test_rows_of_a_batch_share_its_bytes_on_the_wire() -> None:
    batches = [
        _records.decode_batch(batch_bytes([Record(i, NOW, None, b"x" * 700_000) for i in range(3)], codec=codec))
        for codec in (0, 4)
    ]
    for batch in batches:
        rows = [read_row(make_row([piece])) for piece in batch.slices]
        assert len(rows) == 3
        assert sum(row.integer("wire_bytes") or 0 for row in rows) == len(batch.wire)
        assert min(row.integer("wire_bytes") or 0 for row in rows) > len(batch.wire) // 4
    shared = read_row(make_row([piece for batch in batches for piece in batch.slices]))
    assert shared.integer("wire_bytes") == sum(len(batch.wire) for batch in batches)


def test_row_has_what_it_was_given() -> None:
    records = [Record(i, NOW + i, b"k", b"v") for i in range(3)]
    batch = _records.decode_batch(batch_bytes(records))

    row = read_row(
        make_row(
            batch.slices,
            series=11,
            topic=12,
            partition=13,
            segment=14,
            base_offset=1000,
            leader_epoch=15,
            global_base=1 << 40,
            running_max_timestamp=NOW + 50,
            append_time=NOW + 7,
            codec=3,
            is_transactional=True,
            delete_horizon=NOW + 9,
            producers=[(2**40, 9, 2**31 - 1, 990, 44)],
        )
    )

    assert {name: row.integer(name) for name in _records.COLUMNS[:24]} == {
        "series": 11,
        "topic": 12,
        "base_offset": 1000,
        "last_offset": 1002,
        "global_base": 1 << 40,
        "max_timestamp": NOW + 2,
        "running_max_timestamp": NOW + 50,
        "append_time": NOW + 7,
        "first_timestamp": NOW,
        "segment": 14,
        "partition": 13,
        "record_count": 3,
        "row_bytes": batch.raw_bytes,
        "leader_epoch": 15,
        "timestamp_type": 0,
        "codec": 3,
        "is_transactional": 1,
        "is_control": 0,
        "delete_horizon": NOW + 9,
        "producer_id": 2**40,
        "batch_base_offset": 990,
        "base_sequence": 2**31 - 1,
        "batch_count": 44,
        "producer_epoch": 9,
    }
    assert row.array("producer_ids") is None
    assert row.integers("timestamps") == [NOW, NOW + 1, NOW + 2]


def test_several_producers_are_arrays() -> None:
    slices = [part for _ in range(2) for part in _records.decode_batch(batch_bytes([Record(0, NOW)])).slices]

    row = read_row(make_row(slices, producers=[(1, 2, 3, 4, 5), (6, 7, 8, 9, 10)]))

    assert (
        row.producer_id is row.batch_base_offset is row.base_sequence is row.batch_count is row.producer_epoch is None
    )
    assert row.integers("producer_ids") == [1, 6]
    assert row.integers("producer_epochs") == [2, 7]
    assert row.integers("base_sequences") == [3, 8]
    assert row.integers("batch_base_offsets") == [4, 9]
    assert row.integers("batch_counts") == [5, 10]


def test_no_producer_is_null_in_both_places() -> None:
    row = read_row(make_row(_records.decode_batch(batch_bytes([Record(0, NOW)])).slices))

    assert row.producer_id is row.producer_ids is row.base_sequence is row.base_sequences is None


def test_running_maximum_grows_with_the_row() -> None:
    slices = _records.decode_batch(batch_bytes([Record(0, NOW)])).slices

    assert read_row(make_row(slices, running_max_timestamp=NOW - 1)).integer("running_max_timestamp") == NOW
    assert read_row(make_row(slices, running_max_timestamp=NOW + 1)).integer("running_max_timestamp") == NOW + 1


def test_log_append_time_replaces_all_timestamps() -> None:
    records = [Record(i, NOW - i, b"k", b"v") for i in range(3)]
    slices = _records.decode_batch(batch_bytes(records)).slices

    row = read_row(make_row(slices, timestamp_type=1, log_append_time=NOW + 99))
    data = encode(row)

    assert row.timestamps is None
    assert [row.integer(name) for name in ("first_timestamp", "max_timestamp", "running_max_timestamp")] == [
        NOW + 99
    ] * 3
    assert [record.timestamp for record in DefaultRecordBatch(data)] == [NOW + 99] * 3
    assert _records.peek(data).attributes == 8
    assert batch_records(_records.decode_batch(data, from_producer=False)) == [
        replace(record, timestamp=NOW + 99) for record in records
    ]


def test_row_without_slices_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one slice"):
        make_row([])


# ---- large batches


def test_a_large_batch_is_cut_by_records_into_slices() -> None:
    records = [Record(i, NOW + i, b"%d" % i, bytes(50_000), ((b"h", b"%d" % i),) * (i % 3)) for i in range(100)]
    batch = _records.decode_batch(batch_bytes(records, codec=4))

    assert len(batch.slices) > 4
    assert all(part.raw_bytes <= _records.MAX_SLICE_BYTES for part in batch.slices)
    assert sum(part.raw_bytes for part in batch.slices) == batch.raw_bytes
    assert [part.first_delta for part in batch.slices][1:] == [
        part.first_delta + part.count for part in batch.slices[:-1]
    ]
    assert all(part.span == part.count for part in batch.slices)
    assert batch_records(batch) == records


def test_parts_of_a_large_batch_encode_with_their_own_offsets_and_sequences() -> None:
    records = [Record(i, NOW, None, bytes(37_000)) for i in range(10)]
    batch = _records.decode_batch(batch_bytes(records, producer=(5, 0, 2**31 - 4)))

    read = []
    sequences = []
    for part in batch.slices:
        base = 1000 + part.first_delta
        row = read_row(make_row([part], base_offset=base, producers=[(5, 0, 2**31 - 4, 1000, 10)]))
        data = encode(row)
        read += read_by_aiokafka(data)
        sequences.append(_records.peek(data).base_sequence)

    assert read == moved(records, 1000)
    assert sequences == [2**31 - 4, 2**31 - 1, 2, 5]


def test_a_record_above_the_slice_limit_has_a_slice_for_itself() -> None:
    sizes = [10, 3_000_000, 10, 10]
    records = [Record(i, NOW, None, bytes(size)) for i, size in enumerate(sizes)]

    batch = _records.decode_batch(batch_bytes(records))

    assert [part.count for part in batch.slices] == [1, 1, 2]
    assert batch_records(batch) == records


# ---- what is sent


@given(record_lists(max_size=20), st.integers(0, 25), st.integers(1, 1500), st.booleans())
def test_cut_batches_cover_all_records_once(records: list[Record], start: int, limit: int, sparse: bool) -> None:
    if sparse:
        records = [replace(record, offset=record.offset * 3 + 1) for record in records]
    batch = _records.decode_batch(batch_bytes(records), from_producer=False)
    row = read_row(make_row(batch.slices, producers=[(9, 1, 100, 0, batch.last_offset_delta + 1)]))

    read = []
    offset = start
    while offset <= batch.last_offset_delta:
        data = encode(row, start_offset=offset, max_bytes=limit)
        part = read_by_aiokafka(data)
        header = _records.peek(data)
        assert header.base_offset >= offset
        assert header.base_sequence == 100 + header.base_offset
        assert len(part) == 1 or len(data) <= limit
        assert not part or header.max_timestamp == max(record.timestamp for record in part)
        read += part
        offset = header.base_offset + header.last_offset_delta + 1

    assert read == [record for record in records if record.offset >= start]
    assert offset == max(start, batch.last_offset_delta + 1)


def test_a_cut_takes_as_many_records_as_fit() -> None:
    records = [Record(i, NOW, None, bytes(100)) for i in range(10)]
    row = read_row(make_row(_records.decode_batch(batch_bytes(records)).slices))
    three = HEADER.size + sum(len(record_bytes(record, 0, NOW)) for record in records[:3])

    assert len(read_by_aiokafka(encode(row, start_offset=4, max_bytes=three))) == 3
    assert len(read_by_aiokafka(encode(row, start_offset=4, max_bytes=three - 1))) == 2
    assert len(read_by_aiokafka(encode(row, start_offset=4, max_bytes=1))) == 1
    assert len(read_by_aiokafka(encode(row, start_offset=4))) == 10


def test_a_fetch_into_the_gap_at_the_end_gets_a_batch_without_records() -> None:
    batch = _records.decode_batch(batch_bytes([Record(0, NOW)], last_offset=9), from_producer=False)
    row = read_row(make_row(batch.slices, base_offset=100))

    data = encode(row, start_offset=104, max_bytes=1000)

    header = _records.peek(data)
    assert (header.base_offset, header.last_offset_delta, header.record_count) == (104, 5, 0)
    assert DefaultRecordBatch(data).validate_crc()
    assert batch_records(_records.decode_batch(data, from_producer=False)) == []


def test_delete_horizon_is_the_base_of_timestamps() -> None:
    records = [Record(0, NOW, b"k", None), Record(1, NOW + 5, b"k", b"v")]
    row = read_row(make_row(_records.decode_batch(batch_bytes(records)).slices, delete_horizon=NOW + 1000))

    data = encode(row)

    assert _records.peek(data).base_timestamp == NOW + 1000
    assert _records.peek(data).attributes == 0x40
    assert read_by_aiokafka(data) == records
    assert _records.decode_batch(data, from_producer=False).delete_horizon == NOW + 1000


def test_row_of_a_transaction_keeps_its_producer() -> None:
    batch = _records.decode_batch(batch_bytes([Record(0, NOW)], attributes=16, producer=(4, 2, 7)))
    row = read_row(make_row(batch.slices, base_offset=50, is_transactional=True, producers=[(4, 2, 7, 50, 1)]))

    header = _records.peek(encode(row))

    assert batch.is_transactional
    assert (header.producer_id, header.producer_epoch, header.base_sequence, header.attributes) == (4, 2, 7, 16)


@pytest.mark.parametrize(("is_commit", "marker"), [(True, COMMIT_MARKER), (False, ABORT_MARKER)])
def test_control_batch_ends_a_transaction(is_commit: bool, marker: ControlRecord) -> None:
    data = _records.control_batch(
        base_offset=77,
        leader_epoch=3,
        timestamp=NOW,
        producer_id=5,
        producer_epoch=6,
        is_commit=is_commit,
        coordinator_epoch=8,
    )

    published = DefaultRecordBatch(data)
    assert published.validate_crc()
    assert published.is_control_batch
    assert published.is_transactional
    assert published.producer_id == 5
    (record,) = published
    assert record.offset == 77
    assert ControlRecord.parse(record.key) == marker
    assert record.value == b"\x00\x00\x00\x00\x00\x08"

    batch = _records.decode_batch(data, from_producer=False)
    row = read_row(
        make_row(
            batch.slices,
            base_offset=77,
            leader_epoch=3,
            is_control=batch.is_control,
            is_transactional=batch.is_transactional,
            producers=[(5, 6, batch.base_sequence, 77, 1)],
        )
    )
    assert encode(row) == data


# ---- restamp, peek, crc


@given(record_lists(), st.sampled_from(CODECS), st.integers(0, 2**62), st.integers(0, 2**31 - 1))
def test_restamp_moves_a_batch(records: list[Record], codec: int, base: int, epoch: int) -> None:
    data = batch_bytes(records, codec=codec)

    stamped = _records.restamp(memoryview(data), base, epoch)

    assert read_by_aiokafka(stamped) == moved(records, base)
    assert _records.peek(stamped) == _records.peek(data)._replace(base_offset=base, leader_epoch=epoch)


@given(record_lists(), st.sampled_from(CODECS))
def test_restamp_sets_the_log_append_time(records: list[Record], codec: int) -> None:
    stamped = _records.restamp(batch_bytes(records, codec=codec), 10, 1, NOW + 5)

    assert read_by_aiokafka(stamped) == [replace(r, timestamp=NOW + 5) for r in moved(records, 10)]
    assert _records.peek(stamped).max_timestamp == NOW + 5


@pytest.mark.parametrize("size", [0, 12, 60, 61, 67, 69])
def test_restamp_refuses_what_is_no_batch(size: int) -> None:
    data = batch_bytes([Record(0, NOW)])
    assert len(data) == 68
    with pytest.raises(_records.RecordsError):
        _records.restamp((data + b"\x00")[:size], 0, 0)


def test_a_max_timestamp_that_no_record_has_is_corrected() -> None:
    data = batch_bytes([Record(0, NOW), Record(1, NOW + 3)], max_timestamp=NOW + 999)

    batch = _records.decode_batch(data)

    assert batch.max_timestamp == NOW + 999
    assert batch.max_record_timestamp == NOW + 3
    assert bytes(batch.wire) == batch_bytes([Record(0, NOW), Record(1, NOW + 3)])


def test_peek_reads_the_header_where_it_is_told() -> None:
    data = batch_bytes(
        [Record(5, NOW)], base_offset=5, leader_epoch=6, attributes=8, producer=(7, 8, 9), max_timestamp=NOW + 1
    )

    header = _records.peek(b"xyz" + data, 3)

    assert header == (5, len(data) - 12, 6, 2, HEADER.unpack_from(data)[4], 8, 0, NOW, NOW + 1, 7, 8, 9, 1)
    assert _records.peek(data[: HEADER.size]) == header
    for cut in (
        data[: HEADER.size - 1],
        b"",
        with_crc(data[:16] + b"\x01" + data[17:]),
        data[:8] + bytes(4) + data[12:],
    ):
        with pytest.raises(_records.RecordsError):
            _records.peek(cut)
    with pytest.raises(_records.RecordsError):
        _records.peek(data, -1)


def test_bytes_after_a_batch_are_left_alone_unless_from_a_producer() -> None:
    data = batch_bytes([Record(0, NOW, b"k", b"v")])

    batch = _records.decode_batch(data + b"more", from_producer=False)

    assert bytes(batch.wire) == data
    assert batch_records(batch) == [Record(0, NOW, b"k", b"v")]


def test_crc_of_the_standard_check_value() -> None:
    assert _records.crc32c(b"123456789") == 0xE3069283
    assert _records.crc32c(b"") == 0


@given(st.binary(max_size=300), st.integers(0, 9))
def test_crc_agrees_with_a_published_one(data: bytes, skip: int) -> None:
    part = memoryview(data)[skip:]
    assert _records.crc32c(part) == _records.crc32c(part, by_table=True) == published_crc32c.crc32c(data[skip:])


@pytest.mark.parametrize("size", [1000, 4096, 24 * 1024 + 5, 100_003, 1 << 20])
def test_crc_of_long_data(size: int) -> None:
    data = bytes(i * 7919 >> 5 & 255 for i in range(4099)) * (size // 4099 + 1)
    data = data[:size]
    assert _records.crc32c(data) == _records.crc32c(data, by_table=True) == published_crc32c.crc32c(data)


def test_null_keys_are_found() -> None:
    records = [Record(0, NOW, b""), Record(1, NOW, None), Record(2, NOW, None)]
    assert _records.decode_batch(batch_bytes(records)).null_key_index == 1
    assert _records.decode_batch(batch_bytes(records)).has_null_key
    assert _records.decode_batch(batch_bytes(records[:1])).null_key_index == -1
    assert not _records.decode_batch(batch_bytes(records[:1])).has_null_key


@given(record_lists(max_size=3), st.integers(-1000, -1))
def test_any_negative_length_is_null(records: list[Record], length: int) -> None:
    """As in Kafka's Utils.readBytes."""
    body = b"\x00\x00\x00" + varint(length) + varint(length) + varint(1) + varint(1) + b"h" + varint(length)
    batch = _records.decode_batch(batch_bytes(raw=varint(len(body)) + body, count=1, base_timestamp=NOW))
    assert batch_records(batch) == [Record(0, NOW, None, None, ((b"h", None),))]


@settings(max_examples=20)
@given(st.data())
def test_every_kind_of_buffer_is_read(data: Any) -> None:
    records = data.draw(record_lists())
    wire = batch_bytes(records, codec=data.draw(st.sampled_from(CODECS)))
    for view in (wire, memoryview(wire), bytearray(wire), memoryview(bytearray(b"ab" + wire))[2:]):
        assert batch_records(_records.decode_batch(view)) == records
