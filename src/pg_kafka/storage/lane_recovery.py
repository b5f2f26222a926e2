"""What a lane does when its sessions are lost: it learns what became of its commits, fails the rest, and opens new ones.

    sessions lost -> batches are refused, those whose COMMIT was not sent are answered
                  -> lost backends have ended (before that, what they were asked to write may still appear)
                  -> partitions are forgotten, each COMMIT in doubt is read back
                  -> two new sessions: the lane takes batches again

What must never happen here: an outcome that is read while a lost backend may still write.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import islice

import asyncpg

from pg_kafka.errors import StorageError
from pg_kafka.storage import locks
from pg_kafka.storage.backends import Backends
from pg_kafka.storage.counts import LaneCounts
from pg_kafka.storage.flight import Flight, Outcome
from pg_kafka.storage.lane_outcomes import Outcomes, UnderWay
from pg_kafka.storage.partition import AppendResult, Partition
from pg_kafka.storage.sessions import CONNECTION_ERRORS, Fenced, Session, describe, unavailable
from pg_kafka.storage.staging import Staging
from pg_kafka.storage.writes import STATEMENT_TIMEOUT_S, was_committed
from pg_kafka.wire.error_codes import ErrorCode

logger = logging.getLogger("pg_kafka.lane")

RESOLVE_TIMEOUT_S = 30.0
# Of the partitions of a transaction, in a log line.
_MOST_NAMED = 3
END_TIMEOUT_S = 10.0
# Clients get exact answers when the outcome is known within this time; then they are told that it is not.
DOUBT_S = 5.0
RECONNECT_DELAYS_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


@dataclass(slots=True)
class Readiness:
    """Whether a lane takes what is to be written."""

    event: asyncio.Event = field(default_factory=asyncio.Event)  # set: sessions are open and nothing is in doubt
    term: int = 0  # grows each time the lane starts over
    refusal: str | None = None  # why no batches are taken, while lost backends may still write
    is_stopping: bool = False


class Recovery:
    """See the module. `forget` is called for each partition whose state has to be loaded again."""

    def __init__(
        self,
        number: int,
        incarnation: int,
        staging: Staging,
        under_way: UnderWay,
        outcomes: Outcomes,
        readiness: Readiness,
        open_session: Callable[[str], Awaitable[Session]],
        backends: Backends,
        forget: Callable[[Partition], None],
        counts: LaneCounts,
    ) -> None:
        self._counts = counts
        self._number = number
        self._incarnation = incarnation
        self._staging = staging
        self._under_way = under_way
        self._outcomes = outcomes
        self._readiness = readiness
        self._open_session = open_session
        self._backends = backends
        self._forget = forget
        self._touched: dict[Partition, None] = {}  # their state has to be loaded again
        self.sessions: list[Session] = []  # the lane's; two when it is ready

    async def open(self) -> None:
        """Open the sessions. Raises StorageError or Fenced."""
        while len(self.sessions) < 2:
            self.sessions.append(await self._open_session(f"lane {self._number}"))
        self._readiness.event.set()

    async def run(self) -> None:
        """Start over with new sessions, however often it takes. Raises Fenced."""
        lost = list(self.sessions)
        for session in lost:
            session.drop()
            self._backends.answered(session)
        await self._take_known_outcomes()
        self.sessions.clear()
        self._refuse("the connection to the database was lost")
        # While the outcome is not known, clients do not wait for it: they ask again, and are refused until it is.
        doubtful: list[Flight] | None = None
        in_doubt = asyncio.get_running_loop().call_later(
            DOUBT_S, lambda: self._admit_doubt([*self._under_way.written, *(doubtful or ())])
        )
        attempt = 0
        try:
            while True:
                try:
                    await self._end_backends(lost)
                    if doubtful is None:
                        doubtful = self.break_off("the connection to the database was lost", in_doubt=True)
                    await self._resolve(doubtful)
                    await self.open()
                    self._outcomes.finish_broken_controls()
                    logger.warning("lane recovered", extra=self._extra())
                    self._counts.recovered += 1
                    return
                except Fenced:
                    self._give_up(doubtful)
                    raise
                except (*CONNECTION_ERRORS, asyncpg.PostgresError, StorageError) as error:
                    logger.warning("lane cannot reconnect", extra=self._extra(error))
                    self._counts.unreachable += 1
                    for session in self.sessions:
                        session.drop()
                    self.sessions.clear()
                if self._readiness.is_stopping:
                    self._give_up(doubtful)
                    return
                await asyncio.sleep(RECONNECT_DELAYS_S[min(attempt, len(RECONNECT_DELAYS_S) - 1)])
                attempt += 1
        finally:
            in_doubt.cancel()

    async def _take_known_outcomes(self) -> None:
        """Some commits were answered before the sessions were lost."""
        for flight in self._under_way.written:
            commit = flight.commit
            if commit is not None:
                # Its connection is closed, so the task ends now; its outcome, if any, is read back later.
                await asyncio.wait([commit], timeout=STATEMENT_TIMEOUT_S)
            if commit is not None and commit.done() and not commit.cancelled() and commit.exception() is None:
                flight.outcome = Outcome.COMMITTED
        giant = self._under_way.giant
        if giant is not None and giant.outcome is Outcome.COMMITTED:
            self._under_way.giant = None
            self._staging.release()
            self._outcomes.apply(giant)
        queue = self._under_way.queue
        while queue and queue[0].outcome is Outcome.COMMITTED:
            self._outcomes.apply(queue.popleft())

    def break_off(self, why: str, *, in_doubt: bool) -> list[Flight]:
        """Answer everything queued with a retriable error and forget the partitions; returns what is in doubt."""
        self._readiness.event.clear()
        self._readiness.term += 1
        result = AppendResult(ErrorCode.KAFKA_STORAGE_ERROR, message=why)
        doubtful: list[Flight] = []
        touched, self._touched = self._touched, {}
        for flight in self._under_way.written:
            touched.update(dict.fromkeys(flight.parts))
            if flight.outcome is Outcome.COMMITTING and in_doubt:
                doubtful.append(flight)
            else:
                self._outcomes.fail(flight, result)
        self._under_way.queue.clear()
        self._under_way.giant = None
        building, self._under_way.building = self._under_way.building, None
        if building is not None:
            self._outcomes.fail(building, result)
            for partition in building.parts:
                touched[partition] = None
                self._staging.fail_pending(partition, result)
        touched.update(dict.fromkeys(self._staging.fail_all(result)))
        for partition in touched:
            self._forget(partition)
        self._readiness.refusal = None
        return doubtful

    def _refuse(self, why: str) -> None:
        """Take no batches, and answer those whose COMMIT was not sent. Partitions stay readable, the journals' writes wait."""
        self._readiness.refusal = why
        written, building = self._under_way.written, self._under_way.building
        self._staging.may_come_again(written)
        result = AppendResult(ErrorCode.KAFKA_STORAGE_ERROR, message=why)
        self._touched.update(dict.fromkeys(self._staging.fail_appends(result)))
        unsent = [flight for flight in written if flight.outcome is Outcome.OPEN]
        self._outcomes.answer_early([*unsent, *([building] if building is not None else [])], result)

    def _admit_doubt(self, doubtful: list[Flight]) -> None:
        """The outcome may not be known for long: tell producers that nobody knows, which has them send again."""
        message = "the database does not say whether it was written"
        self._outcomes.answer_early(doubtful, AppendResult(ErrorCode.REQUEST_TIMED_OUT, message=message))

    def _give_up(self, doubtful: list[Flight] | None) -> None:
        """The lane ends before the outcome could be known, so say what makes the client ask again."""
        if doubtful is None:
            doubtful = self.break_off("stopped before the outcome was known", in_doubt=True)
        for flight in doubtful:
            self._outcomes.fail(
                flight,
                AppendResult(ErrorCode.REQUEST_TIMED_OUT, message="stopped before the outcome was known"),
            )
        doubtful.clear()
        self._outcomes.end_controls("stopped before the outcome of a commit was known")

    async def _end_backends(self, lost: list[Session]) -> None:
        """Make sure that the lost backends are gone: before that, what they were asked to write may still appear."""
        if not self.sessions:
            self.sessions.append(await self._open_session(f"lane {self._number}"))
        own = self.sessions[0]
        for session in list(lost):
            if session.identity.started_at == own.identity.started_at:
                number, pid = session.lock_id, session.identity.pid
                assert number is not None
                try:
                    async with asyncio.timeout(END_TIMEOUT_S):
                        await locks.wait_until_ended(own.connection, number, pid, spares_commits=True)
                except TimeoutError:
                    logger.error("a lost backend does not end", extra=self._extra() | {"pid": pid})
                    raise unavailable(f"the backend {pid} does not end") from None
            lost.remove(session)

    async def _resolve(self, doubtful: list[Flight]) -> None:
        """Read back what the lost backends committed.

        The session's own commits of the reads come after it opened as a writer, so it sees all that they did.
        """
        async with asyncio.timeout(RESOLVE_TIMEOUT_S):
            while doubtful:
                flight = doubtful[0]
                if await was_committed(self.sessions[0], self._incarnation, flight):
                    logger.warning("commit in doubt did happen", extra=self._extra() | _about(flight))
                    self._counts.doubts_committed += 1
                    flight.outcome = Outcome.COMMITTED
                    doubtful.pop(0)
                    self._staging.need_not_come_again(flight)
                    self._outcomes.apply(flight)
                else:
                    logger.warning("commit in doubt did not happen", extra=self._extra() | _about(flight))
                    self._counts.doubts_lost += 1
                    doubtful.pop(0)
                    self._outcomes.fail(
                        flight, AppendResult(ErrorCode.KAFKA_STORAGE_ERROR, message="the commit did not happen")
                    )

    def _extra(self, error: BaseException | None = None) -> dict[str, object]:
        """Fields of a log line."""
        return {"lane": self._number} | ({"error": describe(error)} if error else {})


def _about(flight: Flight) -> dict[str, object]:
    """Fields of a log line: how much was in a transaction, and of which partitions the first few."""
    named = [f"{partition.topic.name}-{partition.index}" for partition in islice(flight.parts, _MOST_NAMED)]
    more = f" and {len(flight.parts) - _MOST_NAMED} more" if len(flight.parts) > _MOST_NAMED else ""
    batches = sum(len(part.appends) for part in flight.parts.values())
    return {"partitions": ",".join(named) + more, "batches": batches, "groups": len(flight.journal_parts)}
