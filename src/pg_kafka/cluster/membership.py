"""Membership: an incarnation of this broker in `kafka.brokers`, its heartbeat, and take-over from the one before.

Safety is by advisory locks, liveness by a heartbeat (docs/architecture.md, "One writer"). An incarnation is created at
start and never revived. A standby waits for the lock of the owner's heartbeat session and never queues for the
incarnation's own lock while its owner lives: a waiting exclusive request would make every reconnect of the owner fail.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import asyncpg

from pg_kafka.cluster.heartbeat import Heartbeat
from pg_kafka.cluster.incarnation import History, Incarnation
from pg_kafka.cluster.silence import Silence
from pg_kafka.storage import queries
from pg_kafka.storage.sessions import (
    CONNECTION_ERRORS,
    Fenced,
    Identity,
    Session,
    WentBack,
    connect,
    connect_writer,
    describe,
    only_row,
    unavailable,
)
from pg_kafka.storage.sessions import (
    SQL as SESSION_SQL,
)

SQL = queries.load("cluster")
log = logging.getLogger("pg_kafka.membership")

TAKE_OVER_TIMEOUT_S = 10.0
LOCK_TIMEOUT_S = 5.0
# How often a broker that waits looks at the one that leads.
LOOK_S = 0.25
HISTORY_EPOCHS = 1000


def _sign(broker: asyncpg.Record) -> tuple[object, ...]:
    """What a broker changes with each heartbeat. One of schema version 3 does not count, but its time changes."""
    return broker["beats"], broker["seen_at"]


class Membership:
    """Join, stay, leave. `on_end` is called once when the incarnation is over for a reason that is not leave()."""

    def __init__(
        self,
        dsn: str,
        *,
        host: str,
        port: int,
        version: str,
        heartbeat_ms: int,
        eviction_ms: int,
        on_end: Callable[[str], None],
        history: History | None = None,
    ) -> None:
        self._dsn = dsn
        self._host = host
        self._port = port
        self._version = version
        self._heartbeat_s = heartbeat_ms / 1000
        self._eviction_s = eviction_ms / 1000
        self._on_end = on_end
        self._history = history or History()
        self._ended = False
        self._heartbeat: Heartbeat | None = None
        self.incarnation: Incarnation | None = None

    async def join(self, on_wait: Callable[[str], None]) -> Incarnation:
        """Become the broker of this database, waiting while another lives. Raises StorageError."""
        silence = Silence()
        told = False
        while self.incarnation is None:
            # Who has waited takes over with a new session: what this one knows of the server may be old by then.
            session = await connect(self._dsn, "heartbeat")
            try:
                self._history.refuse_older(session.identity)
                has_waited = False
                while True:
                    await self._history.look_back(session.connection)
                    dead, leader = await self._look(session.connection, silence)
                    if leader is None:
                        break
                    has_waited = True
                    if not told:
                        told = True
                        on_wait(f"{leader['host']}:{leader['port']}")
                    await asyncio.sleep(LOOK_S)
                if not has_waited:
                    self.incarnation = await self._lead(session, dead)
            except (*CONNECTION_ERRORS, asyncpg.PostgresError) as error:
                raise unavailable(f"cannot join the cluster: {describe(error)}") from error
            finally:
                session.drop()
        self._history.led(session.identity)
        return self.incarnation

    async def _look(
        self, connection: asyncpg.Connection, silence: Silence
    ) -> tuple[list[asyncpg.Record], asyncpg.Record | None]:
        """The brokers that are dead, and one that lives.

        Dead is who has been silent for too long, and who has no session any more.
        """
        asked_at = time.monotonic()
        brokers = await connection.fetch(SQL["live_brokers"], timeout=LOCK_TIMEOUT_S)
        answered_at = time.monotonic()
        silence.forget_others({broker["incarnation"] for broker in brokers})
        dead = []
        for broker in brokers:
            self._history.beat(broker["incarnation"], broker["beats"])
            silent_s = silence.look(broker["incarnation"], _sign(broker), asked_at, answered_at)
            if silent_s <= self._eviction_s and not (
                broker["is_heartbeat_gone"]
                # Else it may only have lost its heartbeat session.
                and not await connection.fetch(SQL["lock_holders"], broker["lock_id"], timeout=LOCK_TIMEOUT_S)
            ):
                return dead, broker
            dead.append(broker)
        return dead, None

    async def _lead(self, session: Session, dead: list[asyncpg.Record]) -> Incarnation | None:
        """Take over and begin to show life; None when there is somebody to wait for again."""
        heartbeat = Heartbeat(
            self._dsn,
            heartbeat_s=self._heartbeat_s,
            eviction_s=self._eviction_s,
            refuse_older=self._history.refuse_older,
            on_beat=self._on_beat,
            on_end=lambda reason, went_back: self.end(reason, went_back=went_back),
        )
        incarnation: Incarnation | None = None
        try:
            # Before others see the row: one that lives without this lock looks as if its process had ended.
            heartbeat_lock_id = await heartbeat.claim()
            incarnation = await self._take_over(session, dead, heartbeat_lock_id)
        finally:
            if incarnation is None:
                await heartbeat.stop(say_goodbye=False)
        if incarnation is not None:
            self._heartbeat = heartbeat
            heartbeat.begin(incarnation)
        return incarnation

    async def _take_over(
        self, session: Session, dead: list[asyncpg.Record], heartbeat_lock_id: int
    ) -> Incarnation | None:
        """Fence the dead and join, in one transaction; None when one of them has shown life, or another broker was faster.

        Locks, in this order: the row of kafka.cluster, the rows of the fenced, their advisory locks in exclusive mode.
        What is read after its commit is what the fenced left; the commit is also synchronous replication's barrier.
        """
        connection = session.connection
        async with asyncio.timeout(TAKE_OVER_TIMEOUT_S):
            await connection.execute("BEGIN")
            cluster = await only_row(connection, SQL["cluster_row"])
            signs = {row["incarnation"]: _sign(row) for row in await connection.fetch(SQL["signs_of_life"])}
            known = {other["incarnation"]: _sign(other) for other in dead}
            if any(known.get(incarnation) != sign for incarnation, sign in signs.items()):
                await connection.execute("ROLLBACK")
                return None
            for other in dead:
                await connection.execute(SQL["fence"], other["incarnation"])
                await self._evict(connection, other["lock_id"])
                log.warning("fenced a dead broker", extra={"incarnation": other["incarnation"], "host": other["host"]})
            where = session.identity
            here = (where.system_identifier, where.timeline)
            changed = self._history.went_back or here != (cluster["system_identifier"], cluster["timeline"])
            if changed:
                was, now = (f"{c[0]}/{c[1]}" for c in (cluster[3:5], here))
                log.warning(
                    "the server's history changed", extra={"was": was, "now": now, "went_back": self._history.went_back}
                )
                await connection.fetchval(SQL["skip_producer_ids"])
            epoch = await connection.fetchval(
                SQL["advance_epoch"], HISTORY_EPOCHS if changed else 1, where.system_identifier, where.timeline
            )
            row = await only_row(
                connection, SQL["join"], epoch, heartbeat_lock_id, self._host, self._port, self._version
            )
            await connection.execute(SQL["forget_old_incarnations"])
        session.commit_in_doubt = False  # a warning about a backend that was gone already is none about this
        await connection.execute("COMMIT")  # without a deadline: its outcome must be known
        if session.commit_in_doubt:
            raise unavailable("the wait for a synchronous standby was cancelled")
        self._history.beat(row["incarnation"], row["beats"])
        return Incarnation(
            row["incarnation"],
            row["node_id"],
            epoch,
            row["lock_id"],
            row["heartbeat_lock_id"],
            cluster["cluster_id"],
            where.system_identifier,
            where.timeline,
        )

    @staticmethod
    async def _evict(connection: asyncpg.Connection, lock_id: int) -> None:
        """Take a fenced incarnation's lock, ending the backends that hold it. The caller has a deadline."""
        while True:
            for holder in await connection.fetch(SQL["lock_holders"], lock_id):
                await connection.execute(SESSION_SQL["terminate_holder"], lock_id, holder["pid"])
            await connection.execute("SAVEPOINT evict")
            try:
                await connection.execute("SET LOCAL lock_timeout = '500ms'")
                await connection.execute(SQL["lock_exclusive_in_transaction"], lock_id)
                await connection.execute("SET LOCAL lock_timeout = 0")
                return
            except asyncpg.LockNotAvailableError:
                await connection.execute("ROLLBACK TO SAVEPOINT evict")

    async def open_writer(self, kind: str) -> Session:
        """A session that may write for this incarnation. Raises Fenced, StorageError."""
        incarnation = self.incarnation
        assert incarnation is not None
        beats = self._history.beats  # before the row is read, so never more than it has to have
        try:
            session = await connect_writer(self._dsn, kind, incarnation.id, incarnation.lock_id, LOCK_TIMEOUT_S, beats)
        except WentBack as error:
            self.end(str(error), went_back=True)
            raise
        except Fenced as error:
            self.end(str(error))
            raise
        try:
            self.check_identity(session.identity)
        except BaseException:
            session.drop()
            raise
        return session

    def check_identity(self, identity: Identity) -> None:
        """End the incarnation when a session finds another server or another history. Raises Fenced, StorageError."""
        incarnation = self.incarnation
        if incarnation is None:
            return
        self._history.refuse_older(identity)
        try:
            incarnation.check_identity(identity)
        except Fenced as error:
            self.end(str(error))
            raise

    def end(self, reason: str, *, went_back: bool = False) -> None:
        """The incarnation is over. `went_back`: the database holds less than it did, so epochs and ids must jump."""
        self._history.went_back |= went_back
        if not self._ended:
            self._ended = True
            log.warning("leadership ended", extra={"reason": reason})
            self._on_end(reason)

    def _on_beat(self, beats: int) -> None:
        assert self.incarnation is not None
        self._history.beat(self.incarnation.id, beats)

    async def leave(self) -> None:
        """Say goodbye, so that the next broker need not wait."""
        if self._heartbeat is not None:
            await self._heartbeat.stop(say_goodbye=not self._ended)

    def abandon(self) -> None:
        """Drop everything at once."""
        self._ended = True
        if self._heartbeat is not None:
            self._heartbeat.abandon()
