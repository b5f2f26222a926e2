"""How many bytes partitions hold, in Kafka's format: what kafka.partition_sizes shows, current to this moment; and where
they begin and end.

The database knows complete segments exactly, and the newest one up to a checkpoint. The leader's partitions know that one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import asyncpg

from pg_kafka.storage import queries
from pg_kafka.storage.partition import Partition

SQL = queries.load("sizes")


async def of_topics(
    connection: asyncpg.Connection, topic_ids: Sequence[int], loaded: Callable[[int, int], Partition | None]
) -> dict[tuple[int, int], int]:
    """Bytes by topic id and partition; those without rows are left out. `loaded` gives the partitions that are in memory."""
    sizes = {}
    for topic_id, index, complete_bytes, other_bytes, newest_complete in await connection.fetch(
        SQL["of_topics"], topic_ids
    ):
        partition = loaded(topic_id, index)
        held = None if partition is None else partition.held
        if partition is None or held is None or not partition.extents:
            sizes[topic_id, index] = complete_bytes + other_bytes
        elif partition.extents[-1].first_offset <= newest_complete:
            sizes[topic_id, index] = complete_bytes  # nothing has come since its segment was sealed
        else:
            sizes[topic_id, index] = complete_bytes + held.bytes
    return sizes


async def places(
    connection: asyncpg.Connection, partitions: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], tuple[int, int]]:
    """Where partitions begin and end, by topic id and index."""
    rows = await connection.fetch(SQL["places"], [topic for topic, _ in partitions], [index for _, index in partitions])
    return {(row["topic"], row["partition"]): (row["start_offset"], row["end_offset"]) for row in rows}
