"""Compaction: of each key of a partition the last record stays, tombstones and markers for their time, offsets as they are.

    look      what may be cleaned of a topic, and whether that is worth it (coordinator/compaction.py)
    prepare   read the keys of all that, not the values: which records stay, and what becomes of each row
    apply     write it, in pieces: in place in the shared series 0, elsewhere to a segment that replaces others

What `prepare` finds is in temporary tables of the session. A round that was interrupted begins anew; pieces of it that are
written already change nothing about what stays. A partition's rows go on covering its offsets: a row of which something
stays takes over the offsets of those behind it that are gone, and the first row of an extent stays without a record.

Not touched: what is active, not stable (open transactions), younger than min.compaction.lag.ms, or above the last
checkpoint, above which the rows say what producers have sent.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cmp_to_key, partial
from typing import Protocol

import asyncpg

from pg_kafka.config.topics import TopicSettings
from pg_kafka.coordinator.compaction import Figures, is_due, total
from pg_kafka.storage.queries import load, render
from pg_kafka.storage.replacing import Filling, NotNow
from pg_kafka.storage.segments import LOCK_TIMEOUT_MS, SHARED_SERIES, leaf_table
from pg_kafka.storage.topics import Topic

SQL = load("compaction")
SEGMENTS_SQL = load("segments")
LAYOUTS_SQL = load("layouts")
REPLACING_SQL = load("replacing")
logger = logging.getLogger("pg_kafka.compaction")

# What stays of the rows of a piece, roughly; a piece is a transaction. Each row counts something, also one of which nothing
# stays (queries/compaction.sql, make_plan), so that no piece has rows without end.
PIECE_BYTES = 4 * 1024 * 1024
# What PostgreSQL takes as work_mem.
LEAST_KEYS_KB, MOST_KEYS_KB = 64, 2**31 - 1
# Records whose keys are read in one round, at least; more when more are clean, so that few are read again and again.
ROUND_RECORDS = 10_000_000
STATEMENT_TIMEOUT_S = 3600.0
_IS_COMPLETE = frozenset({"sealed", "frozen"})


class LogControl(Protocol):
    """What is asked of the log."""

    async def write_checkpoints(self, places: Sequence[tuple[int, int]]) -> None:
        """Have checkpoints of partitions (topic id, index) written soon."""

    def before_compaction(self, topic_id: int, index: int, end: int) -> None:
        """Rows below `end` are going to change: what is remembered of them is forgotten."""

    async def after_compaction(self, connection: asyncpg.Connection, topic_id: int, index: int) -> None:
        """Rows in the partition's last extent may have changed: what it holds is counted."""


class Changed(Exception):
    """Rows or the topic are not as they were when a round began; it begins anew."""


@dataclass(frozen=True, slots=True)
class Extent:
    """A partition's part of a segment, up to `end` (the next extent's first offset; None: the last one)."""

    partition: int
    first_offset: int
    series: int
    segment: int
    generation: int
    state: str
    is_packed: bool
    end: int | None
    bytes: int | None  # what kafka.extents says; None while that is not known
    records: int
    first_timestamp: int

    @property
    def leaf(self) -> str:
        return leaf_table(self.series, self.segment)

    @property
    def is_complete(self) -> bool:
        return self.state in _IS_COMPLETE

    def figures(self, start: int, dirty: int, end: int) -> Figures | None:
        """What is in it from `start` on, when all of it lies on one side of `dirty` and below `end`, and that is known."""
        if self.bytes is None or self.end is None or self.first_offset < start or self.end > end:
            return None
        if self.end <= dirty:
            return Figures(clean_bytes=self.bytes, clean_records=self.records)
        if self.first_offset >= dirty:
            stamp = self.first_timestamp if self.first_timestamp > 0 else None
            return Figures(dirty_bytes=self.bytes, dirty_records=self.records, first_dirty_timestamp=stamp)
        return None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A partition with something that a checkpoint covers and that is not clean."""

    partition: int
    log_start_offset: int
    first_dirty_offset: int
    stable_offset: int  # up to the checkpoint, and below its oldest open transaction
    next_offset: int  # the checkpoint's


@dataclass(frozen=True, slots=True)
class Measured:
    """A partition, with the extents that may take part in a round."""

    partition: int
    start: int
    first_dirty_offset: int
    end: int
    figures: Mapping[Extent, Figures]


@dataclass(frozen=True, slots=True)
class Range:
    """What is cleaned of a partition: rows from the log start to `end`."""

    partition: int
    start: int
    first_dirty_offset: int
    end: int
    extents: tuple[Extent, ...]
    figures: Figures


@dataclass(slots=True)
class Round:
    """One compaction of a topic, or of some partitions of it."""

    topic: Topic
    now_ms: int
    ranges: list[Range]
    counts: dict[int, tuple[int, int]] = field(default_factory=dict)  # of records before and after, by partition

    @property
    def records(self) -> int:
        """How many are looked at, roughly."""
        return sum(one.figures.clean_records + one.figures.dirty_records for one in self.ranges)

    @property
    def shared(self) -> dict[int, list[Extent]]:
        """Extents in series 0 by segment."""
        found: dict[int, list[Extent]] = {}
        for one in self.ranges:
            for extent in one.extents:
                if extent.series == SHARED_SERIES:
                    found.setdefault(extent.segment, []).append(extent)
        return dict(sorted(found.items()))


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of the plan that are written in one transaction."""

    series: int
    segment: int
    number: int
    bytes: int  # that are read and written, roughly

    @property
    def key(self) -> tuple[int, int, int]:
        return self.series, self.segment, self.number


