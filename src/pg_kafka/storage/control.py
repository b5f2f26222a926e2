"""The writing session for rare statements: topics, settings, series. One statement at a time, each its own transaction.

A lost session is opened again for the next statement. A statement whose answer was lost is not repeated: its caller gets
StorageError and the client asks again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from pg_kafka.metrics import current
from pg_kafka.storage.backends import Backends
from pg_kafka.storage.sessions import CONNECTION_ERRORS, Fenced, Session, failed, unavailable

STATEMENT_TIMEOUT_S = 20.0
CLOSE_TIMEOUT_S = 5.0


class ControlSession:
    """Statements of the broker's incarnation outside the lanes."""

    def __init__(self, open_session: Callable[[str], Awaitable[Session]], backends: Backends | None = None) -> None:
        """Without `backends`, a backend that hangs is waited for without end."""
        self._open = open_session
        self._backends = backends
        self._session: Session | None = None
        self._lock = asyncio.Lock()
        self._listeners: dict[str, Callable[[], None]] = {}

    async def listen(self, channel: str, on_notify: Callable[[], None]) -> None:
        """Have a callback called for each NOTIFY on a channel, and when one may have been lost. Raises StorageError."""
        self._listeners[channel] = on_notify
        async with self._lock:
            session = self._session
            if session is None or session.is_closed:
                return  # the one that the next statement opens listens
            try:
                await _add_listener(session, channel, on_notify)
            except (asyncpg.PostgresError, *CONNECTION_ERRORS) as error:
                session.drop()
                raise failed(error) from error

    async def fetch(self, sql: str, *arguments: Any) -> list[asyncpg.Record]:
        """Run one statement and commit it. Raises StorageError."""
        statement = asyncio.create_task(self._run(sql, arguments), name="control statement")
        statement.add_done_callback(_look_at)
        try:
            # COMMIT alone has no deadline: a client's deadline ends its wait, not the statement. Not wait_for: before
            # Python 3.12 it forgets that its caller was cancelled when the statement ends in the same moment.
            with current.database():
                async with asyncio.timeout(STATEMENT_TIMEOUT_S):
                    return await asyncio.shield(statement)
        except TimeoutError:
            raise unavailable("the database did not answer in time") from None

    async def execute(self, sql: str, *arguments: Any) -> None:
        """As fetch, without rows."""
        await self.fetch(sql, *arguments)

    async def _run(self, sql: str, arguments: tuple[Any, ...]) -> list[asyncpg.Record]:
        async with self._lock:
            try:
                if self._session is None or self._session.is_closed:
                    self._session = await self._open("control")
                    for channel, on_notify in self._listeners.items():
                        await _add_listener(self._session, channel, on_notify)
                        on_notify()
                rows = await self._ask(self._session, sql, arguments)
            except Fenced as error:
                raise unavailable("this broker no longer leads") from error
            except CONNECTION_ERRORS as error:
                if self._session is not None:
                    self._session.drop()
                raise failed(error) from error
            except asyncpg.PostgresError as error:
                raise failed(error) from error
            if self._session.commit_in_doubt:
                self._session.drop()
                raise unavailable("the wait for a synchronous standby was cancelled")
            return rows

    async def _ask(self, session: Session, sql: str, arguments: tuple[Any, ...]) -> list[asyncpg.Record]:
        if self._backends is None:
            return await session.connection.fetch(sql, *arguments)
        self._backends.asked(session)
        try:
            return await session.connection.fetch(sql, *arguments)
        finally:
            self._backends.answered(session)

    async def close(self) -> None:
        """Finish the statement under way, if that does not take long, then close."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S), self._lock:
                if self._session is not None:
                    await self._session.close()
        except TimeoutError:
            if self._session is not None:
                self._session.drop()


def _look_at(statement: asyncio.Task[list[asyncpg.Record]]) -> None:
    """Whoever asked may be gone; then nobody else looks at what became of it."""
    if not statement.cancelled():
        statement.exception()


async def _add_listener(session: Session, channel: str, on_notify: Callable[[], None]) -> None:
    def call(*_: object) -> None:
        on_notify()

    async with asyncio.timeout(STATEMENT_TIMEOUT_S):
        await session.connection.add_listener(channel, call)
