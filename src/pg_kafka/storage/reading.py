"""Reading from the database: batches for consumers that are behind the tail, and where a time begins.

The extents name the segment that holds an offset. When the row is not there, they are read again, since rows may have moved.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from typing import TypeVar

import asyncpg

from pg_kafka.errors import StorageError
from pg_kafka.storage import aborted, queries, stored_rows
from pg_kafka.storage.partition import Extent, Partition
from pg_kafka.storage.readers import Readers
from pg_kafka.storage.segments import leaf_table
from pg_kafka.storage.sessions import unavailable
from pg_kafka.wire.error_codes import ErrorCode

SQL = queries.load("log")
logger = logging.getLogger("pg_kafka.log")

READ_TIMEOUT_S = 30.0
ROWS_PER_READ = (8, 2_000)
# So often a search over segments begins anew because rows moved between them.
SEARCHES = 3
# Encoding more than this with a codec goes to a thread: it would hold up all other connections.
THREADED_BYTES = 64 * 1024
# Places without records that the log was told of; then it is told of them again.
MAX_TOLD_MISSING = 1_000
T = TypeVar("T")


class Reading:
    """See the module."""

    def __init__(self, readers: Readers, executor: Executor) -> None:
        self._readers = readers
        self._executor = executor
        self._told_missing: set[tuple[int, int, int]] = set()  # topic, partition, offset

    async def read(self, partition: Partition, offset: int, max_bytes: int) -> list[bytes]:
        """Wire batches from the database, at least one if there is one below the high watermark. Raises StorageError.

        OFFSET_OUT_OF_RANGE: the log start has moved beyond `offset`, and what was there is gone.
        """
        if offset >= partition.high_watermark:
            return []
        async with self._readers.use(READ_TIMEOUT_S) as connection:
            rows = await self._read_rows(connection, partition, offset, max_bytes)
            if not rows:
                # They may have moved to another segment, or may have been deleted.
                await self._reload_extents(connection, partition)
                rows = await self._read_rows(connection, partition, offset, max_bytes)
            if not rows:
                await self._reload_start(connection, partition)
        if not rows:
            _check_start(partition, offset)
            if partition.is_closed:
                raise StorageError(True, ErrorCode.NOT_LEADER_OR_FOLLOWER, f"{partition} went away while it was read")
            self._tell_missing(partition, offset)
            raise unavailable(f"the database has no row with offset {offset} of {partition}")
        partition.average_row_bytes = max(1, sum(row["stored_bytes"] for row in rows) // len(rows))
        codec, level = partition.topic.settings.codec, partition.topic.settings.compression_level
        arguments = [row["batch"] or [row[name] for name in stored_rows.FIELDS] for row in rows]
        encoded = [row for row in rows if row["batch"] is None]
        size = sum(row["row_bytes"] for row in encoded)
        if size > THREADED_BYTES and any(codec or row["codec"] for row in encoded):
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(
                self._executor, stored_rows.encode, arguments, offset, max_bytes, codec, level
            )
        return stored_rows.encode(arguments, offset, max_bytes, codec, level)

    async def aborted(
        self, partition: Partition, offset: int, batches: Sequence[bytes]
    ) -> Sequence[aborted.AbortedTransaction]:
        """Aborted transactions in what was read from `offset` on. Raises StorageError."""
        found = aborted.known(partition, offset, batches)
        if found is None:
            async with self._readers.use(READ_TIMEOUT_S) as connection:
                found = await self._in_extents(
                    connection, partition, lambda: aborted.find(connection, partition, offset, batches)
                )
        # Markers below the start may be gone, and without them aborted records would pass for committed ones.
        _check_start(partition, offset)
        return found

    async def _read_rows(
        self, connection: asyncpg.Connection, partition: Partition, offset: int, max_bytes: int
    ) -> list[asyncpg.Record]:
        """Rows from the one that holds the offset on; empty when it is not where the extents say.

        The rows of a partition cover its offsets without a gap. So the end of the answer, or of a segment, never tells
        that nothing was there: what follows a gap is left for a read that begins at the gap, and finds that.
        """
        position = partition.extent_index(offset)
        if position < 0:
            return []
        low, high = ROWS_PER_READ
        extent = partition.extents[position]
        try:
            rows: list[asyncpg.Record] = await connection.fetch(
                queries.render(SQL["read_rows"], leaf=leaf_table(extent.series, extent.segment)),
                partition.topic.id,
                partition.index,
                offset,
                partition.high_watermark,
                max(1, max_bytes),
                min(high, max(low, 2 * max_bytes // partition.average_row_bytes + 2)),
            )
        except asyncpg.UndefinedTableError:
            return []  # the segment was dropped, as its rows have moved or are deleted
        expected = offset
        for count, row in enumerate(rows):
            if not row["base_offset"] <= expected <= row["last_offset"]:
                return rows[:count]
            expected = row["last_offset"] + 1
        return rows

    def _tell_missing(self, partition: Partition, offset: int) -> None:
        """A consumer asks again and again, so each place is told once."""
        place = (partition.topic.id, partition.index, offset)
        if place not in self._told_missing:
            if len(self._told_missing) >= MAX_TOLD_MISSING:
                self._told_missing.clear()
            self._told_missing.add(place)
            logger.error(
                "records are missing in the database",
                extra={"topic": partition.topic.name, "partition": partition.index, "offset": offset},
            )

    async def _reload_extents(self, connection: asyncpg.Connection, partition: Partition) -> None:
        known = list(partition.extents)
        rows = await connection.fetch(SQL["load_extents"], partition.topic.id, partition.index)
        partition.take_extents([Extent(*row) for row in rows], known)

    async def reload_extents(self, partitions: Sequence[Partition]) -> None:
        """Rows of these partitions have moved. Raises StorageError."""
        if not partitions:
            return
        async with self._readers.use(READ_TIMEOUT_S) as connection:
            known = [list(partition.extents) for partition in partitions]
            rows = await connection.fetch(
                SQL["load_extents_of_many"], [p.topic.id for p in partitions], [p.index for p in partitions]
            )
        stored = {(row["topic"], row["partition"]): [Extent(*each) for each in row["extents"]] for row in rows}
        for partition, before in zip(partitions, known, strict=True):
            partition.take_extents(stored.get((partition.topic.id, partition.index), []), before)

    async def _reload_start(self, connection: asyncpg.Connection, partition: Partition) -> None:
        """Somebody else may have deleted records."""
        start = await connection.fetchval(SQL["load_start"], partition.topic.id, partition.index)
        partition.advance_start(start or 0)

    async def _in_extents(
        self, connection: asyncpg.Connection, partition: Partition, search: Callable[[], Awaitable[T]]
    ) -> T:
        """What a search in several segments finds. Raises StorageError.

        Rows may move to other segments meanwhile, and then it is repeated: it may have seen them in neither place. What
        moves rows changes their extents in the same transaction, so extents that stayed the same vouch for the answer.
        So does the log start: below it rows go.
        """
        for _ in range(SEARCHES):
            before, start = list(partition.extents), partition.log_start_offset
            try:
                found = await search()
            except asyncpg.UndefinedTableError:
                # A segment was dropped: then the extents are not what they were.
                await self._reload_extents(connection, partition)
                continue
            await self._reload_extents(connection, partition)
            if partition.extents[: len(before)] == before and partition.log_start_offset == start:
                return found
        raise unavailable(f"the segments of {partition} changed while they were searched")

    async def offset_for_timestamp(self, partition: Partition, timestamp_ms: int) -> tuple[int, int, int] | None:
        """First record whose timestamp is at or after the given one: (offset, timestamp, leader epoch), or None."""
        end = partition.high_watermark
        if partition.log_start_offset >= end or partition.running_max_timestamp < timestamp_ms:
            return None
        async with self._readers.use(READ_TIMEOUT_S) as connection:
            return await self._in_extents(
                connection, partition, lambda: self._find_timestamp(connection, partition, timestamp_ms, end)
            )

    async def _find_timestamp(
        self, connection: asyncpg.Connection, partition: Partition, timestamp_ms: int, end: int
    ) -> tuple[int, int, int] | None:
        key, start = (partition.topic.id, partition.index), partition.log_start_offset
        extents = list(partition.extents)
        low, high = max(0, partition.extent_index(start)), len(extents) - 1
        # The running maximum only grows, so its value at the end of each extent finds the one extent to look in.
        while low < high:
            middle = (low + high) // 2
            leaf = leaf_table(extents[middle].series, extents[middle].segment)
            limit = extents[middle + 1].first_offset
            reached = await connection.fetchval(queries.render(SQL["last_running_max"], leaf=leaf), *key, limit)
            if reached is not None and reached >= timestamp_ms:
                high = middle
            else:
                low = middle + 1
        from_offset, name = start, "first_row_by_running_max"
        for position in range(low, len(extents)):
            leaf = leaf_table(extents[position].series, extents[position].segment)
            limit = extents[position + 1].first_offset if position + 1 < len(extents) else end
            from_offset = max(from_offset, extents[position].first_offset)
            while True:
                row = await connection.fetchrow(
                    queries.render(SQL[name], leaf=leaf), *key, from_offset, limit, timestamp_ms
                )
                if row is None:
                    break
                if row["batch"] is None:
                    found = stored_rows.first_record_at(row, timestamp_ms, start)
                else:
                    found = await self._unpack(row, stored_rows.first_packed_at, timestamp_ms, start)
                if found is not None:
                    return (*found, row["leader_epoch"])
                # The record that set the maximum is gone: look for a row that still has such a record.
                name, from_offset = "first_row_by_max", row["last_offset"] + 1
        return None

    async def offset_of_max_timestamp(self, partition: Partition) -> tuple[int, int, int] | None:
        """The first record with the largest timestamp: (offset, timestamp, leader epoch), or None when empty."""
        if partition.log_start_offset >= partition.high_watermark:
            return None
        found = await self.offset_for_timestamp(partition, partition.running_max_timestamp)
        if found is None:
            # The record that set the maximum is gone.
            async with self._readers.use(READ_TIMEOUT_S) as connection:
                largest = await self._in_extents(
                    connection, partition, lambda: self._largest_timestamp(connection, partition)
                )
            found = await self.offset_for_timestamp(partition, largest)
        return found

    async def _largest_timestamp(self, connection: asyncpg.Connection, partition: Partition) -> int:
        """Of the records from the log start on. Reads the small columns of what is not a complete segment's part."""
        key, start = (partition.topic.id, partition.index), partition.log_start_offset
        rows = await connection.fetch(SQL["largest_timestamps"], *key, start)
        known: dict[int, int] = {row["first_offset"]: row["max_timestamp"] for row in rows}
        extents = partition.extents[max(0, partition.extent_index(start)) :]
        largest = max(known.values(), default=-1)
        for extent in extents:
            if extent.first_offset in known:
                continue
            leaf = leaf_table(extent.series, extent.segment)
            statement = queries.render(SQL["largest_timestamp"], leaf=leaf)
            top = await connection.fetchval(statement, *key, max(start, extent.first_offset))
            largest = max(largest, -1 if top is None else top)
            row = await connection.fetchrow(queries.render(SQL["row_across"], leaf=leaf), *key, start)
            if row is None:
                continue
            if row["batch"] is None:
                top = stored_rows.largest_timestamp(row, start)
            else:
                top = await self._unpack(row, stored_rows.largest_packed_timestamp, start)
            largest = max(largest, top)
        return largest

    async def _unpack(self, row: asyncpg.Record, look: Callable[..., T], *arguments: int) -> T:
        """What is found in the batches of a packed row; large ones hold nobody up."""
        if row["row_bytes"] > THREADED_BYTES:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._executor, look, row["batch"], *arguments)
        return look(row["batch"], *arguments)


def _check_start(partition: Partition, offset: int) -> None:
    """Raises StorageError when the log start has moved beyond an offset that was in the log when it was asked for."""
    if offset < partition.log_start_offset:
        message = f"{partition} begins at {partition.log_start_offset}, and {offset} was asked for"
        raise StorageError(False, ErrorCode.OFFSET_OUT_OF_RANGE, message)
