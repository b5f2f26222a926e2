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
    first_timestamp: int = 1_700_000_000_000,
) -> None:
    """One row, and its extent when it is the first of its partition in the segment."""
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
            header_values, values)
        VALUES ($1, $2, $3, $4, $5::bigint, $6, $5::bigint + 1000000, $7, $7, $7, $8, $9, $10, 1, 0, 0, false,
            $11, $12, $13, $14, $15, $16, $17, $18)
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
