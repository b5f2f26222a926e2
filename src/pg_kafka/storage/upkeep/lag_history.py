"""The four tables behind kafka.lag_history take turns: the next one is emptied when one has had its ten days."""

from __future__ import annotations

import logging

from pg_kafka.storage import queries
from pg_kafka.storage.lag import MINUTES_OF_TABLE, TABLE_BYTES, TURNS
from pg_kafka.storage.queries import render
from pg_kafka.storage.upkeep.job import Job, Site

logger = logging.getLogger("pg_kafka.janitor")

SQL = queries.load("lag")

LOOK_S = 300.0


class TurnLagHistory(Job):
    """Empties the oldest table, in the transaction that has the next minutes written there."""

    name = "turn lag history"

    def __init__(self, site: Site, *, minutes: int = MINUTES_OF_TABLE, table_bytes: int = TABLE_BYTES) -> None:
        super().__init__(site)
        self.minutes = minutes
        self.table_bytes = table_bytes
        self._looks_at = float("-inf")

    async def step(self) -> bool:
        if self.site.now() < self._looks_at:
            return False
        connection = self.site.connection
        (state,) = await connection.fetch(SQL["state"], self.minutes)
        if state["rows"] >= self.minutes or state["bytes"] >= self.table_bytes:
            following = (state["turn"] + 1) % TURNS
            async with self.site.segments.giving_way():
                await connection.execute(render(SQL["empty"], turn=following))
                await connection.execute(SQL["take_turn"], following)
            logger.info("lag history turned", extra={"minutes": state["rows"], "bytes": state["bytes"]})
        self._looks_at = self.site.now() + LOOK_S
        return False
