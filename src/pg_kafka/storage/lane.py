"""A lane: one queue, one task, two sessions; the only writer of the partitions and groups that belong to it.

It takes all that has queued while the last commit was on its way and writes it as one transaction (group commit). While
that one is flushed, the second session may load the next; it commits only after the first has. Offsets are given out when
a transaction is built, in queue order, and become real on its commit, together with the producers' sequence state. What
groups write to their journals goes the same way. A giant, a batch that is a transaction by itself, is loaded and committed on
the second session, beside transactions of other partitions.

When a backend does not end, the lane takes nothing more until it has: its partitions stay readable, what groups write waits.

What must never happen here: an answer before its commit, a COMMIT that is cancelled or timed, a retry after 23505.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

import asyncpg

from pg_kafka.errors import StorageError
from pg_kafka.storage import queries, staging
from pg_kafka.storage.backends import Backends
from pg_kafka.storage.bundles import Bundle
from pg_kafka.storage.counts import LaneCounts
from pg_kafka.storage.flight import (
    GLOBAL_BLOCK,
    Control,
    Flight,
    Outcome,
    Share,
    halves,
    move,
    named_culprit,
    shares_of,
)
from pg_kafka.storage.journal import JournalWrite, not_written
from pg_kafka.storage.lane_outcomes import Outcomes, UnderWay, finish_controls
from pg_kafka.storage.lane_recovery import Readiness, Recovery
from pg_kafka.storage.partition import Append, AppendResult, Partition
from pg_kafka.storage.sessions import (
    CONNECTION_ERRORS,
    Fenced,
    Session,
    describe,
    is_data_error,
)
from pg_kafka.storage.staging import Shared, Staging
from pg_kafka.storage.writes import (
    STATEMENT_TIMEOUT_S,
    StorageLost,
    check_doubt,
    commit,
    copy,
    write_statements,
)
from pg_kafka.wire.error_codes import ErrorCode

SQL = queries.load("log")
GROUPS_SQL = queries.load("groups")
logger = logging.getLogger("pg_kafka.lane")

# Up to this a COPY, or INSERT, that is its own transaction is cheaper than BEGIN, COPY and COMMIT.
ALONE_BYTES = 256 * 1024
# Below this much queued data, loading beside a flush only splits what one later transaction would hold.
OVERLAP_BYTES = 128 * 1024


class Owner(staging.Owner, Protocol):
    """The log that a lane belongs to."""

    def forget(self, partition: Partition) -> None:
        """Its state has to be loaded again."""

    def fenced(self, reason: str) -> None:
        """The incarnation is over."""


class Lane:
    """See the module. `run` is the task; it ends only by stop() or when the incarnation is fenced."""

    def __init__(
        self,
        number: int,
        owner: Owner,
        shared: Shared,
        incarnation: int,
        on_journal_growth: Callable[[int], None],
        open_session: Callable[[str], Awaitable[Session]],
        backends: Backends,
        *,
        checkpoint_bytes: int,
        checkpoint_ms: int,
        counts: LaneCounts,
    ) -> None:
        self.number = number
        self._owner = owner
        self._backends = backends
        self._counts = counts
        self._commit = shared.commit
        self._under_way = UnderWay()
        self._staging = Staging(
            owner,
            shared,
            self._under_way.queue,
            checkpoint_bytes=checkpoint_bytes,
            checkpoint_ms=checkpoint_ms,
        )
        self._outcomes = Outcomes(number, self._staging, on_journal_growth, shared.commit, counts)
        self._readiness = Readiness()
        self._recovery = Recovery(
            number,
            incarnation,
            self._staging,
            self._under_way,
            self._outcomes,
            self._readiness,
            open_session,
            backends,
            owner.forget,
            counts,
        )
        self._sessions = self._recovery.sessions
        self._checkpoint_timer: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()

    @property
    def ready(self) -> asyncio.Event:
        """Set while sessions are open and nothing is in doubt."""
        return self._readiness.event

    @property
    def term(self) -> int:
        """Grows each time the lane starts over."""
        return self._readiness.term

    @property
    def queued_bytes(self) -> int:
        """What waits for a transaction, giants included."""
        return self._staging.bytes + self._staging.giant_bytes

    @property
    def queued_records(self) -> int:
        """Records of that."""
        return self._staging.queued_records

    @property
    def under_way(self) -> int:
        """Transactions that are written and whose outcome is not settled."""
        return len(self._under_way.written)

    # -- the queue ---------------------------------------------------------------------------------------------------

    def append(self, partition: Partition, append: Append) -> None:
        """Queue a batch, or answer at once when the lane cannot write now."""
        readiness = self._readiness
        if partition.is_closed or not self._is_open or readiness.refusal is not None:
            code = ErrorCode.NOT_LEADER_OR_FOLLOWER if partition.is_closed else ErrorCode.KAFKA_STORAGE_ERROR
            message = readiness.refusal or "the partition cannot be written now"
            self._staging.answer(append, AppendResult(code, message=message))
            return
        self._staging.add(partition, append)
        self._wake.set()

    def write_journal(self, write: JournalWrite) -> StorageError | None:
        """Queue what a group or transactional id writes; or the error, when it is refused and will have no other answer."""
        if not self._is_open:
            return not_written("groups cannot be written now")
        refusal = self._staging.journal.add(write)
        self._wake.set()
        return refusal

    def write_bundle(self, bundle: Bundle) -> StorageError | None:
        """Queue what is written whole; or the error, when it is refused and will have no other answer."""
        if not self._is_open:
            return not_written("the lane cannot write now")
        refusal = self._staging.journal.add(bundle)
        self._wake.set()
        return refusal

    @property
    def _is_open(self) -> bool:
        return self._readiness.event.is_set() and not self._readiness.is_stopping

    async def settle_journal(self) -> None:
        """Wait until every write to the journals has its answer."""
        await self._staging.journal.settle()

    async def control(self, apply: Callable[[], None]) -> None:
        """Run `apply` between two transactions; returns when those before it are committed or failed, none in doubt.

        Raises StorageError when the lane ends.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._staging.controls.append(Control(apply, done))
        self._wake.set()
        await done

    def write_checkpoint(self, partition: Partition) -> None:
        """Write a partition's checkpoint with the next transaction, whether it has changed or not."""
        self._staging.checkpoints_due[partition] = None
        self._wake.set()

    def close_topic(self, topic_id: int) -> None:
        """For control(): fail what a topic has queued and take no more from it."""
        self._staging.close_topic(topic_id)

    def reopen_topic(self, topic_id: int) -> None:
        self._staging.reopen_topic(topic_id)

    # -- the task ----------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the sessions. Raises StorageError or Fenced."""
        await self._recovery.open()

    async def run(self) -> None:
        """Write until stopped. Connection and resource errors fail what is queued, retriably, and start over."""
        while True:
            try:
                await self._serve()
                return
            except Fenced as error:
                self._recovery.break_off("the broker was fenced", in_doubt=False)
                self._outcomes.end_controls("the broker was fenced")
                self._owner.fenced(str(error))
                return
            except (*CONNECTION_ERRORS, asyncpg.PostgresError, StorageError) as error:
                logger.warning("lane broken", extra=self._extra(error))
            except Exception as error:
                if isinstance(error, RuntimeError) and any(session.is_closed for session in self._sessions):
                    # The event loop's word for a write to a connection that was lost a moment before.
                    logger.warning("lane broken", extra=self._extra(error))
                else:
                    logger.exception("lane crashed", extra=self._extra())
            self._counts.broken += 1
            try:
                await self._recover()
            except Fenced as error:
                self._owner.fenced(str(error))
                return

    async def stop(self) -> None:
        """Let run() end after everything queued has been written and every changed partition has a checkpoint."""
        self._readiness.is_stopping = True
        self._wake.set()

    async def close(self) -> None:
        if self._checkpoint_timer is not None:
            self._checkpoint_timer.cancel()
        for session in self._sessions:
            await session.close()
            self._backends.answered(session)
        self._sessions.clear()

    def abandon(self) -> None:
        """Stop at once: drop the sessions; what was not answered stays unanswered by us and unknown to the client."""
        self.ready.clear()
        for session in self._sessions:
            session.drop()

    async def _recover(self) -> None:
        await self._recovery.run()

    def _extra(self, error: BaseException | None = None) -> dict[str, object]:
        """Fields of a log line."""
        return {"lane": self.number} | ({"error": describe(error)} if error else {})

    async def _serve(self) -> None:
        while True:
            if self._under_way.giant is not None and _is_over(self._under_way.giant):
                await self._settle_giant()
                continue
            if self._under_way.queue:
                if _is_over(self._under_way.queue[0]):
                    await self._settle_oldest()
                    continue
                if self._staging.bytes < OVERLAP_BYTES or self._under_way.is_full or not self._staging:
                    # The flush goes on; what arrives meanwhile shares the next transaction.
                    await self._wait_for_commit()
                    continue
            elif not self._staging:
                if self._under_way.giant is not None:
                    await self._wait_for_commit()
                elif not self._readiness.is_stopping:
                    await self._wait_for_work()
                elif self._staging.dirty:
                    self._staging.mark_checkpoints()
                else:
                    return
                continue
            if self._wants_global_offsets:
                await self._reserve_global_offsets()
            if self._staging.journal.needs_block:
                await self._reserve_entries()
            if self._staging.waits_for_held:
                await self._settle_giant()
                continue
            if self._staging.has_giant:
                # It commits in its own time, but not before what its partition has on the way.
                if self._under_way.queue:
                    await self._settle_oldest()
                else:
                    self._begin_giant()
                continue
            flight = self._under_way.building = Flight(begun_s=self._commit.now())
            self._staging.build(flight)
            if flight.parts or flight.checkpoints or flight.journal_parts:
                await self._write(flight)
            elif flight.controls or flight.bundles:
                await self._drain()
                self._outcomes.apply(flight)
            self._under_way.building = None

    async def _wait_for_commit(self) -> None:
        """Until something under way is over, or something arrives."""
        self._wake.clear()
        if not any(_is_over(flight) for flight in self._under_way.written):
            await self._wake.wait()

    async def _wait_for_work(self) -> None:
        self._wake.clear()
        if self._staging or self._readiness.is_stopping:
            return
        if self._staging.dirty:
            left_s = self._staging.until_checkpoint_s()
            if left_s <= 0:
                self._staging.mark_checkpoints()
                return
            if self._checkpoint_timer is None:
                self._checkpoint_timer = asyncio.get_running_loop().call_later(left_s, self._wake_for_checkpoint)
        await self._wake.wait()

    def _wake_for_checkpoint(self) -> None:
        self._checkpoint_timer = None
        self._wake.set()

    async def _write(self, flight: Flight) -> None:
        """Load a transaction beside the one that is being flushed, then commit it in order."""
        flight.session = session = self._free_session()
        session.commit_in_doubt = False
        self._backends.asked(session)
        has_statements = flight.has_statements
        flight.is_alone = (
            not self._under_way.queue
            and not has_statements
            and self._staging.bytes < OVERLAP_BYTES
            and flight.bytes < ALONE_BYTES
        )
        self._under_way.queue.append(flight)
        self._under_way.building = None
        try:
            if flight.is_alone:
                # One round trip less: the COPY, or INSERT, is its own transaction. So its flush is inside and has no deadline.
                flight.outcome = Outcome.COMMITTING
                sent_s = self._commit.now()
                await copy(session, flight, timeout_s=None)
                check_doubt(session)
                flight.commit_s = self._commit.now() - sent_s
                self._backends.answered(session)
                flight.outcome = Outcome.COMMITTED
                self._under_way.queue.popleft()
                self._outcomes.apply(flight)
                return
            if has_statements:
                await session.connection.execute("BEGIN", timeout=STATEMENT_TIMEOUT_S)
                await write_statements(session, flight)
                await copy(session, flight, timeout_s=STATEMENT_TIMEOUT_S)
            else:
                await copy(session, flight, timeout_s=STATEMENT_TIMEOUT_S, begins=True)
        except asyncpg.PostgresError as error:
            self._refuse_unique_violation(error)
            if _is_abort(error):
                flight.outcome = Outcome.OPEN
            if not is_data_error(error):
                raise
            await self._fail_culprits(flight, error)
            return
        if len(self._under_way.queue) > 1:
            self._backends.answered(session)
        while len(self._under_way.queue) > 1:
            await self._settle_oldest()
        self._backends.asked(session)
        flight.outcome = Outcome.COMMITTING
        flight.commit = asyncio.create_task(
            self._send_commit(flight, session, driver_began=has_statements), name=f"lane {self.number} commit"
        )
        flight.commit.add_done_callback(self._on_commit_done)

    async def _send_commit(self, flight: Flight, session: Session, *, driver_began: bool) -> None:
        sent_s = self._commit.now()
        await commit(session, driver_began=driver_began)
        flight.commit_s = self._commit.now() - sent_s

    def _on_commit_done(self, commit: asyncio.Task[None]) -> None:
        if not commit.cancelled():
            commit.exception()  # looked at where it is settled, if anybody still does
        self._wake.set()

    def _begin_giant(self) -> None:
        """Write the next giant beside the transactions of other partitions, in its own time."""
        flight = self._under_way.building = Flight(begun_s=self._commit.now())
        self._staging.build_giant(flight)
        if flight.parts:
            flight.session = self._free_session()
            self._under_way.giant = flight
            flight.commit = asyncio.create_task(self._write_giant(flight), name=f"lane {self.number} giant")
            flight.commit.add_done_callback(self._on_commit_done)
        self._under_way.building = None

    async def _write_giant(self, flight: Flight) -> None:
        """It takes its locks by itself and waits for no other transaction, so nothing can wait for it in a circle."""
        session = flight.session
        assert session is not None
        session.commit_in_doubt = False
        self._backends.asked(session)
        await session.connection.execute("BEGIN", timeout=STATEMENT_TIMEOUT_S)
        await write_statements(session, flight)
        await copy(session, flight, STATEMENT_TIMEOUT_S, on_progress=lambda: self._backends.asked(session))
        flight.outcome = Outcome.COMMITTING
        self._backends.asked(session)
        await self._send_commit(flight, session, driver_began=True)

    async def _settle_giant(self) -> None:
        """Wait until the giant is written, and make it real; or have it fail alone."""
        flight = self._under_way.giant
        assert flight is not None and flight.commit is not None and flight.session is not None
        try:
            await asyncio.shield(flight.commit)
        except asyncpg.PostgresError as error:
            self._refuse_unique_violation(error)
            if _is_abort(error):
                flight.outcome = Outcome.OPEN
            if not is_data_error(error):
                raise
            await flight.session.connection.execute("ROLLBACK", timeout=STATEMENT_TIMEOUT_S)
            (part,) = flight.parts.values()
            flight.parts.clear()
            self._outcomes.fail_part(part, error)
        else:
            flight.outcome = Outcome.COMMITTED
        self._backends.answered(flight.session)
        self._under_way.giant = None
        self._staging.release()
        self._outcomes.apply(flight)

    async def _settle_oldest(self) -> None:
        """Wait for the oldest transaction's commit and make it real."""
        flight = self._under_way.queue[0]
        assert flight.commit is not None
        # Never cancelled by a cancelled waiter: the outcome of a COMMIT must be known.
        await asyncio.shield(flight.commit)
        assert flight.session is not None
        self._backends.answered(flight.session)
        flight.outcome = Outcome.COMMITTED
        self._under_way.queue.popleft()
        self._outcomes.apply(flight)

    async def _drain(self) -> None:
        while self._under_way.queue:
            await self._settle_oldest()

    def _free_session(self) -> Session:
        busy = [t.session for t in self._under_way.written]  # two at most
        for session in self._sessions:
            if session not in busy:
                return session
        raise StorageLost("no free session")

    # -- building ----------------------------------------------------------------------------------------------------

    @property
    def _wants_global_offsets(self) -> bool:
        return self._staging.global_offsets.left < 2 * GLOBAL_BLOCK + 2 * self._staging.queued_records

    async def _reserve_global_offsets(self) -> None:
        """Have enough blocks for all that is queued; at most one row's worth of each is lost."""
        while self._wants_global_offsets:
            if self._under_way.is_full:
                await self._settle_oldest()
                continue
            self._staging.global_offsets.add_block(await self._ask(SQL["next_global_block"]))

    async def _reserve_entries(self) -> None:
        """Have numbers for the first write that is queued for the journals, and most likely for all."""
        while self._staging.journal.needs_block:
            if self._under_way.is_full:
                await self._settle_oldest()
                continue
            self._staging.journal.use_block(await self._ask(GROUPS_SQL["next_entry_block"]))

    async def _ask(self, statement: str) -> int:
        session = self._free_session()
        self._backends.asked(session)
        found: int = await session.connection.fetchval(statement, timeout=STATEMENT_TIMEOUT_S)
        self._backends.answered(session)
        return found

    # -- errors ------------------------------------------------------------------------------------------------------

    @staticmethod
    def _refuse_unique_violation(error: asyncpg.PostgresError) -> None:
        if error.sqlstate == "23505":
            # Somebody else has written at our offsets: we are not the leader, whatever we believe.
            raise Fenced(f"another writer has used our offsets: {describe(error)}") from error

    async def _fail_culprits(self, flight: Flight, error: asyncpg.PostgresError) -> None:
        """A data error: the shares that cause it fail alone, the others are written, offsets unchanged.

        What is not settled yet stays in flight, so that it is answered when the connection fails meanwhile.
        """
        while self._under_way.queue[0] is not flight:
            await self._settle_oldest()
        session = flight.session
        assert session is not None
        self._backends.asked(session)
        if not flight.is_alone:
            # The driver does not know of a transaction that began with its COPY, so it is not asked.
            await session.connection.execute("ROLLBACK", timeout=STATEMENT_TIMEOUT_S)
        culprit = named_culprit(flight, error)
        shares = shares_of(flight)
        trials: deque[list[Share]] = deque()
        if len(shares) == 1:
            move(shares, flight, Flight())
            self._outcomes.fail_share(shares[0], error)
        elif culprit is not None:
            trials.append([share for share in shares if culprit in share.parts])
            trials.append([share for share in shares if culprit not in share.parts])
        else:
            trials.extend(halves(shares))
        while trials:
            tried = trials.popleft()
            trial = Flight(session=session, journals=flight.journals, begun_s=flight.begun_s)
            move(tried, flight, trial)
            self._under_way.queue.append(trial)
            self._backends.asked(session)
            try:
                await session.connection.execute("BEGIN", timeout=STATEMENT_TIMEOUT_S)
                await write_statements(session, trial)
                await copy(session, trial, timeout_s=STATEMENT_TIMEOUT_S)
            except asyncpg.PostgresError as again:
                self._refuse_unique_violation(again)
                if not is_data_error(again):
                    raise
                self._under_way.queue.remove(trial)
                if len(tried) == 1:
                    self._outcomes.fail_share(tried[0], again)
                else:
                    move(tried, trial, flight)
                    trials.extend(halves(tried))
                await session.connection.execute("ROLLBACK", timeout=STATEMENT_TIMEOUT_S)
                continue
            trial.outcome = Outcome.COMMITTING
            self._backends.asked(session)
            await self._send_commit(trial, session, driver_began=True)
            trial.outcome = Outcome.COMMITTED
            self._under_way.queue.remove(trial)
            self._outcomes.apply(trial)
        self._backends.answered(session)
        self._under_way.queue.remove(flight)
        self._staging.checkpoints_due.update(dict.fromkeys(p.partition for p in flight.checkpoints))
        finish_controls(flight.controls)


def _is_over(flight: Flight) -> bool:
    return flight.commit is not None and flight.commit.done()


def _is_abort(error: asyncpg.PostgresError) -> bool:
    """The server has rolled back. After 57P01 and the like it may have committed and only not waited for a standby."""
    return (error.sqlstate or "")[:2] in ("22", "23", "25", "40", "42", "53", "54", "55")
