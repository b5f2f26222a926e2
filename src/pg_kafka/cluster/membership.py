"""Membership: an incarnation of this broker in `kafka.brokers`, its heartbeat, and take-over from the one before.

Safety is by advisory locks, liveness by a heartbeat (docs/architecture.md, "One writer"). An incarnation is created at
start and never revived. A broker that waits never queues for a lock of the one that leads: a waiting exclusive request
would make every reconnect of the leader fail. It looks again and again, by statements that wait for nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence

import asyncpg

from pg_kafka.clock import Clock
from pg_kafka.cluster import take_over
from pg_kafka.cluster.counts import Cause, ClusterCounts, cause_of
from pg_kafka.cluster.heartbeat import Heartbeat
from pg_kafka.cluster.incarnation import History, Incarnation
from pg_kafka.cluster.place import Place
from pg_kafka.cluster.silence import Silence
from pg_kafka.cluster.take_over import Newcomer
from pg_kafka.cluster.view import ClusterView, Peer, Reachable
from pg_kafka.storage import queries
from pg_kafka.storage.counts import StorageCounts
from pg_kafka.storage.sessions import (
    CONNECTION_ERRORS,
    Fenced,
    Identity,
    Session,
    WentBack,
    connect,
    connect_writer,
    describe,
    unavailable,
)

SQL = queries.load("cluster")
logger = logging.getLogger("pg_kafka.membership")

LOCK_TIMEOUT_S = 5.0
# How often a broker that waits looks at the one that leads.
LOOK_S = 0.25


class Membership:
    """Join, stay, leave. `on_end` is called once when the incarnation is over for a reason that is not leave()."""

    def __init__(
        self,
        dsn: str,
        *,
        host: str,
        port: int,
        version: str,
        endpoints: Sequence[str] = (),
        heartbeat_ms: int,
        eviction_ms: int,
        clock: Clock,
        on_end: Callable[[str], None],
        history: History | None = None,
        counts: ClusterCounts | None = None,
        storage_counts: StorageCounts | None = None,
    ) -> None:
        self._dsn = dsn
        self._counts = counts or ClusterCounts()
        self._storage_counts = storage_counts or StorageCounts(clock)
        self._here = Reachable(host, port, version, tuple(endpoints))
        self._heartbeat_s = heartbeat_ms / 1000
        self._eviction_s = eviction_ms / 1000
        self._clock = clock
        self._beaten_at = clock.steady_s()
        self._on_end = on_end
        self._history = history or History()
        self._ended = False
        self._heartbeat: Heartbeat | None = None
        self.incarnation: Incarnation | None = None
        self.waiting: tuple[Peer, ...] = ()  # brokers that wait for the end of this one

    @property
    def eviction_s(self) -> float:
        """How old a heartbeat may be."""
        return self._eviction_s

    @property
    def heartbeat_age_s(self) -> float:
        """How long ago PostgreSQL confirmed a heartbeat, of a broker that leads."""
        return self._clock.steady_s() - self._beaten_at

    async def join(self, on_wait: Callable[[ClusterView], Awaitable[None]]) -> Incarnation:
        """Become the broker of this database, waiting while another lives. Raises StorageError.

        `on_wait` is awaited again and again meanwhile, with what clients can be told.
        """
        silence = Silence()
        place: Place | None = None
        try:
            while self.incarnation is None:
                # Who has waited takes over with a new session: what the other one knows of the server may be old by then.
                session = await connect(self._dsn, "heartbeat")
                session.count_in(self._storage_counts.session("membership"))
                try:
                    self._history.refuse_older(session.identity)
                    await self._history.look_back(session.connection)
                    dead, leader = await self._look(session.connection, silence)
                    if leader is None:
                        if self._counts.leader_gone_s is None:
                            self._counts.leader_gone_s = self._clock.steady_s()
                        self.incarnation = await self._lead(session, dead, place)
                finally:
                    session.drop()
                if leader is not None:
                    self._counts.leader_gone_s = None
                    if place is None:
                        place = await Place.take(self._dsn, self._here, self._heartbeat_s, self._clock)
                    await self._wait(place, silence, on_wait)
            self._history.led(session.identity)
            return self.incarnation
        except (*CONNECTION_ERRORS, asyncpg.PostgresError) as error:
            raise unavailable(f"cannot join the cluster: {describe(error)}") from error
        finally:
            if place is not None:
                await self._leave(place)

    async def _wait(self, place: Place, silence: Silence, on_wait: Callable[[ClusterView], Awaitable[None]]) -> None:
        """Return when nobody leads any more."""
        is_first = True
        while True:
            await self._history.look_back(place.session.connection)
            _, leader = await self._look(place.session.connection, silence)
            if leader is None:
                self._counts.leader_gone_s = self._clock.steady_s()
                return
            if await place.beat() or is_first:
                is_first = False
                await on_wait(await place.view(leader))
            await asyncio.sleep(LOOK_S)

    @staticmethod
    async def _leave(place: Place) -> None:
        with contextlib.suppress(*CONNECTION_ERRORS, asyncpg.PostgresError):
            await place.leave()

    async def _look(
        self, connection: asyncpg.Connection, silence: Silence
    ) -> tuple[list[asyncpg.Record], asyncpg.Record | None]:
        """The brokers that are dead, and one that lives.

        Dead is who has been silent for too long, and who has no session any more.
        """
        asked_at = self._clock.steady_s()
        brokers = await connection.fetch(SQL["live_brokers"], timeout=LOCK_TIMEOUT_S)
        answered_at = self._clock.steady_s()
        silence.forget_others({broker["incarnation"] for broker in brokers})
        dead: list[asyncpg.Record] = []
        for broker in brokers:
            self._history.beat(broker["incarnation"], broker["beats"])
            silent_s = silence.look(broker["incarnation"], take_over.sign(broker), asked_at, answered_at)
            if silent_s <= self._eviction_s and (
                # Else it may only have lost its heartbeat session.
                not broker["is_heartbeat_gone"] or await take_over.writers(connection, [broker["lock_id"]])
            ):
                return dead, broker
            dead.append(broker)
        return dead, None

    async def _lead(self, session: Session, dead: list[asyncpg.Record], place: Place | None) -> Incarnation | None:
        """Take over and begin to show life; None when there is somebody to wait for again."""
        heartbeat = Heartbeat(
            self._dsn,
            heartbeat_s=self._heartbeat_s,
            eviction_s=self._eviction_s,
            clock=self._clock,
            refuse_older=self._history.refuse_older,
            on_beat=self._on_beat,
            on_waiting=self._on_waiting,
            on_end=lambda reason, went_back, cause: self.end(reason, went_back=went_back, cause=cause),
            counts=self._counts,
            session_counts=self._storage_counts.session("heartbeat"),
        )
        incarnation: Incarnation | None = None
        try:
            # Before others see the row: one that lives without this lock looks as if its process had ended.
            newcomer = Newcomer(
                await heartbeat.claim(),
                self._here,
                waiting=0 if place is None else place.incarnation,
            )
            if await take_over.fence(session, dead):
                self._counts.fenced += len(dead)
                incarnation = await take_over.join(session, newcomer, self._history)
        finally:
            if incarnation is None:
                await heartbeat.stop(say_goodbye=False)
        if incarnation is not None:
            self._heartbeat = heartbeat
            self._beaten_at = self._clock.steady_s()
            heartbeat.begin(incarnation)
            after_another = bool(dead) or place is not None
            self._counts.joined(incarnation.epoch, after_another=after_another)
        return incarnation

    async def open_writer(self, kind: str) -> Session:
        """A session that may write for this incarnation. Raises Fenced, StorageError."""
        incarnation = self.incarnation
        assert incarnation is not None
        beats = self._history.beats  # before the row is read, so never more than it has to have
        try:
            session = await connect_writer(self._dsn, kind, incarnation.id, incarnation.lock_id, LOCK_TIMEOUT_S, beats)
        except Fenced as error:
            self.end(str(error), went_back=isinstance(error, WentBack), cause=cause_of(error))
            raise
        session.count_in(self._storage_counts.session(kind))
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
            self.end(str(error), cause=cause_of(error))
            raise

    def end(self, reason: str, *, went_back: bool = False, cause: Cause | None = None) -> None:
        """The incarnation is over. `went_back`: the database holds less than it did, so epochs and ids must jump."""
        self._history.went_back |= went_back
        if not self._ended:
            self._ended = True
            self._counts.over(cause or (Cause.HISTORY if went_back else Cause.FAILED))
            logger.warning("leadership ended", extra={"reason": reason})
            self._on_end(reason)

    def served(self) -> None:
        """Clients can connect from now on."""
        self._counts.served(self._clock.steady_s())

    def _on_beat(self, beats: int) -> None:
        assert self.incarnation is not None
        self._beaten_at = self._clock.steady_s()
        self._history.beat(self.incarnation.id, beats)
        self._counts.heartbeats += 1

    def _on_waiting(self, waiting: tuple[Peer, ...]) -> None:
        self.waiting = waiting

    async def leave(self, cause: Cause = Cause.STOPPED) -> None:
        """Say goodbye, so that the next broker need not wait. `cause` is for an incarnation that has not ended before."""
        if self._heartbeat is not None:
            await self._heartbeat.stop(say_goodbye=not self._ended)
        self._counts.over(cause)

    def abandon(self) -> None:
        """Drop everything at once."""
        self._ended = True
        if self._heartbeat is not None:
            self._heartbeat.abandon()
