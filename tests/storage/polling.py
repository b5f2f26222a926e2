"""Groups that SQL drives: records for them, polls, and what they have committed."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
from tests.storage.log_rows import add_row

NOW = 1_790_000_000_000
Connect = Callable[[], Awaitable[asyncpg.Connection]]


@contextlib.asynccontextmanager
async def sessions(dsn: str) -> AsyncIterator[Connect]:
    """Opens sessions, and closes them in the end."""
    async with contextlib.AsyncExitStack() as stack:

        async def opened() -> asyncpg.Connection:
            connection = await asyncpg.connect(dsn)
            stack.push_async_callback(connection.close, timeout=10)
            return connection

        yield opened


async def fill(
    db: asyncpg.Connection, topic: int, count: int, *, partition: int = 0, first: int = 0, rows_of: int = 10
) -> None:
    for base in range(first, first + count, rows_of):
        texts = [b"%d-%d" % (partition, n) for n in range(base, min(base + rows_of, first + count))]
        await add_row(db, topic, base, texts, partition=partition, first_timestamp=NOW)


async def polled(
    db: asyncpg.Connection, max_records: int = 100, group: str = "g", **others: Any
) -> list[tuple[int, int]]:
    names = "".join(f", {name} => ${n}" for n, name in enumerate(others, 3))
    rows = await db.fetch(
        f"SELECT partition_id, partition_offset, value FROM kafka.poll($1, 'orders', max_records => $2{names})",
        group,
        max_records,
        *others.values(),
    )
    return [(row["partition_id"], row["partition_offset"]) for row in rows]


async def drained(db: asyncpg.Connection, max_records: int = 100, **others: Any) -> list[tuple[int, int]]:
    """Poll until nothing comes."""
    found: list[tuple[int, int]] = []
    while got := await polled(db, max_records, **others):
        found += got
    return found


async def committed(db: asyncpg.Connection, group: str = "g") -> dict[int, int]:
    rows = await db.fetch("SELECT * FROM kafka.consumer_offsets WHERE group_id = $1", group)
    return {row["partition_id"]: row["committed_offset"] for row in rows}
