"""Where partitions begin, by `retention.ms` and `retention.bytes`, exact to the stored row.

Kafka deletes whole segments, oldest first, and stops at the first one that has to stay. So does this, with rows for
segments: a row goes when its largest timestamp is older than retention.ms, or when retention.bytes are behind it all the
same. What Kafka keeps is never gone here. Sealed segments say by their figures what is in them; in the one in which the
log is going to start, and in those that are appended to, rows are looked at, without their records.

    by time   | old | old | old and new | new | active |      the third is looked at, from the log start on
    by size   | 1 GB| 1 GB| 1 GB        | 1 GB| 0.3 GB |      retention.bytes is 2 GB: the third is looked at

First kafka.log_starts has the new start, then this broker's partition; what becomes of the rows is `freeing.py`'s part.
An active segment of which nothing is left is superseded, as Kafka rolls one that has expired.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import asyncpg

from pg_kafka.storage import log_starts
from pg_kafka.storage.queries import load, render
from pg_kafka.storage.segments import SHARED_SERIES, leaf_table
from pg_kafka.storage.topics import Topic
from pg_kafka.storage.upkeep import compression
from pg_kafka.storage.upkeep.job import NEVER, Job, Site

logger = logging.getLogger("pg_kafka.janitor")

SQL = load("retention")

TOPICS_AT_ONCE = 500
MARKERS_AT_ONCE = 10_000
# An extent may hold less than its figures say, when somebody has deleted what made the difference: then the next one is
# looked at as well. What comes meanwhile has its turn at the next check.
LOOKS = 3
# What was sealed in the shared series concerns all topics there.
SEALED_INTERVAL_S = 30.0

Place = tuple[int, int]  # topic id, partition
Segment = tuple[int, int]  # series, number


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """What the job works with."""

    topics: Callable[[], Collection[Topic]]
    take_starts: Callable[[Mapping[Place, int]], None]
    wall_ms: Callable[[], int]
    interval_ms: Callable[[], int]
    first_look_ms: int = 30_000  # after the start


@dataclass(slots=True)
class _Moves:
    """New starts, and the segments of which rows up to the last one go."""

    starts: dict[Place, int]
    ends: set[Segment]
    were: dict[Place, int] = field(default_factory=dict)  # where the partitions that were looked at begin now

    def note(self, place: Place, start: int) -> None:
        self.starts[place] = max(start, self.starts.get(place, 0))


class MoveLogStarts(Job):
    """See the module. Looks at all topics now and then, and at those of a series when a segment of it was sealed."""

    name = "move log starts"

    def __init__(self, site: Site, retention: Retention | None) -> None:
        super().__init__(site)
        self._retention = retention
        self._looks_at = NEVER
        if retention is not None:
            self._looks_at = site.now() + retention.first_look_ms / 1000
        self._looks_at_shared = float("-inf")

    def wakes_at(self) -> float:
        if self._retention is not None and SHARED_SERIES in self.site.sealed:
            return min(self._looks_at, self._looks_at_shared)
        return self._looks_at

    async def step(self) -> bool:
        retention = self._retention
        if retention is None:
            return False
        now = self.site.now()
        is_due = now >= self._looks_at
        sealed = {series for series in self.site.sealed if series != SHARED_SERIES or now >= self._looks_at_shared}
        if is_due or sealed:
            is_for_all = is_due or SHARED_SERIES in sealed
            limited = [t for t in retention.topics() if (is_for_all or t.id in sealed) and _has_limit(t)]
            for first in range(0, len(limited), TOPICS_AT_ONCE):
                await self._move(retention, limited[first : first + TOPICS_AT_ONCE])
                await asyncio.sleep(0)
            self.site.sealed -= sealed
            if is_for_all:
                self._looks_at_shared = now + SEALED_INTERVAL_S
            if is_due:
                self._looks_at = now + retention.interval_ms() / 1000
                self.site.growth.starts_moved = True  # somebody else may have moved some
        return False

    async def _move(self, retention: Retention, topics: Sequence[Topic]) -> None:
        now_ms = retention.wall_ms()
        oldest = {t.id: now_ms - t.settings.retention_ms for t in topics if t.settings.retention_ms >= 0}
        limits = {t.id: t.settings.retention_bytes for t in topics if t.settings.retention_bytes >= 0}
        for _ in range(LOOKS):
            moves = _Moves({}, set())
            await self._by_time(moves, oldest)
            await self._by_size(moves, limits)
            if not moves.starts or not await self._take(retention, moves):
                break

    async def _by_time(self, moves: _Moves, oldest: Mapping[int, int]) -> None:
        """`oldest`: by topic, the time from which on records stay."""
        if not oldest:
            return
        rows = await self.site.connection.fetch(SQL["boundaries_by_time"], list(oldest), list(oldest.values()))
        looks: defaultdict[Segment, list[asyncpg.Record]] = defaultdict(list)
        for row in rows:
            place = (row["topic"], row["partition"])
            moves.were[place] = row["log_start_offset"]
            if row["passed"] > row["log_start_offset"]:
                moves.note(place, row["passed"])
            if row["segment"] is not None:
                looks[row["series"], row["segment"]].append(row)
        for segment, found in looks.items():
            kept = await self._in_leaf(
                "kept_by_time",
                segment,
                [r["topic"] for r in found],
                [r["partition"] for r in found],
                [max(r["passed"], r["log_start_offset"]) for r in found],
                [r["next_offset"] for r in found],
                [r["oldest"] for r in found],
            )
            _note_kept(moves, segment, kept)

    async def _by_size(self, moves: _Moves, limits: Mapping[int, int]) -> None:
        """`limits`: by topic, the bytes that stay of each partition."""
        if not limits:
            return
        extents = await self.site.connection.fetch(SQL["live_extents"], list(limits))
        unknown: defaultdict[Segment, list[asyncpg.Record]] = defaultdict(list)
        for row in extents:
            if row["bytes"] is None:
                unknown[row["series"], row["segment"]].append(row)
        sizes: dict[tuple[int, int, int], int] = {}
        for segment, found in unknown.items():
            columns = [[r[name] for r in found] for name in ("topic", "partition", "first_offset", "next_offset")]
            for row in await self._in_leaf("bytes_of_extents", segment, *columns):
                sizes[row["topic"], row["partition"], row["first_offset"]] = row["bytes"]
        looks: defaultdict[Segment, list[tuple[asyncpg.Record, int]]] = defaultdict(list)
        for (topic_id, index), rows in groupby(extents, key=lambda r: (r["topic"], r["partition"])):
            limit, behind = limits[topic_id], 0
            for row in rows:
                moves.were[topic_id, index] = row["log_start_offset"]
                if behind >= limit and row["last_offset"] is not None:
                    moves.note((topic_id, index), row["last_offset"] + 1)
                    break
                size = row["bytes"]
                if size is None:
                    size = sizes[topic_id, index, row["first_offset"]]
                if behind + size >= limit:
                    looks[row["series"], row["segment"]].append((row, max(0, limit - behind)))
                behind += size
        for segment, wanted in looks.items():
            columns = [[r[name] for r, _ in wanted] for name in ("topic", "partition", "first_offset", "next_offset")]
            starts = {(r["topic"], r["partition"]): r["log_start_offset"] for r, _ in wanted}
            kept = await self._in_leaf("kept_by_size", segment, *columns, [missing for _, missing in wanted])
            _note_kept(moves, segment, (r for r in kept if r["kept"] > starts[r["topic"], r["partition"]]))

    async def _in_leaf(self, name: str, segment: Segment, *arguments: object) -> list[asyncpg.Record]:
        rows: list[asyncpg.Record] = await self.site.connection.fetch(
            render(SQL[name], leaf=leaf_table(*segment)), *arguments
        )
        return rows

    async def _take(self, retention: Retention, moves: _Moves) -> bool:
        """Let the log begin there; False when some partitions could not be moved now."""
        connection = self.site.connection
        wanted = [(topic_id, index, start) for (topic_id, index), start in moves.starts.items()]
        starts = await log_starts.advance(connection, wanted)
        retention.take_starts(starts)
        self.site.counts.moved("retention", [start - moves.were[place] for place, start in starts.items()])
        self.site.growth.starts_moved = True
        places = list(starts)
        columns = [[p[0] for p in places], [p[1] for p in places], list(starts.values())]
        while await connection.execute(SQL["forget_markers"], *columns, MARKERS_AT_ONCE) != "DELETE 0":
            pass
        await connection.execute(SQL["forget_epochs"], *columns)
        for segment in sorted(moves.ends):
            await self._roll_if_gone(segment)
        return len(starts) == len(moves.starts)

    async def _roll_if_gone(self, segment: Segment) -> None:
        if not self.has_room(small=True):
            return
        if await self.site.connection.fetchval(
            render(SQL["is_all_gone"], leaf=leaf_table(*segment)), *segment, self.site.owner
        ):
            method = await compression.choose(self.site, *segment)
            new = await self.site.segments.roll(*segment, method)
            if new is not None:
                self.site.counts.segments["made"] += 1
                logger.info(
                    "new segment, all in the last one has expired", extra={"series": segment[0], "segment": new}
                )
                self.site.growth.look()


def _has_limit(topic: Topic) -> bool:
    settings = topic.settings
    return "delete" in settings.cleanup_policy and (settings.retention_ms >= 0 or settings.retention_bytes >= 0)


def _note_kept(moves: _Moves, segment: Segment, rows: Iterable[asyncpg.Record]) -> None:
    for row in rows:
        moves.note((row["topic"], row["partition"]), row["kept"])
        if row["is_end"]:
            moves.ends.add(segment)
