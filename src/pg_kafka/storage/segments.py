"""Tables of the log: series, their segments, and what happens to a segment between its creation and its end.

Everything here runs on a session that nobody else uses. DDL on tables of the log waits at most LOCK_TIMEOUT_MS for a
lock and then gives way, since whoever wants the same table queues behind it. So a new table is built aside and
attached, and an old one is emptied, detached concurrently and dropped when nobody can see it. Nothing is created as a
partition or dropped while attached: behind one open SELECT that would stop every writer.

Each step can be repeated after a crash: it looks in the catalogue how far the last attempt came.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import asyncpg

from pg_kafka.errors import FatalError
from pg_kafka.storage.queries import load, render

SHARED_SERIES = 0
ROOT = "log"
LOCK_TIMEOUT_MS = 80
LOCK_ATTEMPTS = 20

SQL = load("segments")
T = TypeVar("T")


def series_table(series: int) -> str:
    """Name of a series' table in schema kafka."""
    return f"{ROOT}_{series}"


def leaf_table(series: int, segment: int) -> str:
    """Name of a segment's table in schema kafka."""
    return f"{ROOT}_{series}_{segment}"


async def server_compressions(connection: asyncpg.Connection) -> frozenset[str]:
    """What this server can do to stored records: none, pglz, and lz4 if it was built with it."""
    built_in: list[str] = await connection.fetchval(SQL["compressions"])
    return frozenset({"none", *built_in})


def first_guess(available: frozenset[str]) -> str:
    """Compression where nothing is known about the records: lz4 costs little where it gains nothing, pglz much."""
    return "lz4" if "lz4" in available else "none"


async def create_shared_series(connection: asyncpg.Connection, compression: str) -> None:
    """Series 0 with segment 0, within the transaction that creates the schema. Raises FatalError."""
    available = await server_compressions(connection)
    if compression == "auto":
        compression = first_guess(available)
    if compression not in available:
        raise FatalError(
            f"this PostgreSQL was built without {compression}: choose another pg_kafka.storage_compression"
        )
    await connection.execute(SQL["insert_shared_series"])
    await _build_series(connection, SHARED_SERIES, compression)


