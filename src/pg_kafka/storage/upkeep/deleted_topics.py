"""Deleted topics, until nothing is left of them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import asyncpg

from pg_kafka.storage import sessions
from pg_kafka.storage.log_starts import SQL as STARTS_SQL
from pg_kafka.storage.queries import render
from pg_kafka.storage.segments import SHARED_SERIES, leaf_table
from pg_kafka.storage.upkeep.job import SQL, Job, Site

logger = logging.getLogger("pg_kafka.janitor")

# Rows have up to 128 kB, those of older programs up to 1 MB, so that deleting them takes tens of milliseconds.
ROWS_PER_STEP = 100
MARKERS_PER_STEP = 10_000
# After this long the other jobs have their turn.
STEP_S = 0.2


class FreeTopics(Job):
    """First a topic's own series, then its rows in the shared one, then what is kept by topic."""

    name = "free topics"

    def __init__(self, site: Site, follow: Callable[[], Awaitable[None]]) -> None:
        """`follow` has the broker take over what is committed in the catalogue."""
        super().__init__(site)
        self._follow = follow
        self._unserved: int | None = None  # the topic that is being freed: nobody writes to it
        self._has_swept = False

    async def step(self) -> bool:
        if not self._has_swept:
            await self.site.connection.execute(STARTS_SQL["forget_lost"])
            self._has_swept = True
        until = self.site.now() + STEP_S
        while await self._free_some():
            if self.site.now() >= until:
                return True
        return False

    async def _free_some(self) -> bool:
        """False when there are no topics to free."""
        connection = self.site.connection
        topic = await connection.fetchrow(SQL["topic_to_free"], list(self.put_off))
        if topic is None:
            return False
        topic_id = topic["id"]
        if topic_id != self._unserved:
            # Deleted by SQL, it may still be served: its lanes finish what is under way before its tables go.
            await self._follow()
            self._unserved = topic_id
        if topic["has_series"]:
            before = await sessions.only_row(connection, SQL["series_on_disk"], topic_id)
            try:
                await self.site.segments.drop_series(topic_id)
            except asyncpg.LockNotAvailableError as error:
                # Somebody reads it, perhaps for hours. The disk space is back by now, and other topics need not wait.
                self.put_off.add(topic_id)
                logger.info("a deleted topic waits", extra={"topic_id": topic_id, "reason": sessions.describe(error)})
            after = await sessions.only_row(connection, SQL["series_on_disk"], topic_id)
            counts = self.site.counts
            counts.segments["freed"] += before["unfreed"] - after["unfreed"]
            counts.segments["dropped"] += before["segments"] - after["segments"]
            counts.freed_bytes += before["bytes"] - after["bytes"]
            return True
        shared = await connection.fetch(SQL["shared_segments_of_topic"], topic_id)
        if shared and not self.has_room():
            # Deleting rows writes WAL and frees nothing before vacuum; the topics behind may have tables of their own.
            self.put_off.add(topic_id)
            return True
        for row in shared:
            leaf = leaf_table(SHARED_SERIES, row["segment"])
            done = await connection.execute(render(SQL["delete_rows"], leaf=leaf), topic_id, ROWS_PER_STEP)
            if done != "DELETE 0":
                return True
        if await connection.execute(SQL["delete_markers"], topic_id, MARKERS_PER_STEP) != "DELETE 0":
            return True
        await connection.execute(SQL["forget_topic"], topic_id)
        self.site.counts.topics_freed += 1
        # What the topic had in segments of others counts as gone there.
        self.site.growth.look_for_free()
        return True
