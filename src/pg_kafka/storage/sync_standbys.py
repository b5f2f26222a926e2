"""Whether enough synchronous standbys are connected for acks=all (pg_kafka.min_sync_standbys).

Looked at in the background, never by a request; nothing is asked while the setting is 0. The session is its own: when a
standby is lost, every other one may wait in its COMMIT.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

import asyncpg

from pg_kafka.config.settings import Settings
from pg_kafka.errors import FatalError, StorageError
from pg_kafka.storage import queries, sessions
from pg_kafka.storage.sessions import CONNECTION_ERRORS, Session, describe

SQL = queries.load("settings")
logger = logging.getLogger("pg_kafka.standbys")

INTERVAL_S = 1.0
LOOK_TIMEOUT_S = 5.0


class SyncStandbys:
    """See the module. `are_enough` is what the last look has found."""

    def __init__(self, dsn: str, settings: Settings) -> None:
        self.are_enough = not settings.current.min_sync_standbys
        self.connected: int | None = None  # None: not known
        self._dsn = dsn
        self._settings = settings
        self._session: Session | None = None
        self._may_see = True
        self._changed = asyncio.Event()
        settings.watch(self._changed.set)

    @property
    def wanted(self) -> int:
        return self._settings.current.min_sync_standbys

    async def start(self) -> None:
        """Look for the first time. Raises FatalError when the role may not see the standbys."""
        if self.wanted:
            await self._look()
            if not self._may_see:
                raise FatalError(
                    "pg_kafka.min_sync_standbys needs to see the standbys:"
                    " GRANT pg_read_all_stats to the role of the broker, or set it to 0"
                )

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        try:
            while True:
                self._changed.clear()
                if self.wanted:
                    await self._look()
                else:
                    self._drop()
                    self._judge(None)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(INTERVAL_S if self.wanted else None):
                        await self._changed.wait()
        finally:
            self._drop()

    async def _look(self) -> None:
        connected: int | None = None
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                if self._session is None or self._session.is_closed:
                    self._session = await sessions.connect(self._dsn, "standbys")
                row = (await self._session.connection.fetch(SQL["sync_standbys"]))[0]
            if row["may_see"]:
                connected = row["connected"]
            elif self._may_see:
                logger.error("the role may not see standbys", extra={"wants": "pg_read_all_stats"})
            self._may_see = row["may_see"]
        except (TimeoutError, StorageError, FatalError, asyncpg.PostgresError, *CONNECTION_ERRORS) as error:
            logger.debug("cannot look at the standbys", extra={"reason": describe(error)})
            self._drop()
        self._judge(connected)

    def _judge(self, connected: int | None) -> None:
        """What is not known is not enough."""
        self.connected = connected
        are_enough = self.wanted <= (connected or 0)
        if are_enough != self.are_enough:
            self.are_enough = are_enough
            told = {"connected": connected, "limit": f"pg_kafka.min_sync_standbys = {self.wanted}"}
            if are_enough:
                logger.warning("enough synchronous standbys", extra=told)
            else:
                logger.warning("too few synchronous standbys: acks=all is refused", extra=told)

    def _drop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.drop()
