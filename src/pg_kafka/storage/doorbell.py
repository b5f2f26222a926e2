"""How producers wake the relay, without a NOTIFY from each of their commits.

A lock says whether the relay sleeps. A producer tries to share it until the end of its transaction, which costs a microsecond;
only when it may not, because the relay holds the lock or waits for it, it notifies. So the relay asks for the lock before it
looks for the last time: who has committed before is found by that look, and whoever comes later notifies. Who has the lock
still is found when the relay gets it, if there is no more than one.

    await doorbell.hang()           ask for the lock
    doorbell.rung.clear()
    await doorbell.producers()      one at most, else look again after a moment
    ...                             one more look: nothing
    await doorbell.rung.wait()      a NOTIFY, or the lock, after whoever had it
    await doorbell.take_down()      producers need not notify any more

A transaction that has produced and stays open keeps the lock from the relay. Then the others notify, and nothing else changes.
Only of several such nobody tells when the first one ends. The request is never cancelled, which PostgreSQL would log as an
error: when the relay wakes before it has the lock, it gives the lock back as soon as it has it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg

from pg_kafka.storage import queries
from pg_kafka.storage.sessions import Session, unavailable

SQL = queries.load("outbox")

STATEMENT_TIMEOUT_S = 30.0
# Until the request stands in the queue of the lock, which takes microseconds.
QUEUE_POLL_S = 0.001


class Doorbell:
    """See the module. Has a session that waits for the lock; `other` is one that is free meanwhile."""

    def __init__(self, open_session: Callable[[str], Awaitable[Session]], other: Callable[[], Session]) -> None:
        self._open = open_session
        self._other = other
        self._session: Session | None = None
        self._request: asyncio.Task[None] | None = None  # waits for the lock
        self._is_wanted = False
        self._holds = False
        self.rung = asyncio.Event()

    async def open(self) -> None:
        """Raises StorageError, Fenced."""
        session = self._session = await self._open("relay bell")
        session.connection.add_termination_listener(lambda _connection: self.rung.set())

    def drop(self) -> None:
        self._holds = self._is_wanted = False
        request, self._request = self._request, None
        if request is not None:
            request.cancel()
        session, self._session = self._session, None
        if session is not None:
            session.drop()

    @property
    def holds(self) -> bool:
        """Nobody who has produced before is still open."""
        return self._holds

    async def hang(self) -> None:
        """Ask for the lock; returns when whoever comes is refused it."""
        request = self._request
        if request is not None and self._holds:
            await request  # which is giving the lock back
        self._is_wanted = True
        if self._request is not None:
            return  # it waits still
        connection = self._connection
        if await connection.fetchval(SQL["try_sleep"], timeout=STATEMENT_TIMEOUT_S):
            self._holds = True
            return
        request = self._request = asyncio.create_task(self._wait(connection), name="relay waits for producers")
        request.add_done_callback(_look_at)
        async with asyncio.timeout(STATEMENT_TIMEOUT_S):
            while not request.done():
                if await self._other().connection.fetchval(SQL["is_waiting"], self._pid):
                    return
                await asyncio.sleep(QUEUE_POLL_S)

    async def producers(self) -> int:
        """How many open transactions have produced and will not ring. None comes while the bell hangs.

        Raises StorageError, or what the request for the lock has failed with: then nobody rings any more.
        """
        _ = self._connection
        if self._request is not None and self._request.done():
            self._request.result()
        if self._holds:
            return 0
        found: int = await self._other().connection.fetchval(SQL["producers"], timeout=STATEMENT_TIMEOUT_S)
        return found

    async def _wait(self, connection: asyncpg.Connection) -> None:
        """Ends with the transactions that have the lock, or with the session, which rings as well."""
        await connection.execute(SQL["sleep"])
        self._holds = True
        if not self._is_wanted:
            await connection.execute(SQL["wake"], timeout=STATEMENT_TIMEOUT_S)
            self._holds = False
        self._request = None
        self.rung.set()

    async def take_down(self) -> None:
        """Give the lock back, now or as soon as it is had."""
        self._is_wanted = False
        if self._request is None and self._holds:
            await self._connection.execute(SQL["wake"], timeout=STATEMENT_TIMEOUT_S)
            self._holds = False

    @property
    def _connection(self) -> asyncpg.Connection:
        if self._session is None or self._session.is_closed:
            raise unavailable("the session of the relay's lock is closed")
        return self._session.connection

    @property
    def _pid(self) -> int:
        assert self._session is not None
        return self._session.identity.pid


def _look_at(waiting: asyncio.Task[None]) -> None:
    """The session may be dropped meanwhile, and then nobody else looks."""
    if not waiting.cancelled():
        waiting.exception()
