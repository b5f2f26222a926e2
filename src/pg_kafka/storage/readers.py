"""A few sessions for reading, which nothing but reads of the log uses; each user has a deadline of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import asyncpg

from pg_kafka.errors import StorageError
from pg_kafka.metrics import current
from pg_kafka.storage.backends import Backends
from pg_kafka.storage.counts import StorageCounts
from pg_kafka.storage.sessions import CONNECTION_ERRORS, Identity, Session, connect, failed, unavailable


class Readers:
    """A few sessions for reading, handed out one user at a time; a lost one is replaced when next needed."""

    def __init__(
        self,
        dsn: str,
        size: int,
        on_identity: Callable[[Identity], None],
        backends: Backends,
        counts: StorageCounts,
    ) -> None:
        self._dsn = dsn
        self._counts = counts.session("reader")
        self._backends = backends
        self._free: asyncio.Queue[Session | None] = asyncio.Queue()
        self._size = size
        self._on_identity = on_identity
        for _ in range(size):
            self._free.put_nowait(None)

    @contextlib.asynccontextmanager
    async def use(self, timeout_s: float) -> AsyncIterator[asyncpg.Connection]:
        """Lend a connection. Raises StorageError when none is free in time or the database cannot be reached."""
        with current.database():
            async with self._lent(timeout_s) as connection:
                yield connection

    @contextlib.asynccontextmanager
    async def _lent(self, timeout_s: float) -> AsyncIterator[asyncpg.Connection]:
        try:
            async with asyncio.timeout(timeout_s):
                session = await self._free.get()
        except TimeoutError:
            raise unavailable("all reading sessions are busy") from None
        try:
            if session is None or session.is_closed:
                session = None
                session = await connect(self._dsn, "reader")
                session.count_in(self._counts)
                self._on_identity(session.identity)
            self._backends.asked(session)
            try:
                async with asyncio.timeout(timeout_s):
                    yield session.connection
            except BaseException as error:
                if not isinstance(error, (asyncpg.PostgresError, StorageError)):
                    # A cancelled or broken exchange leaves the connection in an unknown state.
                    session.drop()
                if isinstance(error, (*CONNECTION_ERRORS, asyncpg.PostgresError)):
                    raise failed(error) from error
                raise
            finally:
                self._backends.answered(session)
        finally:
            self._free.put_nowait(session)

    def abandon(self) -> None:
        """Drop the free sessions at once."""
        for _ in range(self._free.qsize()):
            session = self._free.get_nowait()
            if session is not None:
                session.drop()
            self._free.put_nowait(None)

    async def close(self) -> None:
        while not self._free.empty():
            session = self._free.get_nowait()
            if session is not None:
                await session.close()
