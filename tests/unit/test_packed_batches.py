"""Compressed batches that are kept as they came: checked like all others, and stored as their bytes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.batches import Record, batch_bytes, batch_records, make_row, read_row, record_bytes, with_crc
from tests.compressed_streams import KEPT, REFUSED, STREAMS

from pg_kafka.wire import _records
from pg_kafka.wire._records import RecordsError, batches_in, decode_batch

NOW = 1_700_000_000_000
COMPRESSED = range(1, 5)
FACTS = (
    "base_offset",
    "length",
    "attributes",
    "last_offset_delta",
    "base_timestamp",
    "max_timestamp",
    "producer_id",
    "producer_epoch",
    "base_sequence",
    "count",
    "codec",
    "timestamp_type",
    "is_transactional",
    "is_read_by_all",
    "raw_bytes",
    "min_timestamp",
    "max_record_timestamp",
    "max_timestamp_delta",
    "has_null_key",
    "null_key_index",
)

some_bytes = st.none() | st.binary(max_size=60)
record_lists = st.lists(
    st.tuples(st.integers(NOW - 1000, NOW + 1000), some_bytes, some_bytes, st.integers(0, 2)), min_size=1, max_size=40
).map(
    lambda drawn: [
        Record(offset, timestamp, key, value, tuple((b"h%d" % n, b"v") for n in range(headers)))
        for offset, (timestamp, key, value, headers) in enumerate(drawn)
    ]
)


def outcome(wire: bytes, **options: Any) -> object:
    """What decoding says of a batch, whether it is kept packed or not."""
    try:
        batch = decode_batch(wire, **options)
    except RecordsError as error:
        return error.code, error.message, error.record_index
    return bytes(batch.wire), [getattr(batch, name) for name in FACTS]


@given(record_lists, st.sampled_from(COMPRESSED), st.sampled_from([(-1, -1, -1), (7, 1, 3)]))
def test_packed_batch_is_known_as_well_as_any(
    records: list[Record], codec: int, producer: tuple[int, int, int]
) -> None:
    wire = batch_bytes(records, codec=codec, producer=producer)
    packed, filled = decode_batch(wire, keeps_packed=True), decode_batch(wire)
    assert not filled.is_packed
    assume(filled.is_read_by_all)  # Hypothesis finds the magic of snappy's framing
    assert packed.is_packed
    assert outcome(wire, keeps_packed=True) == outcome(wire)
    (summary,) = packed.slices
    for name in ("count", "span", "headers", "raw_bytes", "wire_bytes", "null_keys", "null_values"):
        assert getattr(summary, name) == sum(getattr(part, name) for part in filled.slices)
    assert summary.first_timestamp == filled.slices[0].first_timestamp
    assert summary.min_timestamp == min(part.min_timestamp for part in filled.slices)
    assert summary.max_timestamp == max(part.max_timestamp for part in filled.slices)
    assert summary.values is None


@given(record_lists, st.sampled_from(COMPRESSED), st.data())
@settings(max_examples=300)
def test_damaged_batch_is_refused_alike(records: list[Record], codec: int, data: st.DataObject) -> None:
    wire = bytearray(batch_bytes(records, codec=codec))
    for _ in range(data.draw(st.integers(1, 3))):
        wire[data.draw(st.integers(21, len(wire) - 1))] = data.draw(st.integers(0, 255))
    damaged = with_crc(wire) if data.draw(st.booleans()) else bytes(wire)
    limit = data.draw(st.sampled_from([10, 1000, 1 << 20]))
    assert outcome(damaged, keeps_packed=True, max_raw_bytes=limit) == outcome(damaged, max_raw_bytes=limit)


@pytest.mark.parametrize("records", [b"\x00", b"\x0e\x00\x00\x00\x01\x01\x00\x00", b"\xff" * 20, b""])
@pytest.mark.parametrize("codec", COMPRESSED)
def test_hostile_records_are_refused_alike(records: bytes, codec: int) -> None:
    wire = batch_bytes([Record(0, NOW)], codec=codec, raw=records)
    refused = outcome(wire, keeps_packed=True)
    assert refused == outcome(wire)
    assert refused[0] in (2, 10, 87)  # type: ignore[index]


def test_bomb_is_too_large_alike() -> None:
    wire = batch_bytes([Record(0, NOW, None, bytes(2_000_000))], codec=4)
    assert outcome(wire, keeps_packed=True, max_raw_bytes=1_000_000) == outcome(wire, max_raw_bytes=1_000_000)


def test_what_is_not_compressed_or_not_read_by_all_gets_arrays() -> None:
    plain = decode_batch(batch_bytes([Record(0, NOW, None, b"v")]), keeps_packed=True)
    assert not plain.is_packed
    records = [Record(n, NOW, None, b"value %d" % n) for n in range(20)]
    raw = b"".join(record_bytes(record, 0, NOW) for record in records)
    for name, stream in STREAMS.items():
        if stream.fate is not REFUSED:
            header = batch_bytes(records, codec=stream.codec)[:61]
            body = stream.make(raw)
            wire = with_crc(header[:8] + (49 + len(body)).to_bytes(4) + header[12:] + body)
            assert decode_batch(wire, keeps_packed=True).is_packed == (stream.fate is KEPT), name


def test_max_timestamp_that_no_record_has_is_corrected() -> None:
    wire = batch_bytes([Record(0, NOW, None, b"v")], codec=3, max_timestamp=NOW + 5)
    batch = decode_batch(wire, keeps_packed=True)
    assert _records.peek(batch.wire).max_timestamp == NOW
    assert decode_batch(batch.wire).max_timestamp == NOW


@given(st.lists(record_lists, min_size=1, max_size=4), st.integers(0, 1), st.integers(0, 100))
def test_row_has_the_batches_one_behind_the_other(
    lists: list[list[Record]], timestamp_type: int, base_offset: int
) -> None:
    stamped = NOW + 77 if timestamp_type else -1
    batches = [decode_batch(batch_bytes(records, codec=3), keeps_packed=True) for records in lists]
    wires, offset = [], base_offset
    for batch in batches:
        wires.append(_records.restamp(batch.wire, offset, 5, stamped))
        offset += batch.count
    options = {"base_offset": base_offset, "timestamp_type": timestamp_type, "log_append_time": stamped, "codec": 3}
    row = read_row(make_row([batch.slices[0] for batch in batches], packed=wires, **options))
    alike = read_row(
        make_row([part for records in lists for part in decode_batch(batch_bytes(records, codec=3)).slices], **options)
    )
    arrays = ("timestamps", "offset_deltas", "keys", "header_ends", "header_keys", "header_values", "values")
    for name in _records.COLUMNS:
        if name in arrays:
            assert row.columns[name] is None
        elif name != "batch":
            assert row.columns[name] == alike.columns[name], name
    stored = row.columns["batch"]
    assert stored == b"".join(wires)
    assert stored is not None
    assert batches_in(stored) == wires
    assert row.integer("wire_bytes") == len(stored)
    # What a fetch asks for in the middle: whole batches, none that ends before it.
    for wanted in range(base_offset, offset):
        found = batches_in(stored, wanted)
        assert found == wires[len(wires) - len(found) :]
        first = decode_batch(found[0], from_producer=False)
        assert first.base_offset <= wanted <= first.base_offset + first.last_offset_delta
    read_back = [record for wire in wires for record in batch_records(decode_batch(wire, from_producer=False))]
    sent = [record for records in lists for record in records]
    assert [(r.key, r.value, r.headers) for r in read_back] == [(r.key, r.value, r.headers) for r in sent]
    assert [r.offset for r in read_back] == list(range(base_offset, offset))


@pytest.mark.parametrize("data", [b"x", bytes(61), batch_bytes([Record(0, NOW)]) + b"\x00"])
def test_bytes_that_are_no_whole_batches(data: bytes) -> None:
    with pytest.raises(RecordsError):
        batches_in(data)
    assert batches_in(b"") == []
