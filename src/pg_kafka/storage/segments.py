"""Tables of the log: series, their segments, and what happens to a segment between its creation and its end.

All of this runs on the janitor's own session. DDL on tables of the log waits at most LOCK_TIMEOUT_MS for a lock and tries again
later, since whoever wants the same table queues behind it. So a new table is built aside and attached, and an old one is emptied,
detached concurrently and dropped when nobody can see it; nothing attached is ever created or dropped in place: behind one open
SELECT that would stop every writer.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable

import asyncpg

from pg_kafka.storage.queries import load, render

SHARED_SERIES = 0
LOCK_TIMEOUT_MS = 80
LOCK_ATTEMPTS = 20
COMPRESSIONS = ("none", "pglz", "lz4")

_QUERIES = load("segments")


def series_table(series: int) -> str:
    """Name of a series' table in schema kafka."""
    return f"log_{series}"


def leaf_table(series: int, segment: int) -> str:
    """Name of a segment's table in schema kafka."""
    return f"log_{series}_{segment}"


async def server_compressions(connection: asyncpg.Connection) -> tuple[str, ...]:
    """The storage compressions that this server can do."""
    built_in = await connection.fetchval(_QUERIES["compressions"])
    return tuple(name for name in COMPRESSIONS if name == "none" or name in built_in)


async def create_shared_series(connection: asyncpg.Connection, compression: str) -> None:
    """Series 0 with segment 0, as part of the transaction that creates the schema."""
    if compression == "auto":
        compression = first_guess(await server_compressions(connection))
    await _build_series(connection, SHARED_SERIES, compression)


def first_guess(available: tuple[str, ...]) -> str:
    """Compression of a segment when nothing is known about its records: lz4 costs little where it gains nothing, pglz a lot."""
    return "lz4" if "lz4" in available else "none"


class Segments:
    """DDL of the log on one session that nobody else uses."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def create_series(self, series: int, compression: str) -> None:
        """Make a series with its segment 0; nothing happens when it exists."""
        if not await self._connection.fetchval(_QUERIES["series_exists"], series):
            await self._patiently(lambda: _build_series(self._connection, series, compression))

    async def create_segment(self, series: int, segment: int, compression: str) -> None:
        """Make a segment and have new sessions append to it; nothing happens when it exists."""
        if not await self._connection.fetchval(_QUERIES["segment_exists"], series, segment):
            await self._patiently(lambda: _build_segment(self._connection, series, segment, compression))

    async def _patiently(self, transaction: Callable[[], Awaitable[None]]) -> None:
        """Run a transaction that gives way: LOCK_ATTEMPTS tries with growing, jittered pauses, then LockNotAvailableError."""
        for attempt in range(1, LOCK_ATTEMPTS + 1):
            try:
                async with self._connection.transaction():
                    await self._connection.execute(render(_QUERIES["lock_timeout"], ms=LOCK_TIMEOUT_MS))
                    await transaction()
                return
            except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
                if attempt == LOCK_ATTEMPTS:
                    raise
                await asyncio.sleep(random.uniform(0.5, 1.5) * min(0.05 * attempt, 0.5))


async def _build_series(connection: asyncpg.Connection, series: int, compression: str) -> None:
    name = series_table(series)
    await connection.execute(render(_QUERIES["create_series"], name=name, series=series))
    await connection.execute(_QUERIES["insert_series"], series)
    await _build_segment(connection, series, 0, compression)
    await connection.execute(render(_QUERIES["attach_series"], name=name, series=series))


async def _build_segment(connection: asyncpg.Connection, series: int, segment: int, compression: str) -> None:
    name, leaf = series_table(series), leaf_table(series, segment)
    await connection.execute(render(_QUERIES["create_leaf"], leaf=leaf, name=name, segment=segment))
    if compression == "none":
        await connection.execute(render(_QUERIES["store_none"], leaf=leaf))
    else:
        await connection.execute(render(_QUERIES["store_compressed"], leaf=leaf, method=compression))
    await connection.execute(render(_QUERIES["attach_leaf"], name=name, leaf=leaf, segment=segment))
    await connection.execute(_QUERIES["insert_segment"], series, segment, compression)
    await connection.execute(_QUERIES["activate_segment"], series, segment)
