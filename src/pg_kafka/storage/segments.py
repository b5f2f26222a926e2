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
SCHEMA = "kafka"
NEW_SCHEMA = "kafka_new"  # where who may create nothing in SCHEMA makes tables
LOCK_TIMEOUT_MS = 80
LOCK_ATTEMPTS = 20
# Of what all lanes have to wait for.
OWNER_ATTEMPTS = 3

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
    await _build_series(connection, SHARED_SERIES, compression, None)


async def adopt(fetch: Callable[..., Awaitable[list[asyncpg.Record]]], node_id: int) -> dict[int, int]:
    """Take over all segments that are appended to, whoever did that; the active one of each series.

    For the broker that leads everything, before it writes. Each statement is a transaction of its own, and all of them
    can be repeated: a series has several active segments when several brokers have written to it.
    """
    await fetch(SQL["supersede_older"])
    await fetch(SQL["adopt"], node_id)
    return {row["series"]: row["segment"] for row in await fetch(SQL["active_segments"], node_id)}


class Segments:
    """DDL of the log. Methods raise LockNotAvailableError when the lock was not to be had: try again later."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def create_series(self, topic_id: int, compression: str, owner: int | None = None) -> bool:
        """Make a topic's own series with segment 0, if it is not there; False when there is no such topic."""
        if await self._connection.fetchval(SQL["series_exists"], topic_id):
            return True
        return await self.patiently(lambda: self._create_topic_series(topic_id, compression, owner))

    async def _create_topic_series(self, topic_id: int, compression: str, owner: int | None) -> bool:
        if await self._connection.fetchval(SQL["insert_topic_series"], topic_id) is None:
            return False
        await _build_series(self._connection, topic_id, compression, owner)
        return True

    async def roll(self, series: int, segment: int, compression: str) -> int | None:
        """Give the owner of an active segment a new one, which supersedes it; None when that was done before."""
        return await self.patiently(lambda: self._roll(series, segment, compression))

    async def _roll(self, series: int, segment: int, compression: str) -> int | None:
        """Locks: the segment's row, then those of _build_segment."""
        superseded = await self._connection.fetchrow(SQL["supersede"], series, segment)
        if superseded is None:
            return None
        return await _build_segment(self._connection, series, compression, superseded["owner"])

    async def seal(self, series: int, segment: int) -> None:
        """Record that nobody writes to a superseded segment any more, and what is in it."""
        async with self.giving_way():
            await self._connection.execute(SQL["set_sealed"], series, segment)
            await self.fill_extents_of(series, segment)
            await self._connection.execute(SQL["note_bytes"], series, segment)

    async def fill_extents(self, count: int) -> int:
        """Find out what is in some complete segments of which that is not known; how many there were."""
        rows = await self._connection.fetch(SQL["unknown_segments"], count)
        for row in rows:
            async with self.giving_way():
                await self.fill_extents_of(row["series"], row["segment"])
                await self._connection.execute(SQL["note_bytes"], row["series"], row["segment"])
        return len(rows)

    async def fill_extents_of(self, series: int, segment: int) -> None:
        """Find out what is in a complete segment, within the caller's transaction."""
        leaf = leaf_table(series, segment)
        if await self.exists(leaf):
            await self._connection.execute(render(SQL["fill_extents"], leaf=leaf), series, segment)

    async def fill_times(self, count: int) -> bool:
        """Find out the smallest timestamps in some complete segments of which they are not known; were there any?"""
        found = False
        for row in await self._connection.fetch(SQL["segments_without_times"], count):
            leaf = leaf_table(row["series"], row["segment"])
            if await self.exists(leaf):
                async with self.giving_way():
                    await self._connection.execute(render(SQL["fill_times"], leaf=leaf), row["series"], row["segment"])
                found = True
        return found

    async def freeze_grown(self, series: int, segment: int) -> None:
        """Freeze what has been added to an active segment since the last time.

        Soon after it was written: a page that was written before the last checkpoint goes into the WAL as a whole.
        """
        leaf = leaf_table(series, segment)
        if await self.exists(leaf):
            await self._connection.execute(SQL["freeze_all_rows"])
            await self._alone(render(SQL["vacuum_active"], leaf=leaf))

    async def unfrozen_bytes(self, series: int, segment: int) -> int:
        """How much of a segment vacuum has still to look at."""
        return int(await self._connection.fetchval(SQL["unfrozen_bytes"], leaf_table(series, segment)) or 0)

    async def freeze(self, series: int, segment: int) -> None:
        """Vacuum and analyse a sealed segment; it is never written again, so this is once and for all."""
        await self._alone(render(SQL["vacuum"], leaf=leaf_table(series, segment)))
        await self._connection.execute(SQL["set_frozen"], series, segment)

    async def empty(self, series: int, segment: int, attempts: int = LOCK_ATTEMPTS) -> None:
        """Give a segment's disk space back at once."""
        leaf = leaf_table(series, segment)
        if await self.exists(leaf):
            await self.patiently(lambda: self._truncate(series, segment, leaf), attempts)

    async def truncate(self, leaf: str) -> None:
        """Give a table's disk space back at once, within the caller's transaction."""
        await self._connection.execute(render(SQL["truncate"], leaf=leaf))

    async def _truncate(self, series: int, segment: int, leaf: str) -> None:
        await self.truncate(leaf)
        await self._connection.execute(SQL["set_freed"], series, segment)

    async def drop_segment(self, series: int, segment: int) -> None:
        """Empty, detach and drop one segment that is not active."""
        await self.empty(series, segment)
        await self.drop_empty(series, segment)

    async def drop_empty(self, series: int, segment: int) -> None:
        """Detach and drop a segment that is truncated. Waits for transactions that use its series."""
        leaf = leaf_table(series, segment)
        await self._detach(series_table(series), leaf)
        await self._connection.execute(SQL["set_detached"], series, segment)
        await self.drop_table(leaf)
        await self._connection.execute(SQL["forget_segment"], series, segment)

    async def drop_series(self, series: int) -> None:
        """Empty, detach and drop a series with all its segments.

        A reader of one segment keeps that one's disk space, and no other's.
        """
        segments = await self._connection.fetch(SQL["segments_of_series"], series)
        held: asyncpg.LockNotAvailableError | None = None
        for row in segments:
            if row["state"] not in ("freed", "detached"):
                try:
                    await self.empty(series, row["segment"], LOCK_ATTEMPTS if held is None else 1)
                except asyncpg.LockNotAvailableError as error:
                    held = error
        if held is not None:
            raise held
        await self._detach_series(series)
        for row in segments:
            await self.drop_table(leaf_table(series, row["segment"]))
        await self.drop_table(series_table(series))
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

    async def exists(self, table: str) -> bool:
        """Is there such a table in schema kafka?"""
        return bool(await self._connection.fetchval(SQL["table_exists"], table))

    async def _detach(self, parent: str, child: str) -> None:
        """Take a table out of its parent. A parent has one unfinished detaching at most: it is finished first."""
        for row in await self._connection.fetch(SQL["attached"], parent):
            if row["is_pending"]:
                await self._alone(render(SQL["finalize"], parent=parent, child=row["name"]))
        if child in {row["name"] for row in await self._connection.fetch(SQL["attached"], parent)}:
            await self._alone(render(SQL["detach"], parent=parent, child=child))

    async def _detach_series(self, series: int) -> None:
        if await _owns_log(self._connection):
            await self._detach(ROOT, series_table(series))
            return

        async def detach() -> None:
            await self._connection.execute(SQL["detach_series_by_owner"], series)

        # Not concurrently: that cannot be had from a function. Whoever wants kafka.log meanwhile waits for LOCK_TIMEOUT_MS.
        await self.patiently(detach, OWNER_ATTEMPTS)

    async def drop_table(self, table: str) -> None:
        """Drop a table that is not attached, if it is there."""

        async def drop() -> None:
            await self._connection.execute(render(SQL["drop_table"], name=table))

        await self.patiently(drop)

    async def _alone(self, statement: str) -> None:
        """Run a statement that allows no transaction around it."""
        await self._connection.execute(render(SQL["session_lock_timeout"], ms=LOCK_TIMEOUT_MS))
        try:
            await self._connection.execute(statement)
        finally:
            if not self._connection.is_closed():
                await self._connection.execute(render(SQL["session_lock_timeout"], ms=0))

    async def patiently(self, transaction: Callable[[], Awaitable[T]], attempts: int = LOCK_ATTEMPTS) -> T:
        """Run a transaction that gives way: several times with growing, jittered pauses, then its error."""
        attempt = 1
        while True:
            try:
                async with self.giving_way():
                    return await transaction()
            except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
                if attempt >= attempts:
                    raise
                await asyncio.sleep(random.uniform(0.5, 1.5) * min(0.05 * attempt, 0.5))
                attempt += 1


