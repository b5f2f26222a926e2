"""The two tables of kafka.commit_offsets() take turns: one that brokers have taken over into the journals is emptied."""

from __future__ import annotations

import logging

import asyncpg

from pg_kafka.storage import queries
from pg_kafka.storage.queries import render
from pg_kafka.storage.upkeep.job import Job, Site

logger = logging.getLogger("pg_kafka.janitor")

SQL = queries.load("member_commits")

LOOK_S = 15.0
# Some 30,000 commits.
TABLE_BYTES = 4 * 1024 * 1024


class TurnMemberCommits(Job):
    """Has the other table written when one is full, and empties the full one when all of it has been taken over."""

    name = "turn member commits"

    def __init__(self, site: Site, *, table_bytes: int = TABLE_BYTES) -> None:
        super().__init__(site)
        self.table_bytes = table_bytes
        self._looks_at = float("-inf")

    async def step(self) -> bool:
        if self.site.now() < self._looks_at:
            return False
        self._looks_at = self.site.now() + LOOK_S
        connection = self.site.connection
        (state,) = await connection.fetch(SQL["turn"])
        other = 1 - state["active"]
        if not state["has_old"]:
            if state["bytes"] >= self.table_bytes:
                await connection.execute(SQL["take_turn"], other)
        # An older snapshot may see the table, and not yet the journals. So long it is waited for, as with journals.
        elif state["since_s"] >= self.site.options.snapshot_grace_s:
            try:
                async with self.site.segments.giving_way():
                    await connection.execute(render(SQL["lock_old"], turn=other))
                    if await connection.fetchval(render(SQL["not_taken"], turn=other)):
                        return False
                    await connection.execute(render(SQL["empty"], turn=other))
            except asyncpg.LockNotAvailableError:
                return False  # a transaction that has committed there is open, or somebody reads it: perhaps for hours
            logger.info("commits of members emptied", extra={"table": other})
        return False

    def wakes_at(self) -> float:
        return self._looks_at
