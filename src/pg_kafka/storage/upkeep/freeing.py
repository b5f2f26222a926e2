"""Segments that nobody needs any more: truncated as soon as nobody looks into them, then detached and dropped.

Complete segments go when all their rows lie below the log starts, and replaced ones when no older snapshot is left. The
disk space is back with the TRUNCATE. Nobody ever waits behind it: when somebody reads the segment it is tried again.
Detaching waits for all transactions that use the series, which delays no more than the vanishing of an empty table.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

import asyncpg

from pg_kafka.storage.queries import load, render
from pg_kafka.storage.segments import leaf_table
from pg_kafka.storage.upkeep.job import NEVER, Job, Site

logger = logging.getLogger("pg_kafka.janitor")

SQL = load("retention")
REPLACING_SQL = load("replacing")

# A reader of the broker has a table for milliseconds, a query for as long as it runs.
ATTEMPTS = 5
FIRST_PAUSE_S, LAST_PAUSE_S = 0.5, 10.0
# An empty table is in nobody's way.
DROP_PAUSE_S = 10.0


class FreeSegments(Job):
    """See the module. `on_less` is called when there may be segments of which little is left."""

    name = "free segments"

    def __init__(self, site: Site, on_less: Callable[[], None]) -> None:
        super().__init__(site)
        self._on_less = on_less
        self._looks_at = float("-inf")
        self._drops_at = float("-inf")
        self._pause_s = FIRST_PAUSE_S

    def wakes_at(self) -> float:
        return min(self._looks_at, self._drops_at)

    async def step(self) -> bool:
        growth, now = self.site.growth, self.site.now()
        has_freed = False
        if growth.starts_moved or now >= self._looks_at:
            have_moved, growth.starts_moved = growth.starts_moved, False
            try:
                has_freed, is_waiting = await self._free()
            except BaseException:
                growth.starts_moved = have_moved
                raise
            self._pause_s = min(2 * self._pause_s, LAST_PAUSE_S) if is_waiting else FIRST_PAUSE_S
            self._looks_at = now + self._pause_s if is_waiting else NEVER
            if have_moved or has_freed:
                self._on_less()
        if has_freed or now >= self._drops_at:
            self._drops_at = NEVER if await self._drop() else self.site.now() + DROP_PAUSE_S
        return False

    async def _free(self) -> tuple[bool, bool]:
        """Truncate what may go: has something gone, and is something left that waits?"""
        connection = self.site.connection
        has_freed = is_waiting = False
        uncovered: list[tuple[int, int]] = []
        wanted: list[tuple[int, int, str]] = []
        for row in await connection.fetch(SQL["dead_segments"]):
            if row["uncovered"]:
                uncovered += [(topic_id, index) for topic_id, index in row["uncovered"]]
            else:
                wanted.append((row["series"], row["segment"], row["state"]))
        for row in await connection.fetch(REPLACING_SQL["replaced"]):
            if row["is_unseen"]:
                wanted.append((row["series"], row["segment"], "replaced"))
            else:
                is_waiting = True
        for series, segment, state in wanted:
            if await self._free_one(series, segment, state):
                has_freed = True
            else:
                is_waiting = True
        if uncovered:
            await self.site.lanes.write_checkpoints(uncovered)
            is_waiting = True
        return has_freed, is_waiting

    async def _free_one(self, series: int, segment: int, state: str) -> bool:
        """Truncate a segment, unless somebody uses it."""
        connection, leaf = self.site.connection, leaf_table(series, segment)
        for attempt in range(ATTEMPTS):
            try:
                async with self.site.segments.giving_way():
                    if await connection.fetchval(SQL["set_freed_from"], series, segment, state) is None:
                        return True
                    freed_bytes = 0
                    if await self.site.segments.exists(leaf):
                        await connection.execute(render(SQL["lock_leaf"], leaf=leaf))
                        freed_bytes = await connection.fetchval(SQL["leaf_bytes"], leaf)
                        await self.site.segments.truncate(leaf)
                    gone = await connection.fetch(SQL["forget_extents"], series, segment)
                self.site.counts.segments["freed"] += 1
                self.site.counts.freed_bytes += freed_bytes
                logger.info("segment freed", extra={"series": series, "segment": segment})
                await self.site.lanes.rows_moved([(row["topic"], row["partition"]) for row in gone])
                return True
            except asyncpg.LockNotAvailableError:
                await asyncio.sleep(random.uniform(0.01, 0.03) * (attempt + 1))
        return False

    async def _drop(self) -> bool:
        """Drop what is truncated; False when some of it has to wait."""
        is_done = True
        for row in await self.site.connection.fetch(SQL["empty_segments"]):
            try:
                await self.site.segments.drop_empty(row["series"], row["segment"])
                self.site.counts.segments["dropped"] += 1
            except asyncpg.LockNotAvailableError:
                is_done = False
        return is_done
