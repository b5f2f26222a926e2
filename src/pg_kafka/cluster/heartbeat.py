"""The heartbeat of a broker: a thread with an event loop and a database session of its own.

It shows life for as long as the broker's event loop has turned within the last HANG_S. So a request that takes seconds of
the loop's time costs no leadership, and a loop that hangs for ever does. The rest of the membership stays on the broker's
loop; all that the thread finds out is told there, by callbacks.

    heartbeat = Heartbeat(dsn, ...)
    number = await heartbeat.claim()    the thread's session holds the heartbeat's lock
    heartbeat.begin(incarnation)        once the incarnation is committed
    await heartbeat.stop(say_goodbye=True)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable

import asyncpg

from pg_kafka.clock import Clock
from pg_kafka.cluster.counts import Cause, ClusterCounts, cause_of
from pg_kafka.cluster.incarnation import Incarnation
from pg_kafka.cluster.silence import Silence
from pg_kafka.cluster.view import Peer
from pg_kafka.errors import StorageError
from pg_kafka.storage import locks, queries
from pg_kafka.storage.counts import SessionCounts
from pg_kafka.storage.sessions import (
    CONNECTION_ERRORS,
    Fenced,
    Identity,
    Session,
    WentBack,
    check_live,
    connect,
    describe,
    unavailable,
)
from pg_kafka.storage.sessions import (
    SQL as SESSION_SQL,
)

SQL = queries.load("cluster")
logger = logging.getLogger("pg_kafka.membership")

# A loop that has not turned for so long serves nobody; who waits may take over.
HANG_S = 10.0
CLAIM_TIMEOUT_S = 10.0
MIN_STATEMENT_S = 1.0
GOODBYE_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 10.0


class Heartbeat:
    """The callbacks run on the loop that made this: `on_beat(beats)`, `on_waiting(brokers that wait)`, and at most once
    `on_end(reason, went_back, cause)`.
    """

    def __init__(
        self,
        dsn: str,
        *,
        heartbeat_s: float,
        eviction_s: float,
        clock: Clock,
        refuse_older: Callable[[Identity], None],
        on_beat: Callable[[int], None],
        on_waiting: Callable[[tuple[Peer, ...]], None],
        on_end: Callable[[str, bool, Cause], None],
        counts: ClusterCounts,
        session_counts: SessionCounts,
    ) -> None:
        self._counts = counts
        self._session_counts = session_counts
        self._dsn = dsn
        self._heartbeat_s = heartbeat_s
        self._eviction_s = eviction_s
        self._clock = clock
        self._refuse_older = refuse_older  # looks at what no longer changes
        self._on_beat = on_beat
        self._on_waiting = on_waiting
        self._on_end = on_end
        self._main = asyncio.get_running_loop()
        self._claimed: asyncio.Future[int] = self._main.create_future()
        self._ended = asyncio.Event()  # the thread has come to its end
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._turned_at = self._clock.steady_s()
        self.is_silent = False  # the loop hangs, and no heartbeat is under way
        # The thread's own; set before the number is told, and afterwards used from outside by call_soon_threadsafe alone.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._begun: asyncio.Future[Incarnation] | None = None
        self._session: Session | None = None
        self._lost: Session | None = None
        self._says_goodbye = False
        self._is_stopped = False
        self._silence = Silence()
        self._waiting: tuple[Peer, ...] = ()

    # On the broker's loop

    async def claim(self) -> int:
        """Start the thread; its session holds the lock with the number that is returned. Raises StorageError."""
        self._thread.start()
        try:
            async with asyncio.timeout(CLAIM_TIMEOUT_S):
                return await asyncio.shield(self._claimed)
        except TimeoutError:
            raise unavailable("the heartbeat's session could not be opened in time") from None

    def begin(self, incarnation: Incarnation) -> None:
        """Show life from now on."""
        self._turned()
        self._call(self._begin, incarnation)

    async def stop(self, *, say_goodbye: bool) -> None:
        """End the thread within a bounded time; with a goodbye, the next broker need not wait."""
        if not self._thread.ident:
            return
        self._is_stopped = True  # for a thread that has not come to its loop yet
        self._call(self._stop, say_goodbye)
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._ended.wait()
        except TimeoutError:
            logger.warning("the heartbeat's thread does not end", extra={"waited_s": STOP_TIMEOUT_S})

    def abandon(self) -> None:
        """Drop its session, as if the process had been killed."""
        self._is_stopped = True  # for a thread that has not come to its loop yet
        self._call(self._stop, False)

    def _call(self, callback: Callable[..., None], *arguments: object) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # its loop is closed: the thread has ended
                self._loop.call_soon_threadsafe(callback, *arguments)

    def _turned(self) -> None:
        self._turned_at = self._clock.steady_s()

    def _set_claimed(self, number: int | None, error: BaseException | None) -> None:
        if self._claimed.done():
            return
        if error is not None:
            self._claimed.set_exception(error)
            self._claimed.exception()  # whoever asked may be gone
        elif number is not None:
            self._claimed.set_result(number)

    # In the thread

    def _tell(self, callback: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the broker's loop is closed: the process ends
            self._main.call_soon_threadsafe(callback, *arguments)

    def _run(self) -> None:
        try:
            asyncio.run(self._work())
        except (StorageError, asyncio.CancelledError) as error:
            self._tell(self._set_claimed, None, error)
        except BaseException as error:
            logger.error("background task failed", exc_info=error, extra={"task": "heartbeat"})
            self._tell(self._set_claimed, None, error)
            self._tell(self._on_end, "the task heartbeat failed", False, Cause.FAILED)
        finally:
            self._tell(self._ended.set)

    async def _work(self) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        self._begun = self._loop.create_future()
        incarnation: Incarnation | None = None
        if self._is_stopped:
            return
        try:
            session = self._session = await connect(self._dsn, "heartbeat")
            session.count_in(self._session_counts)
            try:
                async with asyncio.timeout(CLAIM_TIMEOUT_S):
                    session.lock_id = await locks.take_number(session.connection)
            except (*CONNECTION_ERRORS, asyncpg.PostgresError) as error:
                raise unavailable(f"the heartbeat's session could not be opened: {describe(error)}") from error
            self._tell(self._set_claimed, session.lock_id, None)
            incarnation = await self._begun
            await self._beat(incarnation)
        finally:
            await self._close(incarnation)

    def _begin(self, incarnation: Incarnation) -> None:
        if self._begun is not None and not self._begun.done():
            self._begun.set_result(incarnation)

    def _stop(self, say_goodbye: bool) -> None:
        self._says_goodbye = say_goodbye
        if self._task is not None:
            self._task.cancel()

    async def _close(self, incarnation: Incarnation | None) -> None:
        session, self._session = self._session, None
        if session is None:
            return
        if not self._says_goodbye or incarnation is None or session.is_closed:
            session.drop()
            return
        with contextlib.suppress(*CONNECTION_ERRORS, asyncpg.PostgresError):
            await session.connection.execute(SQL["leave"], incarnation.id, timeout=GOODBYE_TIMEOUT_S)
        await session.close()

    async def _beat(self, incarnation: Incarnation) -> None:
        """Count up each second, until the incarnation is over; open the session again when it is lost."""
        beats = 0
        shown_at = self._clock.steady_s()  # when the last heartbeat that others can have seen began
        while True:
            self._tell(self._turned)
            hangs_s = self._clock.steady_s() - self._turned_at
            if hangs_s > HANG_S:
                if not self.is_silent:
                    logger.error(
                        "the event loop hangs, so the broker shows no life", extra={"hangs_s": f"{hangs_s:.0f}"}
                    )
                self.is_silent = True
                await asyncio.sleep(self._heartbeat_s)
                continue
            self.is_silent = False
            try:
                left_s = max(shown_at + self._eviction_s - self._clock.steady_s(), MIN_STATEMENT_S)
                async with asyncio.timeout(left_s):
                    if self._session is None or self._session.is_closed:
                        self._session = await self._reopen(incarnation, beats)
                    begun_at = self._clock.steady_s()
                    beats = await self._count(self._session.connection, incarnation, beats)
                    shown_at = begun_at
                    self._tell(self._on_beat, beats)
                    await self._look(self._session.connection)
            except Fenced as error:
                self._tell(self._on_end, str(error), isinstance(error, WentBack), cause_of(error))
                return
            except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError) as error:
                # Somebody replaces what the log is kept in; what is there afterwards is not what we know.
                self._tell(self._on_end, describe(error), True, Cause.HISTORY)
                return
            except (*CONNECTION_ERRORS, asyncpg.PostgresError, StorageError) as error:
                self._counts.heartbeats_failed += 1
                logger.warning("heartbeat failed", extra={"error": describe(error)})
                if self._session is not None:
                    self._session.drop()
                    self._lost, self._session = self._session, None
                if self._waiting and self._clock.steady_s() - shown_at >= self._eviction_s:
                    # Another broker may lead by now, and clients that only read here would never find it.
                    self._tell(self._on_end, "the heartbeat is late, and another broker waits", False, Cause.LATE)
                    return
            await asyncio.sleep(self._heartbeat_s)

    async def _count(self, connection: asyncpg.Connection, incarnation: Incarnation, beats: int) -> int:
        """One heartbeat; the number of all. Raises Fenced, WentBack."""
        count: int | None = await connection.fetchval(SQL["heartbeat"], incarnation.id, beats)
        if count is None:
            check_live(
                await connection.fetchrow(SESSION_SQL["incarnation_status"], incarnation.id), incarnation.id, beats
            )
            raise Fenced(f"incarnation {incarnation.id} was fenced")
        return count

    async def _look(self, connection: asyncpg.Connection) -> None:
        """Find out who waits, and remove those that have ended or stand still."""
        asked_at = self._clock.steady_s()
        rows = await connection.fetch(SQL["waiting_brokers"])
        answered_at = self._clock.steady_s()
        self._silence.forget_others({row["incarnation"] for row in rows})
        waiting, dead = [], []
        for row in rows:
            sign = (row["beats"], row["seen_at"])
            silent_s = self._silence.look(row["incarnation"], sign, asked_at, answered_at)
            if row["is_heartbeat_gone"] or silent_s > self._eviction_s:
                dead.append(row["incarnation"])
            else:
                waiting.append(Peer.of(row))
        if dead:
            await connection.fetch(SQL["drop_waiting"], dead)
        if tuple(waiting) != self._waiting:
            self._waiting = tuple(waiting)
            self._tell(self._on_waiting, self._waiting)

    async def _reopen(self, incarnation: Incarnation, beats: int) -> Session:
        session = await connect(self._dsn, "heartbeat")
        session.count_in(self._session_counts)
        try:
            self._refuse_older(session.identity)
            incarnation.check_identity(session.identity)
            row = await session.connection.fetchrow(SESSION_SQL["incarnation_status"], incarnation.id)
            check_live(row, incarnation.id, beats)
            await self._lock(session.connection, incarnation.heartbeat_lock_id)
        except BaseException:
            session.drop()
            raise
        return session

    async def _lock(self, connection: asyncpg.Connection, number: int) -> None:
        """Hold the heartbeat's lock again, or go on without it when a stranger has it: it is only for a fast take-over."""
        if self._lost is not None:
            # The server may not know yet that the connection of the one before is gone.
            await locks.wait_until_ended(connection, number, self._lost.identity.pid)
        while not await connection.fetchval(SESSION_SQL["try_lock_exclusive"], number):
            others = [user for user in await locks.users(connection, [number]) if not user["may_write"]]
            if others:
                locks.warn(others)
                return
            await asyncio.sleep(locks.CHECK_S)  # a broker that waits, for a moment, or a session of our own that ends
