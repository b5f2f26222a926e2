"""Moving the rows of complete segments to a new one, while SQL and Kafka readers see all of them in either place.

    begin     a table aside, and its row in kafka.segments: filling
    fill      rows go there in pieces, each a transaction; nobody can see them
    attach    it is part of the log; views leave it out, because its state is filling
    settle    transactions end that may go on with plans from before, which do not look into it
    swap      in one transaction the extents name it, it is sealed, and the sources are replaced: views leave these out

What a query sees is decided by its snapshot of kafka.segments: before the swap the sources' rows, after it the new ones.
Replaced segments keep their rows until no older snapshot is left (`unseen`), then they are freed as any others.

A process that dies leaves a segment that is filling. The next one gives it up (`give_up_interrupted`) and begins anew.
Who changes rows of a complete segment adds one to its `changes` in the same transaction; then a swap finds that what
was copied is out of date. Brokers that do not hear of a swap find out when they look for a row where it was.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import asyncpg

from pg_kafka.storage.disk import WRITE_FACTOR
from pg_kafka.storage.queries import load, render
from pg_kafka.storage.segments import Segments, attach_leaf, build_leaf, leaf_table, series_table

SQL = load("replacing")
SEGMENTS_SQL = load("segments")

COMPLETE = frozenset({"sealed", "frozen"})
# Bytes in Kafka's format that a piece should have; a single row may have more.
PIECE_BYTES = 8 * 1024 * 1024


class NotNow(Exception):
    """A replacement cannot begin, go on or end now; what was begun is given up. Try again later."""


@dataclass(slots=True)
class Piece:
    """A transaction that fills a segment. Whoever writes says how much it was."""

    connection: asyncpg.Connection
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Replacement:
    """What goes from where to where. `changes`: of each source, as they were when it began."""

    series: int
    target: int
    sources: tuple[int, ...]
    changes: Mapping[int, int]

    @property
    def leaf(self) -> str:
        """The table that is filled."""
        return leaf_table(self.series, self.target)

    @property
    def source_leaves(self) -> list[str]:
        return [leaf_table(self.series, segment) for segment in self.sources]


@dataclass(frozen=True, slots=True)
class Filling:
    """What writes the rows of a new segment works with.

    async with filling.piece() as piece:
        await piece.connection.execute(...)
        piece.bytes = ...
    """

    replacement: Replacement
    segments: Segments
    connection: asyncpg.Connection
    columns: tuple[str, ...]  # of the log, without `segment`
    has_room: Callable[[float], bool]
    pace: Callable[[int], float]  # after so many bytes: seconds to wait

    @contextlib.asynccontextmanager
    async def piece(self) -> AsyncIterator[Piece]:
        """One transaction. Raises NotNow when the disk has no room for it."""
        if not self.has_room(WRITE_FACTOR * PIECE_BYTES):
            raise NotNow("the disk of the database is nearly full")
        piece = Piece(self.connection)
        async with self.segments.giving_way():
            yield piece
        await asyncio.sleep(self.pace(piece.bytes))


Fill = Callable[[Filling], Awaitable[None]]


async def _nothing(_connection: asyncpg.Connection) -> None:
    pass


@dataclass(slots=True)
class Attached:
    """A replacement that waits for its swap. `holders`: transactions that have to end before."""

    replacement: Replacement
    holders: Sequence[str]
    within_swap: Callable[[asyncpg.Connection], Awaitable[None]] = field(default=_nothing)


class Replacing:
    """The steps, on a session that nobody else uses. All but `fill` take milliseconds.

    They raise LockNotAvailableError when a lock was not to be had: try again later.
    """

    def __init__(
        self,
        connection: asyncpg.Connection,
        *,
        has_room: Callable[[float], bool] = lambda _bytes: True,
        pace: Callable[[int], float] = lambda _bytes: 0.0,
    ) -> None:
        self._connection = connection
        self._segments = Segments(connection)
        self._has_room = has_room
        self._pace = pace

    async def begin(self, series: int, sources: Sequence[int]) -> Replacement:
        """Make the table that gets the rows. Raises NotNow unless all sources are complete and the series has no other one.

        Locks: the series' row, then those of the sources.
        """
        async with self._segments.giving_way():
            if await self._connection.fetchval(SQL["lock_series"], series) is None:
                raise NotNow("the series is gone")
            if await self._connection.fetch(SQL["unfinished"], series):
                raise NotNow("another replacement in the series is not at its end")
            changes = await self._lock_sources(series, sources)
            compression = await self._connection.fetchval(SQL["compression_of"], series, sources[-1])
            target = await build_leaf(self._connection, series, compression)
            await self._connection.execute(SQL["insert_filling"], series, target, list(changes), compression)
        return Replacement(series, target, tuple(changes), changes)

    async def fill(self, replacement: Replacement, fill: Fill) -> None:
        """Have the rows written."""
        columns = await self._connection.fetchval(SQL["copied_columns"])
        await fill(Filling(replacement, self._segments, self._connection, tuple(columns), self._has_room, self._pace))

    async def attach(self, replacement: Replacement) -> list[str]:
        """Make the table part of the log; returns the transactions that have to end before the swap (`running`)."""
        series, target = replacement.series, replacement.target
        await self._segments.patiently(lambda: attach_leaf(self._connection, series, target))
        rows = await self._connection.fetch(SQL["holders"], series)
        return [row["virtualtransaction"] for row in rows]

    async def running(self, holders: Sequence[str]) -> list[str]:
        """Those of some transactions that have not ended."""
        rows = await self._connection.fetch(SQL["still_running"], list(holders))
        return [row["virtualtransaction"] for row in rows]

    async def swap(
        self,
        replacement: Replacement,
        within_swap: Callable[[asyncpg.Connection], Awaitable[None]] = _nothing,
    ) -> list[tuple[int, int]]:
        """Let the new segment take the sources' place: the partitions (topic id, index) whose rows have moved.

        `within_swap` writes what else becomes true with it. Raises NotNow when a source has changed meanwhile.
        Locks: the segments' rows in order, then the extents'.
        """
        series, target, sources = replacement.series, replacement.target, list(replacement.sources)
        async with self._segments.giving_way():
            if await self._lock_sources(series, sources) != replacement.changes:
                raise NotNow("rows of a segment have changed while they were copied")
            await self._connection.execute(render(SQL["delete_rows_of_deleted_topics"], leaf=replacement.leaf))
            moved = await self._connection.fetch(SQL["move_extents"], series, sources, target)
            await self._connection.execute(SQL["merge_extents"], series, target)
            await self._segments.fill_extents_of(series, target)
            await self._connection.execute(SQL["delete_empty_extents"], series, target)
            await self._connection.execute(SQL["set_replaced"], series, sources)
            if await self._connection.fetchval(SQL["set_filled"], series, target) is None:
                raise NotNow("the new segment is gone")
            await within_swap(self._connection)
        return [(row["topic"], row["partition"]) for row in moved]

    async def give_up(self, series: int, target: int) -> None:
        """Forget a segment that is being filled, and its rows."""
        leaf = leaf_table(series, target)
        attached = await self._connection.fetch(SEGMENTS_SQL["attached"], series_table(series))
        if leaf in {row["name"] for row in attached}:
            # Its rows are hidden as long as it is filling, and gone with their table's contents.
            await self._segments.empty(series, target)
            return
        await self._segments.drop_table(leaf)
        await self._connection.execute(SQL["forget_filling"], series, target)

    async def give_up_interrupted(self, but: Sequence[tuple[int, int]] = ()) -> int:
        """Forget what somebody else has begun to fill, or this process before it failed; returns how many there were."""
        rows = await self._connection.fetch(SQL["interrupted"])
        found = [(row["series"], row["segment"]) for row in rows if (row["series"], row["segment"]) not in but]
        for series, target in found:
            await self.give_up(series, target)
        return len(found)

    async def unseen(self) -> list[tuple[int, int]]:
        """Replaced segments whose rows nobody can see any more."""
        rows = await self._connection.fetch(SQL["replaced"])
        return [(row["series"], row["segment"]) for row in rows if row["is_unseen"]]

    async def _lock_sources(self, series: int, sources: Sequence[int]) -> dict[int, int]:
        """Lock complete segments' rows: how often each was changed. Raises NotNow when one is not complete."""
        rows = await self._connection.fetch(SQL["lock_sources"], series, list(sources))
        complete = {row["segment"]: row["changes"] for row in rows if row["state"] in COMPLETE}
        if complete.keys() != set(sources) or not sources:
            raise NotNow(f"not all of the segments {sorted(sources)} of series {series} are complete")
        return complete
