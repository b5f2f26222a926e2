"""Rows of the log by plain INSERT, for tests of what reads them and of the tables that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg

from pg_kafka.storage.migrate import migrate


async def connect_migrated(dsn: str, **options: Any) -> asyncpg.Connection:
    """A connection to a database with the schema."""
    connection = await asyncpg.connect(dsn)
    await migrate(connection, **options)
    return connection


async def add_topic(connection: asyncpg.Connection, name: str, partitions: int = 1, configs: str = "{}") -> int:
    """A topic without a view; returns its id."""
    topic_id: int = await connection.fetchval(
        "INSERT INTO kafka.topics (name, partitions, configs) VALUES ($1, $2, $3) RETURNING id",
        name,
        partitions,
        configs,
    )
    return topic_id


async def add_row(
    connection: asyncpg.Connection,
    topic: int,
    base_offset: int,
    values: Sequence[bytes | None],
    *,
    partition: int = 0,
    series: int = 0,
    segment: int = 0,
    keys: Sequence[bytes | None] | None = None,
    timestamps: Sequence[int] | None = None,
    offset_deltas: Sequence[int] | None = None,
    headers: Sequence[Sequence[tuple[bytes, bytes | None]]] | None = None,
    is_control: bool = False,
    is_transactional: bool = False,
    producer_ids: Sequence[int] = (),
    first_timestamp: int = 1_700_000_000_000,
    append_time: int | None = None,
) -> None:
    """One row, and its extent when it is the first of its partition in the segment. Its batches have epoch 0.

    Without an append time it was appended at its largest timestamp.
    """
    ends = header_keys = header_values = None
    if headers is not None:
        flat = [header for record in headers for header in record]
        ends = [sum(len(record) for record in headers[: n + 1]) for n in range(len(headers))]
        header_keys, header_values = [key for key, _ in flat], [value for _, value in flat]
    last_offset = base_offset + (offset_deltas[-1] if offset_deltas else len(values) - 1)
    latest = max(timestamps) if timestamps else first_timestamp
    await connection.execute(
        """
        INSERT INTO kafka.log (series, segment, topic, partition, base_offset, last_offset, global_base, max_timestamp,
            running_max_timestamp, append_time, first_timestamp, record_count, row_bytes, leader_epoch, timestamp_type,
            codec, is_transactional, is_control, timestamps, offset_deltas, keys, header_ends, header_keys,
            header_values, values, producer_id, producer_epoch, producer_ids, producer_epochs)
        VALUES ($1, $2, $3, $4, $5::bigint, $6, $5::bigint + 1000000, $7, $7, $22, $8, $9, $10, 1, 0, 0, $19,
            $11, $12, $13, $14, $15, $16, $17, $18, $20, CASE WHEN $20::bigint IS NOT NULL THEN 0 END, $21::bigint[],
            CASE WHEN $21::bigint[] IS NOT NULL THEN array_fill(0::smallint, ARRAY[cardinality($21::bigint[])]) END)
        """,
        series,
        segment,
        topic,
        partition,
        base_offset,
        last_offset,
        latest,
        first_timestamp,
        len(values),
        sum(len(value or b"") for value in values),
        is_control,
        timestamps,
        offset_deltas,
        keys,
        ends,
        header_keys,
        header_values,
        values,
        is_transactional or is_control,
        producer_ids[0] if len(producer_ids) == 1 else None,
        producer_ids if len(producer_ids) > 1 else None,
        latest if append_time is None else append_time,
    )
    await connection.execute(
        """
        INSERT INTO kafka.extents (topic, partition, first_offset, series, segment)
        SELECT $1, $2, $3, $4, $5 WHERE NOT EXISTS (
            SELECT FROM kafka.extents WHERE topic = $1 AND partition = $2 AND series = $4 AND segment = $5)
        """,
        topic,
        partition,
        base_offset,
        series,
        segment,
    )


async def add_marker(
    connection: asyncpg.Connection, topic: int, offset: int, producer_id: int, *, is_commit: bool, **place: int
) -> None:
    """The end of a producer's transaction."""
    key = b"\0\0\0" + (b"\1" if is_commit else b"\0")
    await add_row(
        connection, topic, offset, [bytes(6)], keys=[key], is_control=True, producer_ids=[producer_id], **place
    )