async def _owns_log(connection: asyncpg.Connection) -> bool:
    """May this session change kafka.log and create tables beside it?"""
    return bool(await connection.fetchval(SQL["owns_log"]))


async def _build_series(connection: asyncpg.Connection, series: int, compression: str, owner: int | None) -> None:
    """Locks: ACCESS SHARE on kafka.log, then SHARE UPDATE EXCLUSIVE on it; the series' row exists already."""
    name, owns_log = series_table(series), await _owns_log(connection)
    schema = SCHEMA if owns_log else NEW_SCHEMA
    await connection.execute(render(SQL["create_series"], schema=schema, name=name, series=series))
    if not owns_log:
        await connection.execute(SQL["adopt_table"], name)
    await _build_segment(connection, series, compression, owner)
    if owns_log:
        await connection.execute(render(SQL["attach_series"], name=name, series=series))
    else:
        await connection.execute(SQL["attach_series_by_owner"], series)


async def _build_segment(connection: asyncpg.Connection, series: int, compression: str, owner: int | None) -> int:
    """The next segment of a series; its number. Locks: the series' row, then SHARE UPDATE EXCLUSIVE on the series."""
    segment = await build_leaf(connection, series, compression)
    await connection.execute(render(SQL["note_markers"], leaf=leaf_table(series, segment)))
    await attach_leaf(connection, series, segment)
    await connection.execute(SQL["insert_segment"], series, segment, owner, compression)
    return segment


async def build_leaf(connection: asyncpg.Connection, series: int, compression: str) -> int:
    """The table of the next segment of a series, not attached; the segment's number. Locks: the series' row."""
    segment: int = await connection.fetchval(SQL["next_segment"], series)
    name, leaf = series_table(series), leaf_table(series, segment)
    schema = SCHEMA if await _owns_log(connection) else NEW_SCHEMA
    await connection.execute(render(SQL["create_leaf"], schema=schema, leaf=leaf, name=name, segment=segment))
    await connection.execute(render(SQL["index_markers"], schema=schema, leaf=leaf, index=f"{leaf}_markers"))
    if schema != SCHEMA:
        await connection.execute(SQL["adopt_table"], leaf)
    if compression == "none":
        await connection.execute(render(SQL["store_none"], leaf=leaf))
    else:
        await connection.execute(render(SQL["store_compressed"], leaf=leaf, method=compression))
    return segment


async def attach_leaf(connection: asyncpg.Connection, series: int, segment: int) -> None:
    """Make a segment's table part of the log. Locks: SHARE UPDATE EXCLUSIVE on the series."""
    leaf = leaf_table(series, segment)
    await connection.execute(render(SQL["attach_leaf"], name=series_table(series), leaf=leaf, segment=segment))
