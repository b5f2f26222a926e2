"""The table of checkpoints, whose old versions vacuum may not remove while somebody has an old snapshot."""

from __future__ import annotations

import logging

from pg_kafka.storage.upkeep.job import COPY_FACTOR, SIZES_INTERVAL_S, SQL, Job, Site

logger = logging.getLogger("pg_kafka.janitor")

# So many times its size after the last time.
CHECKPOINT_TABLE_GROWTH = 4


class RewriteCheckpoints(Job):
    """Drops old versions by writing the live rows anew.

    Who has an old snapshot finds the table empty then, a dump that has just begun as well: a checkpoint that is not there
    costs reading more of the log, no more.
    """

    name = "rewrite checkpoints"

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._looks_at = float("-inf")
        self._live_bytes = 0

    async def step(self) -> bool:
        if self.site.now() < self._looks_at:
            return False
        self._looks_at = self.site.now() + SIZES_INTERVAL_S
        connection = self.site.connection
        size = await connection.fetchval(SQL["checkpoints_size"])
        is_grown = size > max(self.site.options.checkpoint_table_bytes, CHECKPOINT_TABLE_GROWTH * self._live_bytes)
        if is_grown and self.has_room(COPY_FACTOR * size):
            async with self.site.segments.giving_way():
                await connection.execute(SQL["rewrite_checkpoints"])
            self._live_bytes = await connection.fetchval(SQL["checkpoints_size"])
            logger.info("checkpoints rewritten", extra={"bytes": self._live_bytes, "before": size})
        return False
