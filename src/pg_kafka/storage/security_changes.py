"""Follows who may do what (users and the like), on brokers that lead and on those that wait.

It has a session of its own: the one that follows topics may be busy for minutes with a segment, and a user who is removed
is to be cut off within two seconds.

    following = SecurityChanges(dsn, [users.follow], on_death)
    await following.start()     all has been read once
    following.look_soon()       something has been changed here
    await following.stop()
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence

import asyncpg

from pg_kafka.errors import StorageError
from pg_kafka.storage.catalogue_changes import Apply, CatalogueChanges, Change
from pg_kafka.storage.sessions import CONNECTION_ERRORS, Session, connect, failed
from pg_kafka.tasks import supervised

logger = logging.getLogger("pg_kafka.security")

# Nothing tells: NOTIFY takes a lock of the whole server. One cheap query asks.
LOOK_S = 0.5
LOOK_TIMEOUT_S = 10.0
RECONNECT_S = 1.0

Follow = Callable[[asyncpg.Connection, Sequence[Change] | None], Awaitable[None]]
"""Takes over what has changed; None: whatever it was. Raises as the driver does."""


class SecurityChanges:
    """While the database cannot be asked, what was read last holds."""

    def __init__(self, dsn: str, followers: Sequence[Follow], on_death: Callable[[str], None]) -> None:
        self._dsn = dsn
        self._followers = followers
        self._others: list[Apply] = []
        self._on_death = on_death
        self._changes = CatalogueChanges()
        self._session: Session | None = None
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read everything, and follow from now on. Raises StorageError."""
        await self._look()
        self._task = supervised(self._run(), "follow users", self._on_death)

    def add(self, apply: Apply) -> None:
        """One more to be told, with a way of its own to the database. What it misses before this it has to read itself."""
        self._others.append(apply)

    def look_soon(self) -> None:
        self._wanted.set()

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._session is not None:
            self._session.drop()

    async def _run(self) -> None:
        is_lost = False
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RECONNECT_S if is_lost else LOOK_S):
                    await self._wanted.wait()
            self._wanted.clear()
            try:
                await self._look()
            except StorageError as error:
                if not is_lost:
                    logger.warning("cannot follow users; they stay as they are", extra={"reason": error.message})
                is_lost = True
            else:
                is_lost = False

    async def _look(self) -> None:
        try:
            if self._session is None or self._session.is_closed:
                self._session = await connect(self._dsn, "security")
                self._changes = CatalogueChanges()  # it may be another server: read all
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                await self._changes.follow(self._session.connection, self._apply)
        except (*CONNECTION_ERRORS, asyncpg.PostgresError) as error:
            if self._session is not None:
                self._session.drop()
            raise failed(error) from error

    async def _apply(self, changes: Sequence[Change] | None) -> None:
        assert self._session is not None
        for follow in self._followers:
            await follow(self._session.connection, changes)
        for apply in self._others:
            await apply(changes)
