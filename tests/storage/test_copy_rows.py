"""Rows of the native core in a real PostgreSQL: COPY takes them, array_send gives back what encodes to the same records."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from tests.batches import Record, batch_bytes, batch_records, make_row, moved

from pg_kafka.storage.migrate import migrate
from pg_kafka.wire import _records
from pg_kafka.wire._records import decode_batch

NOW = 1_700_000_000_000
ARRAYS = ("timestamps", "offset_deltas", "keys", "header_ends", "header_keys", "header_values", "values")
SCALARS = (
    "base_offset",
    "last_offset",
    "leader_epoch",
    "record_count",
    "first_timestamp",
    "max_timestamp",
    "timestamp_type",
    "is_transactional",
    "is_control",
    "producer_id",
    "producer_epoch",
    "base_sequence",
    "batch_base_offset",
    "delete_horizon",
)
HEADERS = ((b"h", b"x"), (b"h", None), (b"\xff\x00", b""))


@pytest.fixture
async def log(pg_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(pg_dsn)
    try:
        await migrate(connection)
        await connection.execute("CREATE TABLE kafka.log_17 PARTITION OF kafka.log FOR VALUES IN (17)")
        yield connection
    finally:
        await connection.close()


async def copy(log: asyncpg.Connection, *rows: bytes) -> None:
    async def source() -> AsyncIterator[bytes]:
        yield _records.COPY_HEADER
        for row in rows:
            yield row
        yield _records.COPY_TRAILER

    status = await log.copy_to_table(
        "log", schema_name="kafka", columns=_records.COLUMNS, source=source(), format="binary"
    )
    assert status == f"COPY {len(rows)}"


async def stored(log: asyncpg.Connection) -> list[asyncpg.Record]:
    columns = ", ".join(f'array_send("{name}") AS "{name}"' if name in ARRAYS else name for name in _records.COLUMNS)
    return list(await log.fetch(f"SELECT {columns} FROM kafka.log ORDER BY base_offset"))


def encoded(row: asyncpg.Record, codec: int = 0) -> bytes:
    arguments: dict[str, Any] = {name: row[name] for name in (*SCALARS, *ARRAYS)}
    return _records.encode_row(**arguments, codec=codec)


def row(slices: list[_records.Slice], **changes: Any) -> bytes:
    return make_row(slices, series=17, **changes)


@pytest.mark.parametrize("codec", range(5))
async def test_rows_come_back_as_their_records(log: asyncpg.Connection, codec: int) -> None:
    batches = [
        [Record(0, NOW, b"key", b"value", HEADERS)],
        [Record(0, NOW, None, None), Record(1, NOW, None, b"")],
        [Record(i, NOW + i, b"%d" % i, bytes(i * 100), HEADERS[: i % 4]) for i in range(50)],
        [Record(i, -1, None if i % 2 else b"k", None if i % 3 else b"v") for i in range(7)],
    ]
    expected: list[Record] = []
    rows = []
    for records in batches:
        decoded = decode_batch(batch_bytes(records, codec=codec))
        rows.append(row(decoded.slices, base_offset=len(expected), codec=codec))
        expected += moved(records, len(expected))

    await copy(log, *rows)
    found = await stored(log)

    read = [record for one in found for record in batch_records(decode_batch(encoded(one, codec), from_producer=False))]
    assert read == expected
    # As SQL sees them.
    keys = await log.fetch("SELECT unnest(keys) AS key FROM kafka.log ORDER BY base_offset")
    assert [one["key"] for one in keys] == [record.key for record in expected if record.offset not in (1, 2)]
    values = await log.fetch('SELECT unnest("values") AS value FROM kafka.log ORDER BY base_offset')
    assert [one["value"] for one in values] == [record.value for record in expected]


async def test_several_batches_share_a_row(log: asyncpg.Connection) -> None:
    batches = [
        [Record(0, NOW, b"a", b"1")],
        [Record(0, NOW + 5, None, None, HEADERS), Record(1, NOW + 5, None, b"2")],
        [Record(0, NOW, b"b", b"3", HEADERS[:1]), Record(1, NOW + 9, b"c", None)],
    ]
    slices = [part for records in batches for part in decode_batch(batch_bytes(records)).slices]
    producers = [(10, 1, 5, 100, 1), (11, 2, 6, 101, 2), (12, 3, 7, 103, 2)]

    await copy(log, row(slices, base_offset=100, producers=producers, global_base=5000))
    (found,) = await stored(log)

    expected = moved(batches[0], 100) + moved(batches[1], 101) + moved(batches[2], 103)
    assert batch_records(decode_batch(encoded(found), from_producer=False)) == expected
    assert found["producer_ids"] == [10, 11, 12]
    assert found["producer_epochs"] == [1, 2, 3]
    assert found["base_sequences"] == [5, 6, 7]
    assert found["batch_base_offsets"] == [100, 101, 103]
    assert found["batch_counts"] == [1, 2, 2]
    assert found["producer_id"] is None
    record = await log.fetchrow("SELECT header_ends, header_keys, header_values, timestamps FROM kafka.log")
    assert record["header_ends"] == [0, 3, 3, 4, 4]
    assert record["header_keys"] == [b"h", b"h", b"\xff\x00", b"h"]
    assert record["header_values"] == [b"x", None, b"", b"x"]
    assert record["timestamps"] == [NOW, NOW + 5, NOW + 5, NOW, NOW + 9]


async def test_sparse_and_control_rows(log: asyncpg.Connection) -> None:
    sparse = [Record(40, NOW, b"a", b"1"), Record(45, NOW + 1, b"b", None)]
    marker = _records.control_batch(
        base_offset=60,
        leader_epoch=5,
        timestamp=NOW,
        producer_id=8,
        producer_epoch=9,
        is_commit=True,
        coordinator_epoch=3,
    )
    decoded = decode_batch(batch_bytes(sparse, base_offset=38, last_offset=50), from_producer=False)
    control = decode_batch(marker, from_producer=False)

    await copy(
        log,
        row(decoded.slices, base_offset=38, delete_horizon=NOW + 77),
        row(
            control.slices,
            base_offset=60,
            is_control=True,
            is_transactional=True,
            producers=[(8, 9, control.base_sequence, 60, 1)],
        ),
    )
    first, second = await stored(log)

    assert (first["base_offset"], first["last_offset"], first["delete_horizon"]) == (38, 50, NOW + 77)
    assert batch_records(decode_batch(encoded(first), from_producer=False)) == sparse
    assert await log.fetchval("SELECT offset_deltas FROM kafka.log WHERE base_offset = 38") == [2, 7]
    assert encoded(second) == marker


async def test_slices_of_a_large_batch(log: asyncpg.Connection) -> None:
    records = [Record(i, NOW + i, None, bytes([i]) * 300_000) for i in range(12)]
    decoded = decode_batch(batch_bytes(records))

    await copy(log, *(row([part], base_offset=part.first_delta) for part in decoded.slices))
    found = await stored(log)

    assert len(found) == len(decoded.slices) > 3
    read = [record for one in found for record in batch_records(decode_batch(encoded(one), from_producer=False))]
    assert read == records


async def test_scalar_columns(log: asyncpg.Connection) -> None:
    decoded = decode_batch(batch_bytes([Record(0, NOW)]))
    await copy(
        log,
        row(
            decoded.slices,
            topic=2**40,
            partition=3,
            segment=4,
            base_offset=2**50,
            leader_epoch=6,
            global_base=2**51,
            running_max_timestamp=NOW + 1,
            append_time=NOW + 2,
            timestamp_type=1,
            log_append_time=NOW + 2,
            codec=4,
            is_transactional=True,
            producers=[(2**42, 2**15 - 1, 2**31 - 1, 2**50, 1)],
        ),
    )
    (found,) = await stored(log)
    assert {name: found[name] for name in _records.COLUMNS[:24]} == {
        "series": 17,
        "topic": 2**40,
        "base_offset": 2**50,
        "last_offset": 2**50,
        "global_base": 2**51,
        "max_timestamp": NOW + 2,
        "running_max_timestamp": NOW + 2,
        "append_time": NOW + 2,
        "first_timestamp": NOW + 2,
        "segment": 4,
        "partition": 3,
        "record_count": 1,
        "row_bytes": 7,
        "leader_epoch": 6,
        "timestamp_type": 1,
        "codec": 4,
        "is_transactional": True,
        "is_control": False,
        "delete_horizon": None,
        "producer_id": 2**42,
        "batch_base_offset": 2**50,
        "base_sequence": 2**31 - 1,
        "batch_count": 1,
        "producer_epoch": 2**15 - 1,
    }
