"""A series of its own for a topic that has outgrown the shared one."""

from __future__ import annotations

import asyncio
import logging

from pg_kafka.storage.segments import SHARED_SERIES
from pg_kafka.storage.upkeep import compression
from pg_kafka.storage.upkeep.job import LANES_TIMEOUT_S, SQL, Job

logger = logging.getLogger("pg_kafka.janitor")


class MoveTopics(Job):
    """Makes the series, then has the lanes write there."""

    name = "move topics"

    async def step(self) -> bool:
        if not self.has_room():
            return False
        connection, owner = self.site.connection, self.site.owner
        begun = {row["id"] for row in await connection.fetch(SQL["unmoved_topics"])}
        outgrown = self.site.growth.outgrown
        for topic_id in sorted(begun | outgrown):
            place = await connection.fetchrow(SQL["topic_place"], topic_id, owner)
            if place is not None and place["series"] == SHARED_SERIES:
                method = await compression.choose(self.site, SHARED_SERIES, place["segment"], topic_id)
                if await self.site.segments.create_series(topic_id, method, owner):
                    segment = await connection.fetchval(SQL["active_segment"], topic_id, owner)
                    async with asyncio.timeout(LANES_TIMEOUT_S):
                        await self.site.lanes.move_topic(topic_id, topic_id, segment)
                    self.site.counts.segments["made"] += 1
                    logger.info("topic has its own series", extra={"topic_id": topic_id, "compression": method})
            outgrown.discard(topic_id)
        return False
