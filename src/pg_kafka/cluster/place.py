"""The place of a broker that waits: a row in `kafka.brokers` for as long as its session lives and it shows life.

The broker that leads names it to clients as a broker without partitions, and removes the row when it stands still.
"""

from __future__ import annotations

import asyncpg

from pg_kafka.clock import Clock
from pg_kafka.cluster.view import ClusterView, Peer, Reachable, TopicSeen
from pg_kafka.storage import locks, queries
from pg_kafka.storage.sessions import Session, connect

SQL = queries.load("cluster")
STATEMENT_TIMEOUT_S = 5.0


class Place:
    """`session` is also the one to look at the others with. All methods raise as the driver does."""

    def __init__(self, session: Session, here: Reachable, heartbeat_s: float, clock: Clock) -> None:
        self.session = session
        self._here = here
        self._heartbeat_s = heartbeat_s
        self._clock = clock
        self._number = 0
        self._beaten_at = float("-inf")
        self._cluster_id = ""
        self._topics_sign: asyncpg.Record | None = None
        self._topics: dict[str, TopicSeen] = {}
        self.incarnation = 0
        self.node_id = 0

    @classmethod
    async def take(cls, dsn: str, here: Reachable, heartbeat_s: float, clock: Clock) -> Place:
        place = cls(await connect(dsn, "heartbeat"), here, heartbeat_s, clock)
        try:
            place._number = await locks.take_number(place.session.connection)
            place._cluster_id = await place.session.connection.fetchval(SQL["cluster_id"])
            await place.beat()
        except BaseException:
            place.drop()
            raise
        return place

    async def beat(self) -> bool:
        """Show life when it is time, and be there again when another broker has taken this one for dead; True if it was."""
        if self._clock.steady_s() - self._beaten_at < self._heartbeat_s:
            return False
        self._beaten_at = self._clock.steady_s()
        connection = self.session.connection
        if await connection.fetchval(SQL["beat_waiting"], self.incarnation, timeout=STATEMENT_TIMEOUT_S) is None:
            row = None
            while row is None:
                try:
                    row = await connection.fetchrow(SQL["wait"], self._number, *self._here, timeout=STATEMENT_TIMEOUT_S)
                except asyncpg.UniqueViolationError:
                    continue  # another broker has come in the same moment, and has the number
            self.incarnation, self.node_id = row["incarnation"], row["node_id"]
        return True

    async def view(self, leader: asyncpg.Record) -> ClusterView:
        """What clients can be told."""
        connection = self.session.connection
        sign = await connection.fetchrow(SQL["topics_sign"], timeout=STATEMENT_TIMEOUT_S)
        if sign != self._topics_sign:
            rows = await connection.fetch(SQL["topics"], timeout=STATEMENT_TIMEOUT_S)
            self._topics = {row["name"]: TopicSeen(row["name"], row["uuid"], row["partitions"]) for row in rows}
            self._topics_sign = sign
        waiting = await connection.fetch(SQL["waiting_brokers"], timeout=STATEMENT_TIMEOUT_S)
        return ClusterView(
            self._cluster_id,
            self.node_id,
            Peer.of(leader),
            leader["epoch"],
            tuple(map(Peer.of, waiting)),
            self._topics,
        )

    async def leave(self) -> None:
        """Take the row away, if the database lets us."""
        try:
            await self.session.connection.fetch(SQL["drop_waiting"], [self.incarnation], timeout=STATEMENT_TIMEOUT_S)
        finally:
            self.drop()

    def drop(self) -> None:
        self.session.drop()
