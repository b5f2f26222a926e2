"""Tables of commits of groups that SQL drives take turns, and groups that nobody has polled for long are forgotten.

`storage/sql/schema/102_sql_groups.sql` tells how. A step that meets a transaction which uses the table is tried again later: a
consumer may keep its transaction open for hours, and others go on meanwhile.
"""

from __future__ import annotations

import logging

import asyncpg

from pg_kafka.storage import queries
from pg_kafka.storage.upkeep.job import COPY_FACTOR, NEVER, Job, Site

logger = logging.getLogger("pg_kafka.janitor")

SQL = queries.load("sql_groups")

GROWTH = 4  # so many times what in it counted the last time
FIRST_RETRY_S = 1.0
LAST_RETRY_S = 30.0
EXPIRY_S = 600.0


class TurnSqlCommits(Job):
    """Takes each table one step on: switched, copied, emptied."""

    name = "turn SQL commits"

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._looks_at = NEVER  # when a table that somebody uses is looked at again
        self._retry_s = FIRST_RETRY_S

    async def step(self) -> bool:
        self._looks_at = NEVER
        connection, options = self.site.connection, self.site.options
        (state,) = await connection.fetch(SQL["state"], options.snapshot_grace_s)
        if state["is_ahead"]:
            await connection.execute(SQL["turn"])
        if state["bytes"] > max(options.journal_bytes, GROWTH * state["live_bytes"]):
            switched_to = await connection.fetchval(SQL["switch"])
            if switched_to is not None:
                logger.info("commits of SQL groups go to another table", extra={"table": switched_to})
                return True
        has_more = False
        for table in state["to_copy"]:
            if self.has_room(COPY_FACTOR * state["live_bytes"], small=True):
                has_more |= await self._tried("copy", table)
        for table in state["to_empty"]:
            has_more |= await self._tried("empty", table)
        self._retry_s = FIRST_RETRY_S if has_more else min(2 * self._retry_s, LAST_RETRY_S)
        if state["to_copy"] or state["copied"]:
            self._looks_at = self.site.now() + self._retry_s
        return has_more

    def wakes_at(self) -> float:
        return self._looks_at

    async def _tried(self, step: str, table: int) -> bool:
        """Was it done? Somebody may use the table, perhaps for hours: that is no failure, and is tried again."""
        try:
            async with self.site.segments.giving_way():
                await self.site.connection.execute(SQL[step], table)
        except asyncpg.LockNotAvailableError:
            return False
        return True


class ExpireSqlGroups(Job):
    """Forgets groups as Kafka does, offsets.retention.minutes after their last use, and topics that were deleted."""

    name = "expire SQL groups"

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._looks_at = float("-inf")

    async def step(self) -> bool:
        if self.site.now() < self._looks_at:
            return False
        connection = self.site.connection
        await connection.execute(SQL["forget_topics"])
        for row in await connection.fetch(SQL["expired_groups"], self.site.owner):
            try:
                await connection.execute(SQL["delete_group"], row["group_id"])
            except asyncpg.ObjectInUseError:
                continue  # polled at this moment
            logger.info("group has expired", extra={"group": row["group_id"]})
        self._looks_at = self.site.now() + EXPIRY_S
        return False