class Segments:
    """DDL of the log. Methods raise LockNotAvailableError when the lock was not to be had: try again later."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def create_series(self, topic_id: int, compression: str) -> bool:
        """Make a topic's own series with segment 0, if it is not there; False when there is no such topic."""
        if await self._connection.fetchval(SQL["series_exists"], topic_id):
            return True
        return await self._patiently(lambda: self._create_topic_series(topic_id, compression))

    async def _create_topic_series(self, topic_id: int, compression: str) -> bool:
        if await self._connection.fetchval(SQL["insert_topic_series"], topic_id) is None:
            return False
        await _build_series(self._connection, topic_id, compression)
        return True

    async def create_segment(self, series: int, segment: int, compression: str) -> None:
        """Make a segment, if it is not there; sessions that start from now on append to it."""
        if not await self._connection.fetchval(SQL["segment_exists"], series, segment):
            await self._patiently(lambda: _build_segment(self._connection, series, segment, compression))

    async def seal(self, series: int, segment: int) -> None:
        """Record that nobody appends to a segment any more."""
        await self._connection.execute(SQL["set_sealed"], series, segment)

    async def freeze_grown(self, series: int, segment: int) -> None:
        """Freeze what has been added to an active segment since the last time.

        Soon after it was written: a page that was written before the last checkpoint goes into the WAL as a whole.
        """
        leaf = leaf_table(series, segment)
        if await self._exists(leaf):
            await self._connection.execute(SQL["freeze_all_rows"])
            await self._alone(render(SQL["vacuum_active"], leaf=leaf))

    async def unfrozen_bytes(self, series: int, segment: int) -> int:
        """How much of a segment vacuum has still to look at."""
        return int(await self._connection.fetchval(SQL["unfrozen_bytes"], leaf_table(series, segment)) or 0)

    async def freeze(self, series: int, segment: int) -> None:
        """Vacuum and analyse a sealed segment; it is never written again, so this is once and for all."""
        await self._alone(render(SQL["vacuum"], leaf=leaf_table(series, segment)))
        await self._connection.execute(SQL["set_frozen"], series, segment)

    async def empty(self, series: int, segment: int) -> None:
        """Give a segment's disk space back at once."""
        leaf = leaf_table(series, segment)
        if await self._exists(leaf):
            await self._patiently(lambda: self._truncate(series, segment, leaf))

    async def _truncate(self, series: int, segment: int, leaf: str) -> None:
        await self._connection.execute(render(SQL["truncate"], leaf=leaf))
        await self._connection.execute(SQL["set_freed"], series, segment)

    async def drop_segment(self, series: int, segment: int) -> None:
        """Empty, detach and drop one segment that is not active."""
        leaf = leaf_table(series, segment)
        await self.empty(series, segment)
        await self._detach(series_table(series), leaf)
        await self._connection.execute(SQL["set_detached"], series, segment)
        await self._drop(leaf)
        await self._connection.execute(SQL["forget_segment"], series, segment)

    async def drop_series(self, series: int) -> None:
        """Empty, detach and drop a series with all its segments."""
        segments = await self._connection.fetch(SQL["segments_of_series"], series)
        for row in segments:
            if row["state"] not in ("freed", "detached"):
                await self.empty(series, row["segment"])
        await self._detach(ROOT, series_table(series))
        for row in segments:
            await self._drop(leaf_table(series, row["segment"]))
        await self._drop(series_table(series))
        await self._connection.execute(SQL["forget_series"], series)

    async def sample(self, series: int, segment: int, topic_id: int | None = None) -> list[bytes]:
        """Some stored values of a segment, or of one topic in it; empty when there are none."""
        leaf = leaf_table(series, segment)
        if topic_id is None:
            rows = await self._connection.fetch(render(SQL["sample"], leaf=leaf))
        else:
            rows = await self._connection.fetch(render(SQL["sample_topic"], leaf=leaf), topic_id)
        return [row["bytes"] for row in rows]

    @contextlib.asynccontextmanager
    async def giving_way(self) -> AsyncIterator[None]:
        """A transaction in which no lock is waited for longer than LOCK_TIMEOUT_MS."""
        async with self._connection.transaction():
            await self._connection.execute(render(SQL["lock_timeout"], ms=LOCK_TIMEOUT_MS))
            yield

    async def _exists(self, table: str) -> bool:
        return bool(await self._connection.fetchval(SQL["table_exists"], table))

    async def _detach(self, parent: str, child: str) -> None:
        """Take a table out of its parent. A parent has one unfinished detaching at most: it is finished first."""
        for row in await self._connection.fetch(SQL["attached"], parent):
            if row["is_pending"]:
                await self._alone(render(SQL["finalize"], parent=parent, child=row["name"]))
        if child in {row["name"] for row in await self._connection.fetch(SQL["attached"], parent)}:
            await self._alone(render(SQL["detach"], parent=parent, child=child))

    async def _drop(self, table: str) -> None:
        async def drop() -> None:
            await self._connection.execute(render(SQL["drop_table"], name=table))

        await self._patiently(drop)

    async def _alone(self, statement: str) -> None:
        """Run a statement that allows no transaction around it."""
        await self._connection.execute(render(SQL["session_lock_timeout"], ms=LOCK_TIMEOUT_MS))
        try:
            await self._connection.execute(statement)
        finally:
            if not self._connection.is_closed():
                await self._connection.execute(render(SQL["session_lock_timeout"], ms=0))

    async def _patiently(self, transaction: Callable[[], Awaitable[T]]) -> T:
        """Run a transaction that gives way: LOCK_ATTEMPTS times with growing, jittered pauses, then its error."""
        attempt = 1
        while True:
            try:
                async with self.giving_way():
                    return await transaction()
            except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
                if attempt == LOCK_ATTEMPTS:
                    raise
                await asyncio.sleep(random.uniform(0.5, 1.5) * min(0.05 * attempt, 0.5))
                attempt += 1


async def _build_series(connection: asyncpg.Connection, series: int, compression: str) -> None:
    """Locks: ACCESS SHARE on kafka.log, then SHARE UPDATE EXCLUSIVE on it; the series' row exists already."""
    name = series_table(series)
    await connection.execute(render(SQL["create_series"], name=name, series=series))
    await _build_segment(connection, series, 0, compression)
    await connection.execute(render(SQL["attach_series"], name=name, series=series))


async def _build_segment(connection: asyncpg.Connection, series: int, segment: int, compression: str) -> None:
    """Locks: SHARE UPDATE EXCLUSIVE on the series, then the series' row."""
    name, leaf = series_table(series), leaf_table(series, segment)
    await connection.execute(render(SQL["create_leaf"], leaf=leaf, name=name, segment=segment))
    await connection.execute(render(SQL["index_markers"], leaf=leaf, index=f"{leaf}_markers"))
    await connection.execute(render(SQL["note_markers"], leaf=leaf))
    if compression == "none":
        await connection.execute(render(SQL["store_none"], leaf=leaf))
    else:
        await connection.execute(render(SQL["store_compressed"], leaf=leaf, method=compression))
    await connection.execute(render(SQL["attach_leaf"], name=name, leaf=leaf, segment=segment))
    await connection.execute(SQL["insert_segment"], series, segment, compression)
    await connection.execute(SQL["activate_segment"], series, segment)
