"""Notices a session whose backend does not answer: says what it waits for, and gives it up after a time.

A statement that waits for a lock or a slow disk ends some day. A process that was stopped, or whose disk is dead, does not,
and nothing on the connection tells the two apart. So another session asks PostgreSQL:

    after NOTICE_S     a log line says what the backend waits for and who blocks it
    after the timeout  if the session writes, the backend's termination is asked for and the connection is dropped, so that
                       whoever waits sees a lost connection; what became of a COMMIT is then for the lane to find out

A backend that waits for a synchronous standby is left alone however long that takes: its commit stands already, on this
server only, and ending the wait would not bring it to the standby.
"""

from __future__ import annotations

import asyncio
import logging

from pg_kafka.errors import FatalError, StorageError
from pg_kafka.storage import queries, sessions
from pg_kafka.storage.counts import StorageCounts
from pg_kafka.storage.sessions import Session

SQL = queries.load("sessions")
logger = logging.getLogger("pg_kafka.backends")

NOTICE_S = 5.0
REPEAT_S = 60.0
ASK_TIMEOUT_S = 10.0


class Backends:
    """See the module. `asked` and `answered` enclose what a session is asked; they cost a dictionary entry each."""

    def __init__(self, dsn: str, timeout_s: float, counts: StorageCounts | None = None) -> None:
        self._dsn = dsn
        self._counts = counts or StorageCounts()
        self._timeout_s = timeout_s
        self._notice_s = min(NOTICE_S, timeout_s)
        self._since: dict[Session, float] = {}
        self._watches: dict[Session, asyncio.Task[None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def asked(self, session: Session) -> None:
        """Something goes out to the session's backend, or it has shown that it goes on."""
        loop = asyncio.get_running_loop()
        self._since[session] = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self._notice_s, self._look)

    def answered(self, session: Session) -> None:
        """The backend has answered, or its connection is closed."""
        self._since.pop(session, None)
        watch = self._watches.get(session)
        if watch is not None:
            watch.cancel()
            if not session.is_closed:
                logger.warning("a backend answers again", extra=_names(session))

    @property
    def hanging(self) -> int:
        """Sessions whose backends have not answered for seconds."""
        return len(self._watches)

    def close(self) -> None:
        """Look at nothing any more."""
        self._since.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for watch in self._watches.values():
            watch.cancel()

    def _look(self) -> None:
        """One timer for all: it is set when something goes out, and again while there are answers to wait for."""
        self._timer = None
        if not self._since:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        next_at = now + self._notice_s
        for session, since in self._since.items():
            if since + self._notice_s > now:
                next_at = min(next_at, since + self._notice_s)
            elif session not in self._watches:
                watch = self._watches[session] = asyncio.create_task(self._watch(session), name="watch a backend")
                watch.add_done_callback(lambda watch, session=session: self._watched(watch, session))  # type: ignore[misc]
        self._timer = loop.call_at(next_at, self._look)

    def _watched(self, watch: asyncio.Task[None], session: Session) -> None:
        del self._watches[session]
        if not watch.cancelled() and (error := watch.exception()) is not None:
            logger.error("a backend cannot be watched", exc_info=error)
            session.drop()  # whoever waits starts over rather than wait unwatched

    def _waited_s(self, session: Session) -> float:
        since = self._since.get(session)
        return 0.0 if since is None else asyncio.get_running_loop().time() - since

    async def _watch(self, session: Session) -> None:
        extra = _names(session)
        counts = self._counts.session(session.kind)
        is_new = True
        while True:
            facts = await self._ask(session)
            waited_s = self._waited_s(session)
            if waited_s < self._notice_s:
                return  # it goes on
            counts.hangs += is_new
            is_new = False
            facts |= {"waited_s": round(waited_s, 1)}
            if facts.get("waits_for") == "IPC/SyncRep":
                logger.warning("a commit waits for a synchronous standby", extra=extra | facts)
                pause_s = REPEAT_S
            elif session.lock_id is None:
                logger.warning("a backend does not answer", extra=extra | facts)
                pause_s = REPEAT_S  # whoever reads has a deadline
            elif waited_s >= self._timeout_s:
                logger.error("a backend did not answer in time and is given up", extra=extra | facts)
                counts.given_up += 1
                await self._give_up(session)
                return
            else:
                logger.warning("a backend does not answer", extra=extra | facts)
                pause_s = self._timeout_s - waited_s
            await asyncio.sleep(pause_s)

    async def _ask(self, session: Session) -> dict[str, object]:
        """What PostgreSQL says of a session's backend."""
        try:
            async with sessions.opened(self._dsn, "check", timeout_s=ASK_TIMEOUT_S) as connection:
                row = await connection.fetchrow(SQL["backend_activity"], session.identity.pid)
        except (StorageError, FatalError) as error:
            return {"error": str(error)}
        if row is None:
            return {"state": "gone"}
        facts: dict[str, object] = {"state": row["state"], "waits_for": row["waits_for"]}
        return facts | ({"blocked_by": row["blocked_by"]} if row["blocked_by"] else {})

    async def _give_up(self, session: Session) -> None:
        try:
            async with sessions.opened(self._dsn, "check", timeout_s=ASK_TIMEOUT_S) as connection:
                await connection.fetch(SQL["terminate_lost"], session.lock_id, session.identity.pid)
        except (StorageError, FatalError):
            pass  # whoever starts over asks again
        finally:
            session.drop()


def _names(session: Session) -> dict[str, object]:
    """Fields of a log line."""
    return {"session": session.kind, "pid": session.identity.pid}