class Compaction:
    """The steps, on a session that nobody else uses meanwhile."""

    def __init__(
        self,
        connection: asyncpg.Connection,
        log: LogControl,
        keys_bytes: int,
        round_records: int = ROUND_RECORDS,
    ) -> None:
        """`keys_bytes`: of a round's keys so much is held in memory; the rest goes through temporary files."""
        self.connection = connection
        self._log = log
        self._round_records = round_records
        self._keys_kb = min(max(keys_bytes // 1024, LEAST_KEYS_KB), MOST_KEYS_KB)

    # -- what there is to do -----------------------------------------------------------------------------------------

    async def candidates(self, topics: Sequence[int]) -> dict[int, list[Candidate]]:
        """Partitions of topics that may have something to clean, by topic. One statement for all."""
        found: dict[int, list[Candidate]] = {}
        for row in await self._fetch(SQL["candidates"], list(topics)):
            found.setdefault(row["topic"], []).append(_candidate(row))
        return found

    async def is_replacing(self, series: int) -> bool:
        """Does a series have a segment that is filled, or one that was replaced and is not freed?"""
        return series != SHARED_SERIES and bool(await self._fetch(REPLACING_SQL["unfinished"], series))

    async def look(self, topic: Topic, candidates: Sequence[Candidate], now_ms: int) -> Round | None:
        """What to clean of a topic now; None when nothing is worth it. Asks for batches that came packed to be unpacked."""
        extents = await self._extents(topic.id)
        if topic.series != SHARED_SERIES:
            # All partitions share the segments that are replaced.
            candidates = [_candidate(row) for row in await self._fetch(SQL["partitions"], topic.id)]
        found = [await self._measured(topic, one, extents.get(one.partition, []), now_ms) for one in candidates]

        def is_worth_it(figures: Iterable[Figures]) -> bool:
            return is_due(
                total(figures),
                min_dirty_ratio=topic.settings.min_cleanable_dirty_ratio,
                max_lag_ms=topic.settings.max_compaction_lag_ms,
                now_ms=now_ms,
            )

        if topic.series == SHARED_SERIES:
            found = [one for one in found if is_worth_it(one.figures.values())]
        elif not is_worth_it(figures for one in found for figures in one.figures.values()):
            found = []
        ranges = [one for one in self._bounded(found) if one.extents]
        if not ranges:
            return None
        if topic.keeps_batches or any(extent.is_packed for one in ranges for extent in one.extents):
            await self._fetch(SQL["ask_for_unpacking"], topic.id)
            return None
        return Round(topic, now_ms, ranges)

    async def _extents(self, topic_id: int) -> dict[int, list[Extent]]:
        found: dict[int, list[Extent]] = {}
        rows = await self._fetch(SQL["extents"], topic_id)
        for row, following in zip(rows, [*rows[1:], None], strict=True):
            is_last = following is None or following["partition"] != row["partition"]
            end = None if is_last or following is None else following["first_offset"]
            found.setdefault(row["partition"], []).append(
                Extent(
                    row["partition"],
                    row["first_offset"],
                    row["series"],
                    row["segment"],
                    row["generation"],
                    row["state"],
                    row["is_packed"],
                    end,
                    row["bytes"],
                    row["records"] or 0,
                    row["first_timestamp"] or -1,
                )
            )
        return found

    async def _measured(self, topic: Topic, candidate: Candidate, extents: Sequence[Extent], now_ms: int) -> Measured:
        """What is in the extents of a partition that may take part in a round, up to where it may be cleaned."""
        start, dirty = candidate.log_start_offset, candidate.first_dirty_offset
        end = candidate.stable_offset
        for extent in extents:
            if extent.series != SHARED_SERIES and not extent.is_complete:
                end = min(end, extent.first_offset)
        if topic.series == SHARED_SERIES:
            end = min(end, await self._active_from(topic, candidate, extents, now_ms))
        if topic.settings.min_compaction_lag_ms > 0 and end > dirty:
            end = min(end, await self._first_younger(topic, candidate.partition, dirty, end, extents, now_ms))
        end = max(end, dirty)
        figures: dict[Extent, Figures] = {}
        for extent in extents:
            if extent.first_offset < end and (extent.end is None or extent.end > start):
                figures[extent] = extent.figures(start, dirty, end) or await self._counted(
                    topic, extent, max(start, extent.first_offset), dirty, end
                )
            elif extent.series != SHARED_SERIES and extent.is_complete:
                figures[extent] = Figures()  # its segment may be replaced
        return Measured(candidate.partition, start, dirty, end, figures)

    async def _counted(self, topic: Topic, extent: Extent, start: int, dirty: int, end: int) -> Figures:
        row = await self._row(
            render(SQL["figures"], leaf=extent.leaf),
            topic.id,
            extent.partition,
            start,
            dirty,
            end if extent.end is None else min(end, extent.end),
        )
        return Figures(*row)

    def _bounded(self, found: Sequence[Measured]) -> list[Range]:
        """The oldest part of what is due: as many segments as have records for one round."""
        order: list[Extent] = []
        for one in found:
            order += one.figures
        segments = sorted({(extent.series, extent.segment) for extent in order}, key=cmp_to_key(partial(_older, order)))
        clean = sum(figures.clean_records for one in found for figures in one.figures.values())
        chosen: set[tuple[int, int]] = set()
        records = 0
        for segment in segments:
            if chosen and records >= max(self._round_records, clean):
                break
            chosen.add(segment)
            records += sum(
                figures.dirty_records
                for one in found
                for extent, figures in one.figures.items()
                if (extent.series, extent.segment) == segment
            )
        ranges = []
        for one in found:
            used = {e: f for e, f in one.figures.items() if (e.series, e.segment) in chosen}
            others = [e.first_offset for e in one.figures if e not in used]
            end = min([one.end, *others])
            # What lies above the end is only taken along when its segment is replaced.
            used = {e: f for e, f in used.items() if e.series != SHARED_SERIES or e.first_offset < end}
            ranges.append(
                Range(one.partition, one.start, one.first_dirty_offset, end, tuple(used), total(used.values()))
            )
        return ranges

    async def _active_from(self, topic: Topic, candidate: Candidate, extents: Sequence[Extent], now_ms: int) -> int:
        """Where the part of a partition in the shared series begins that Kafka would have in its active segment."""
        settings = topic.settings
        since = now_ms - segment_ms(settings)
        active_from, above = candidate.next_offset, 0
        for extent in reversed(extents):
            row = await self._row(
                render(SQL["active_from"], leaf=extent.leaf),
                topic.id,
                candidate.partition,
                extent.first_offset,
                (1 << 63) - 1 if extent.end is None else extent.end,
                since,
                above,
                settings.segment_bytes,
            )
            if row["active_from"] is None or row["active_from"] > active_from:
                break
            active_from, above = row["active_from"], row["bytes_above"]
            if active_from > extent.first_offset:
                break
        return active_from

    async def _first_younger(
        self, topic: Topic, partition: int, start: int, end: int, extents: Sequence[Extent], now_ms: int
    ) -> int:
        since = now_ms - topic.settings.min_compaction_lag_ms
        for extent in extents:
            if extent.first_offset >= end:
                break
            if extent.end is None or extent.end > start:
                row = await self._row(
                    render(SQL["first_younger"], leaf=extent.leaf), topic.id, partition, start, end, since
                )
                if row["min"] is not None:
                    return int(row["min"])
        return end

    # -- which records stay ------------------------------------------------------------------------------------------

    async def prepare(self, work: Round) -> list[Piece]:
        """Find out what becomes of each row; the pieces in which to write that."""
        await self.connection.execute(SQL["make_tables"])
        await self.connection.execute(SQL["empty_tables"])
        await self.connection.execute(render(SQL["work_mem"], kilobytes=self._keys_kb))
        count, number = 0, 0
        leaves: dict[str, Extent] = {}
        for one in work.ranges:
            for extent in one.extents:
                number += 1
                # Of a segment that is replaced all rows go on, in place those above the end are left alone.
                is_moved = extent.series != SHARED_SERIES
                end = (1 << 63) - 1 if extent.end is None else extent.end
                status = await self.connection.execute(
                    render(SQL["collect_rows"], leaf=extent.leaf),
                    work.topic.id,
                    one.partition,
                    extent.first_offset,
                    end if is_moved else min(end, one.end),
                    one.end,
                    count,
                    number,
                    one.start,
                    timeout=STATEMENT_TIMEOUT_S,
                )
                count += int(status.rpartition(" ")[2])
                leaves[extent.leaf] = extent
        await self.connection.execute(SQL["analyze_rows"])
        keys = [self._of(SQL["keys_of_leaf"], work, extent) for extent in leaves.values()]
        await self.connection.execute(
            SQL["keep_latest"].replace("{keys}", " UNION ALL ".join(keys)), timeout=STATEMENT_TIMEOUT_S
        )
        for extent in leaves.values():
            await self.connection.execute(
                self._of(SQL["drop_tombstones"], work, extent),
                work.topic.id,
                work.now_ms,
                timeout=STATEMENT_TIMEOUT_S,
            )
        await self.connection.execute(
            SQL["make_plan"],
            work.now_ms,
            work.topic.settings.delete_retention_ms,
            PIECE_BYTES,
            timeout=STATEMENT_TIMEOUT_S,
        )
        await self.connection.execute(SQL["index_plan"])
        await self.connection.execute(SQL["analyze_plan"])
        work.counts = {row["partition"]: (row["before"], row["after"]) for row in await self._fetch(SQL["records"])}
        return [Piece(*row) for row in await self._fetch(SQL["pieces"])]

    @staticmethod
    def _of(template: str, work: Round, extent: Extent) -> str:
        return render(template, leaf=extent.leaf, topic=work.topic.id, series=extent.series, segment=extent.segment)

    # -- in place ----------------------------------------------------------------------------------------------------

    async def apply_in_place(self, work: Round, piece: Piece) -> None:
        """Write one piece to the shared segment that it is in. Raises Changed when rows have moved, LockNotAvailableError."""
        place = (work.topic.id, *piece.key)
        known = {(extent.partition, extent.first_offset, extent.generation) for extent in work.shared[piece.segment]}
        leaf = leaf_table(piece.series, piece.segment)
        horizon = work.now_ms + work.topic.settings.delete_retention_ms
        self._forget(work)
        async with self.connection.transaction():
            await self.connection.execute(render(SEGMENTS_SQL["lock_timeout"], ms=LOCK_TIMEOUT_MS))
            if not await self._fetch(SQL["hold_topic"], work.topic.id):
                raise Changed("the topic is gone")
            held = {tuple(row) for row in await self._fetch(SQL["hold_extents"], *place[:3])}
            if not known <= held:
                raise Changed("rows have moved to another segment")
            changed = False
            for name in ("delete_markers", "delete_gone"):
                changed |= await self._run(render(SQL[name], leaf=leaf), *place)
            changed |= await self._run(render(SQL["update_filled"], leaf=leaf), *place)
            for name in ("update_kept", "update_cut"):
                changed |= await self._run(render(SQL[name], leaf=leaf), *place, horizon)
            if changed:
                await self._run(render(SQL["refresh_figures"], leaf=leaf), *place[:3])
                await self._run(LAYOUTS_SQL["note_change"], piece.series, piece.segment)

    def _forget(self, work: Round) -> None:
        """Before anything is committed: what is in memory would go on to say that dropped markers are there."""
        for one in work.ranges:
            self._log.before_compaction(work.topic.id, one.partition, one.end)

    async def recount(self, work: Round) -> None:
        """All pieces in shared segments are written: have the partitions know what they hold."""
        for one in work.ranges:
            await self._log.after_compaction(self.connection, work.topic.id, one.partition)

    async def finish(self, work: Round) -> None:
        """All is written: remember how far the partitions are clean."""
        ranges = work.ranges
        counts = [work.counts.get(one.partition, (0, 0)) for one in ranges]
        await self.connection.execute(
            SQL["is_clean"],
            work.topic.id,
            [one.partition for one in ranges],
            [one.end for one in ranges],
            [before for before, _ in counts],
            [after for _, after in counts],
        )

    # -- to segments that replace others -----------------------------------------------------------------------------

    async def groups(self, work: Round) -> list[tuple[int, ...]]:
        """Segments of the topic's own series that are replaced, each group by one: what stays of it is a segment's size.

        Groups of which nothing changes are left out.
        """
        rows = await self._fetch(
            SQL["segment_plans"],
            work.topic.id,
            [one.partition for one in work.ranges],
            [one.first_dirty_offset for one in work.ranges],
        )
        plans = {row["segment"]: row for row in rows}
        extents = [extent for one in work.ranges for extent in one.extents if extent.series != SHARED_SERIES]
        order = sorted({(e.series, e.segment) for e in extents}, key=cmp_to_key(partial(_older, extents)))
        groups: list[list[int]] = []
        size = 0
        for _, segment in order:
            plan = plans.get(segment)  # without a plan: nothing in it is above the log start
            kept = 0 if plan is None else plan["kept_bytes"]
            if not groups or size + kept > work.topic.settings.segment_bytes:
                groups.append([])
                size = 0
            groups[-1].append(segment)
            size += kept
        return [
            tuple(group)
            for group in groups
            if any(segment in plans and plans[segment]["is_changed"] for segment in group)
        ]

    async def fill(self, work: Round, pieces: Sequence[Piece], filling: Filling) -> None:
        """Write what stays of a group to the segment that replaces it."""
        horizon = work.now_ms + work.topic.settings.delete_retention_ms
        sources = set(filling.replacement.sources)
        for piece in pieces:
            if piece.series == filling.replacement.series and piece.segment in sources:
                statement = render(
                    SQL["fill_piece"],
                    leaf=leaf_table(piece.series, piece.segment),
                    target=filling.replacement.leaf,
                    segment=filling.replacement.target,
                )
                async with filling.piece() as transaction:
                    await self._run(statement, work.topic.id, *piece.key, horizon)
                    transaction.bytes = piece.bytes

    async def dropped_markers(self, work: Round, group: Sequence[int]) -> list[tuple[int, int, int]]:
        """Markers that go with a group's replacement: partition, producer id and offset."""
        return [tuple(row) for row in await self._fetch(SQL["dropped_markers"], work.topic.id, list(group))]

    async def within_swap(
        self, work: Round, markers: Sequence[tuple[int, int, int]], connection: asyncpg.Connection, *, is_last: bool
    ) -> None:
        """What becomes true with the replacement of a group."""
        if await connection.fetchval(SQL["hold_topic"], work.topic.id) is None:
            raise NotNow("the topic is gone")
        self._forget(work)
        if markers:
            columns = [list(column) for column in zip(*markers, strict=True)]
            await connection.execute(SQL["delete_dropped_markers"], work.topic.id, *columns)
        if is_last:
            await self.finish(work)

    # -- statements --------------------------------------------------------------------------------------------------

    async def _fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        rows: list[asyncpg.Record] = await self.connection.fetch(statement, *arguments, timeout=STATEMENT_TIMEOUT_S)
        return rows

    async def _row(self, statement: str, *arguments: object) -> asyncpg.Record:
        return (await self._fetch(statement, *arguments))[0]

    async def _run(self, statement: str, *arguments: object) -> bool:
        """Has the statement changed a row?"""
        status: str = await self.connection.execute(statement, *arguments, timeout=STATEMENT_TIMEOUT_S)
        return not status.endswith(" 0")


def _candidate(row: asyncpg.Record) -> Candidate:
    opened = [first for _, first in json.loads(row["open_transactions"])]
    return Candidate(
        row["partition"],
        row["log_start_offset"],
        row["first_dirty_offset"],
        min([row["next_offset"], *opened]),
        row["next_offset"],
    )


def _older(extents: Sequence[Extent], one: tuple[int, int], other: tuple[int, int]) -> int:
    """Compare the age of two segments, by a partition that is in both. Numbers say nothing: what replaces has a new one."""
    firsts = {e.partition: e.first_offset for e in extents if (e.series, e.segment) == one}
    for extent in extents:
        if (extent.series, extent.segment) == other and extent.partition in firsts:
            return firsts[extent.partition] - extent.first_offset
    return (one > other) - (one < other)


def segment_ms(settings: TopicSettings) -> int:
    """The age at which a segment is complete; max.compaction.lag.ms bounds it in a compacted topic, as in Kafka."""
    return min(settings.segment_ms, max(settings.max_compaction_lag_ms, 1))
