"""The two tables of dedup_ids that kafka.produce() has had: the one is emptied when the other one has the whole window."""

from __future__ import annotations

from pg_kafka.storage import queries
from pg_kafka.storage.upkeep.job import Job, Site

SQL = queries.load("deduplication")

LOOK_S = 60.0


class ForgetDedupIds(Job):
    """See the module. A table that a transaction uses is emptied at a later look."""

    name = "forget dedup ids"

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._looks_at = float("-inf")

    async def step(self) -> bool:
        if self.site.now() >= self._looks_at:
            await self.site.connection.execute(SQL["rotate"])
            self._looks_at = self.site.now() + LOOK_S
        return False
