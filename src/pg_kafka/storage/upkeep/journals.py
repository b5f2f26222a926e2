"""Rotation of journals: what counts in a journal's old table goes to the other one, and the old one is emptied."""

from __future__ import annotations

import asyncio
import logging

import asyncpg

from pg_kafka.storage.journal import journal_table
from pg_kafka.storage.queries import render
from pg_kafka.storage.upkeep.job import COPY_FACTOR, LANES_TIMEOUT_S, NEVER, SQL, Job, Site

logger = logging.getLogger("pg_kafka.janitor")

# So many times what in it counted the last time.
JOURNAL_GROWTH = 4
SNAPSHOT_POLL_S = 1.0


class RotateJournals(Job):
    """Takes each journal that has grown one step on; kafka.journals says which step is next."""

    name = "rotate journals"

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._looks_at = NEVER  # when a journal that waits for old snapshots is looked at again

    async def step(self) -> bool:
        self._looks_at = NEVER
        connection, options = self.site.connection, self.site.options
        await connection.execute(SQL["switch_grown_journals"], options.journal_bytes, JOURNAL_GROWTH)
        has_more = False
        late: Exception | None = None
        for row in await connection.fetch(SQL["journals_under_way"], options.snapshot_grace_s):
            journal, active = row["journal"], row["active"]
            try:
                if row["state"] == "switched":
                    async with asyncio.timeout(LANES_TIMEOUT_S):
                        await self.site.lanes.switch_journal(journal, active)
                    if self.has_room(COPY_FACTOR * row["old_bytes"], small=True):
                        await self._copy(journal, active)
                        has_more = True
                elif row["is_seen_by_all"]:
                    await self._truncate(journal, active)
                    self.site.counts.journals_rotated[journal] += 1
                    logger.info("journal rotated", extra={"journal": journal, "bytes": row["live_bytes"]})
                else:
                    self._looks_at = self.site.now() + SNAPSHOT_POLL_S
            except asyncpg.LockNotAvailableError as error:
                # Somebody reads it, perhaps for hours. Its writers and the other journals do not wait for that.
                late = error
        if late is not None:
            raise late
        return has_more

    def wakes_at(self) -> float:
        return self._looks_at

    async def _copy(self, journal: str, active: int) -> None:
        """What counts in the old table goes to the new one, whose newer entries go before it by their number."""
        old, new = journal_table(journal, 1 - active), journal_table(journal, active)
        connection = self.site.connection
        async with self.site.segments.giving_way():
            # No writer is left there, not even one whose connection broke in its commit.
            await connection.execute(render(SQL["lock_journal"], old=old))
            await connection.execute(render(SQL[f"copy_{journal}"], old=old, new=new))
            await connection.execute(SQL["journal_is_copied"], journal, new)

    async def _truncate(self, journal: str, active: int) -> None:
        connection = self.site.connection
        async with self.site.segments.giving_way():
            await connection.execute(render(SQL["truncate_journal"], old=journal_table(journal, 1 - active)))
            await connection.execute(SQL["journal_is_steady"], journal)
