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
from pg_kafka.storage import locks, queries, staging
from pg_kafka.storage.backends import Backends
from pg_kafka.storage.endings import Ending
from pg_kafka.storage.journal import GroupPart, JournalWrite, not_written
from pg_kafka.storage.partition import Append, AppendResult, Partition
from pg_kafka.storage.sessions import (
    CONNECTION_ERRORS,
    Fenced,
    Session,
    describe,
    is_data_error,
    unavailable,
)
from pg_kafka.storage.staging import Staging
from pg_kafka.storage.transaction import (
    GLOBAL_BLOCK,
    Control,
    Outcome,
    Part,
    Share,
    Transaction,
    halves,
    move,
    named_culprit,
    shares_of,
)
from pg_kafka.storage.writes import (
    STATEMENT_TIMEOUT_S,
    StorageLost,
    check_doubt,
    commit,
    copy,
    was_committed,
    write_statements,
)
from pg_kafka.wire.error_codes import ErrorCode

SQL = queries.load("log")
GROUPS_SQL = queries.load("groups")
log = logging.getLogger("pg_kafka.lane")

# Up to this a COPY that is its own transaction is cheaper than BEGIN, COPY and COMMIT.
ALONE_BYTES = 256 * 1024
# Below this much queued data, loading beside a flush only splits what one later transaction would hold.
OVERLAP_BYTES = 128 * 1024
RESOLVE_TIMEOUT_S = 30.0
END_TIMEOUT_S = 10.0
# Clients get exact answers when the outcome is known within this time; then they are told that it is not.
DOUBT_S = 5.0
RECONNECT_DELAYS_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


class Owner(staging.Owner, Protocol):
    """What a lane needs from the log that it belongs to."""

    incarnation: int

    def journal_grown(self, added_bytes: int) -> None: ...
    def forget(self, partition: Partition) -> None: ...
    def fenced(self, reason: str) -> None: ...


class Lane:
    """See the module. `run` is the task; it ends only by stop() or when the incarnation is fenced."""

    def __init__(
        self,
        number: int,
        owner: Owner,
        open_session: Callable[[str], Awaitable[Session]],
        backends: Backends,
        *,
        checkpoint_bytes: int,
        checkpoint_ms: int,
    ) -> None:
        self.number = number
        self._owner = owner
        self._open_session = open_session
        self._backends = backends
        self._refusal: str | None = None  # why no batches are taken, while lost backends may still write
        self._broken_controls: list[Control] = []  # of failed transactions; done when nothing is in doubt any more
        self._sessions: list[Session] = []
        self._in_flight: deque[Transaction] = deque()
        self._giant: Transaction | None = None  # in flight as well, beside those
        self._building: Transaction | None = None  # taken from the queue, not yet in flight
        self._touched: dict[Partition, None] = {}  # their state has to be loaded again
        self._staging = Staging(
            owner,
            self._in_flight,
            checkpoint_bytes=checkpoint_bytes,
            checkpoint_ms=checkpoint_ms,
        )
        self._checkpoint_timer: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self._stopping = False
        self.ready = asyncio.Event()  # sessions are open and nothing is in doubt
        self.term = 0  # grows each time the lane starts over

    # -- the queue ---------------------------------------------------------------------------------------------------

    def append(self, partition: Partition, append: Append) -> None:
        """Queue a batch, or answer at once when the lane cannot write now."""
        if partition.is_closed or not self.ready.is_set() or self._stopping or self._refusal is not None:
            code = ErrorCode.NOT_LEADER_OR_FOLLOWER if partition.is_closed else ErrorCode.KAFKA_STORAGE_ERROR
            message = self._refusal or "the partition cannot be written now"
            self._staging.answer(append, AppendResult(code, message=message))
            return
        self._staging.add(partition, append)
        self._wake.set()

    def write_journal(self, write: JournalWrite) -> StorageError | None:
        """Queue what a group writes; or the error, when it is refused and will have no other answer."""
        if not self.ready.is_set() or self._stopping:
            return not_written("groups cannot be written now")
        refusal = self._staging.journal.add(write)
        self._wake.set()
        return refusal

    def end_transaction(self, ending: Ending) -> StorageError | None:
        """Queue the end of a transaction; or the error, when it is refused and will have no other answer."""
        if not self.ready.is_set() or self._stopping:
            return not_written("transactions cannot be ended now")
        refusal = self._staging.journal.add(ending)
        self._wake.set()
        return refusal

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

    def close_topic(self, topic_id: int) -> None:
        """For control(): fail what a topic has queued and take no more from it."""
        self._staging.close_topic(topic_id)

    def reopen_topic(self, topic_id: int) -> None:
        self._staging.reopen_topic(topic_id)

    # -- the task ----------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the sessions. Raises StorageError or Fenced."""
        while len(self._sessions) < 2:
            self._sessions.append(await self._open_session(f"lane {self.number}"))
        self.ready.set()

    async def run(self) -> None:
        """Write until stopped. Connection and resource errors fail what is queued, retriably, and start over."""
        while True:
            try:
                await self._serve()
                return
            except Fenced as error:
                self._break("the broker was fenced", in_doubt=False)
                self._end_controls("the broker was fenced")
                self._owner.fenced(str(error))
                return
            except (*CONNECTION_ERRORS, asyncpg.PostgresError, StorageError) as error:
                log.warning("lane broken", extra=self._extra(error))
            except Exception as error:
                if isinstance(error, RuntimeError) and any(session.is_closed for session in self._sessions):
                    # The event loop's word for a write to a connection that was lost a moment before.
                    log.warning("lane broken", extra=self._extra(error))
                else:
                    log.exception("lane crashed", extra=self._extra())
            try:
                await self._recover()
            except Fenced as error:
                self._owner.fenced(str(error))
                return

    async def stop(self) -> None:
        """Let run() end after everything queued has been written and every changed partition has a checkpoint."""
        self._stopping = True
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

    def _extra(self, error: BaseException | None = None) -> dict[str, object]:
        """Fields of a log line."""
        return {"lane": self.number} | ({"error": describe(error)} if error else {})

    async def _serve(self) -> None:
        while True:
            if self._giant is not None and _is_over(self._giant):
                await self._settle_giant()
                continue
            if self._in_flight:
                if _is_over(self._in_flight[0]):
                    await self._settle_oldest()
                    continue
                if self._staging.bytes < OVERLAP_BYTES or self._is_full or not self._staging:
                    # The flush goes on; what arrives meanwhile shares the next transaction.
                    await self._wait_for_commit()
                    continue
            elif not self._staging:
                if self._giant is not None:
                    await self._wait_for_commit()
                elif not self._stopping:
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
                if self._in_flight:
                    await self._settle_oldest()
                else:
                    self._begin_giant()
                continue
            transaction = self._building = Transaction()
            self._staging.build(transaction)
            if transaction.parts or transaction.checkpoints or transaction.groups:
                await self._write(transaction)
            elif transaction.controls or transaction.endings:
                await self._drain()
                self._apply(transaction)
            self._building = None

    async def _wait_for_commit(self) -> None:
        """Until something under way is over, or something arrives."""
        self._wake.clear()
        if not any(_is_over(transaction) for transaction in self._under_way):
            await self._wake.wait()

    @property
    def _under_way(self) -> list[Transaction]:
        """All that is in flight."""
        return [*self._in_flight, *((self._giant,) if self._giant is not None else ())]

    @property
    def _is_full(self) -> bool:
        """No session is free."""
        return len(self._under_way) >= 2

    async def _wait_for_work(self) -> None:
        self._wake.clear()
        if self._staging or self._stopping:
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

    async def _write(self, transaction: Transaction) -> None:
        """Load a transaction beside the one that is being flushed, then commit it in order."""
        transaction.session = session = self._free_session()
        session.commit_in_doubt = False
        self._backends.asked(session)
        has_statements = transaction.has_statements
        transaction.is_alone = (
            not self._in_flight
            and not has_statements
            and self._staging.bytes < OVERLAP_BYTES
            and transaction.bytes < ALONE_BYTES
        )
        self._in_flight.append(transaction)
        self._building = None
        try:
            if transaction.is_alone:
                # One round trip less: the COPY is its own transaction. So its flush is inside and has no deadline.
                transaction.outcome = Outcome.COMMITTING
                await copy(session, transaction, timeout_s=None)
                check_doubt(session)
                self._backends.answered(session)
                transaction.outcome = Outcome.COMMITTED
                self._in_flight.popleft()
                self._apply(transaction)
                return
            if has_statements:
                await session.connection.execute("BEGIN", timeout=STATEMENT_TIMEOUT_S)
                await write_statements(session, transaction)
                await copy(session, transaction, timeout_s=STATEMENT_TIMEOUT_S)
            else:
                await copy(session, transaction, timeout_s=STATEMENT_TIMEOUT_S, begins=True)
        except asyncpg.PostgresError as error:
            self._refuse_unique_violation(error)
            if _is_abort(error):
                transaction.outcome = Outcome.OPEN
            if not is_data_error(error):
                raise
            await self._fail_culprits(transaction, error)
            return
        if len(self._in_flight) > 1:
            self._backends.answered(session)
        while len(self._in_flight) > 1:
            await self._settle_oldest()
        self._backends.asked(session)
        transaction.outcome = Outcome.COMMITTING
        transaction.commit = asyncio.create_task(
            commit(session, driver_began=has_statements), name=f"lane {self.number} commit"
        )
        transaction.commit.add_done_callback(self._on_commit_done)

    def _on_commit_done(self, commit: asyncio.Task[None]) -> None:
        if not commit.cancelled():
            commit.exception()  # looked at where it is settled, if anybody still does
        self._wake.set()

    def _begin_giant(self) -> None:
        """Write the next giant beside the transactions of other partitions, in its own time."""
        transaction = self._building = Transaction()
        self._staging.build_giant(transaction)
        if transaction.parts:
            transaction.session = self._free_session()
            self._giant = transaction
            transaction.commit = asyncio.create_task(self._write_giant(transaction), name=f"lane {self.number} giant")
            transaction.commit.add_done_callback(self._on_commit_done)
        self._building = None

    async def _write_giant(self, transaction: Transaction) -> None:
        """It takes its locks by itself and waits for no other transaction, so nothing can wait for it in a circle."""
        session = transaction.session
        assert session is not None
        session.commit_in_doubt = False
        self._backends.asked(session)
        await session.connection.execute("BEGIN", timeout=STATEMENT_TIMEOUT_S)
        await write_statements(session, transaction)
        await copy(session, transaction, STATEMENT_TIMEOUT_S, on_progress=lambda: self._backends.asked(session))
        transaction.outcome = Outcome.COMMITTING
        self._backends.asked(session)
        await commit(session, driver_began=True)

    async def _settle_giant(self) -> None:
        """Wait until the giant is written, and make it real; or have it fail alone."""
        transaction = self._giant
        assert transaction is not None and transaction.commit is not None and transaction.session is not None
        try:
            await asyncio.shield(transaction.commit)
        except asyncpg.PostgresError as error:
            self._refuse_unique_violation(error)
            if _is_abort(error):
                transaction.outcome = Outcome.OPEN
            if not is_data_error(error):
                raise
            await transaction.session.connection.execute("ROLLBACK", timeout=STATEMENT_TIMEOUT_S)
            (part,) = transaction.parts.values()
            transaction.parts.clear()
            self._fail_part(part, error)
        else:
            transaction.outcome = Outcome.COMMITTED
        self._backends.answered(transaction.session)
        self._giant = None
        self._staging.release()
        self._apply(transaction)

    async def _settle_oldest(self) -> None:
        """Wait for the oldest transaction's commit and make it real."""
        transaction = self._in_flight[0]
        assert transaction.commit is not None
        # Never cancelled by a cancelled waiter: the outcome of a COMMIT must be known.
        await asyncio.shield(transaction.commit)
        assert transaction.session is not None
        self._backends.answered(transaction.session)
        transaction.outcome = Outcome.COMMITTED
        self._in_flight.popleft()
        self._apply(transaction)

    async def _drain(self) -> None:
        while self._in_flight:
            await self._settle_oldest()

    def _free_session(self) -> Session:
        busy = [t.session for t in self._under_way]  # two at most
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
            if self._is_full:
                await self._settle_oldest()
                continue
            self._staging.global_offsets.add_block(await self._ask(SQL["next_global_block"]))

    async def _reserve_entries(self) -> None:
        """Have numbers for the first write that is queued for the journals, and most likely for all."""
        while self._staging.journal.needs_block:
            if self._is_full:
                await self._settle_oldest()
                continue
            self._staging.journal.use_block(await self._ask(GROUPS_SQL["next_entry_block"]))

    async def _ask(self, statement: str) -> int:
        session = self._free_session()
        self._backends.asked(session)
        found: int = await session.connection.fetchval(statement, timeout=STATEMENT_TIMEOUT_S)
        self._backends.answered(session)
        return found

    # -- after the database has answered -----------------------------------------------------------------------------

    def _apply(self, transaction: Transaction) -> None:
        """Make a committed transaction real, then answer and wake."""
        for part in transaction.parts.values():
            self._staging.make_real(part)
        for part in transaction.checkpoints:
            self._staging.checkpoint_written(part.partition)
        if transaction.groups:
            for write in transaction.journal_writes():
                self._owner.journal_grown(write.bytes)
        self._answer_writes(transaction, None)
        self._finish_controls(transaction.controls)

    def _answer_writes(self, transaction: Transaction, error: StorageError | None) -> None:
        """Answer what wrote to the journals, and the ends of transactions."""
        for write in transaction.journal_writes():
            if not write.is_of_ending:
                self._staging.journal.finish(write, error)
        for ending in transaction.endings:
            self._staging.journal.finish(ending, error)

    @staticmethod
    def _finish_controls(controls: list[Control]) -> None:
        for control in controls:
            if not control.done.done():
                control.done.set_result(None)

    def _end_controls(self, why: str) -> None:
        """The lane ends: nobody can know what became of the transactions before these."""
        for control in (*self._broken_controls, *self._staging.controls):
            if not control.done.done():
                control.done.set_exception(not_written(why))
        self._broken_controls.clear()
        self._staging.controls.clear()

    # -- errors ------------------------------------------------------------------------------------------------------

    @staticmethod
    def _refuse_unique_violation(error: asyncpg.PostgresError) -> None:
        if error.sqlstate == "23505":
            # Somebody else has written at our offsets: we are not the leader, whatever we believe.
            raise Fenced(f"another writer has used our offsets: {describe(error)}") from error

    async def _fail_culprits(self, transaction: Transaction, error: asyncpg.PostgresError) -> None:
        """A data error: partitions and groups that cause it fail alone, the others are written, offsets unchanged.

        What is not settled yet stays in flight, so that it is answered when the connection fails meanwhile.
        """
        while self._in_flight[0] is not transaction:
            await self._settle_oldest()
        session = transaction.session
        assert session is not None
        self._backends.asked(session)
        if not transaction.is_alone:
            # The driver does not know of a transaction that began with its COPY, so it is not asked.
            await session.connection.execute("ROLLBACK", timeout=STATEMENT_TIMEOUT_S)
        culprit = named_culprit(transaction, error)
        shares = shares_of(transaction)
        trials: deque[list[Share]] = deque()
        if len(shares) == 1:
            move(shares, transaction, Transaction())
            self._fail_share(shares[0], error)
        elif culprit is not None:
            trials.append([share for share in shares if culprit in share.parts])
            trials.append([share for share in shares if culprit not in share.parts])
        else:
            trials.extend(halves(shares))
        while trials:
            tried = trials.popleft()
            trial = Transaction(session=session, journals=transaction.journals)
            move(tried, transaction, trial)
            self._in_flight.append(trial)
            self._backends.asked(session)
            try:
                await session.connection.execute("BEGIN", timeout=STATEMENT_TIMEOUT_S)
                await write_statements(session, trial)
                await copy(session, trial, timeout_s=STATEMENT_TIMEOUT_S)
            except asyncpg.PostgresError as again:
                self._refuse_unique_violation(again)
                if not is_data_error(again):
                    raise
                self._in_flight.remove(trial)
                if len(tried) == 1:
                    self._fail_share(tried[0], again)
                else:
                    move(tried, trial, transaction)
                    trials.extend(halves(tried))
                await session.connection.execute("ROLLBACK", timeout=STATEMENT_TIMEOUT_S)
                continue
            trial.outcome = Outcome.COMMITTING
            self._backends.asked(session)
            await commit(session, driver_began=True)
            trial.outcome = Outcome.COMMITTED
            self._in_flight.remove(trial)
            self._apply(trial)
        self._backends.answered(session)
        self._in_flight.remove(transaction)
        self._staging.checkpoints_due.update(dict.fromkeys(p.partition for p in transaction.checkpoints))
        self._finish_controls(transaction.controls)

    def _fail_share(self, share: Share, error: asyncpg.PostgresError) -> None:
        for part in share.parts:
            self._fail_part(part, error)
        for group in share.groups:
            self._fail_group(group, error)
        for ending in share.endings:
            message = f"the database refused the end of a transaction: {describe(error)}"
            self._staging.journal.finish(ending, StorageError(False, ErrorCode.UNKNOWN_SERVER_ERROR, message))

    def _fail_group(self, group: GroupPart, error: asyncpg.PostgresError) -> None:
        """The database refuses what a group or transactional id writes. Its later writes build on that, so they fail as well."""
        extra = self._extra(error) | {"sqlstate": error.sqlstate, "of": group.owner[0]}
        log.error("the database refused what is written to the journals", extra=extra)
        message = f"the database refused what is written: {describe(error)}"
        later = self._staging.journal.take_owned(group.owner)
        for item in (*(write for write in group.writes if not write.is_of_ending), *later):
            self._staging.journal.finish(item, StorageError(False, ErrorCode.UNKNOWN_SERVER_ERROR, message))

    def _fail_part(self, part: Part, error: asyncpg.PostgresError) -> None:
        """The database refuses these rows: answer so, and give the offsets to what comes next."""
        partition = part.partition
        where = {"topic": partition.topic.name, "partition": partition.index, "sqlstate": error.sqlstate}
        log.error("the database refused records", extra=self._extra(error) | where)
        partition.unstage()
        result = AppendResult(
            ErrorCode.UNKNOWN_SERVER_ERROR, message=f"the database refused the records: {describe(error)}"
        )
        for append in part.appends:
            self._staging.answer(append, result)
        for append, _ in part.joined:
            self._staging.answer(append, result)

    def _break(self, why: str, *, in_doubt: bool) -> list[Transaction]:
        """Answer everything queued with a retriable error and forget the partitions; returns what is in doubt."""
        self.ready.clear()
        self.term += 1
        result = AppendResult(ErrorCode.KAFKA_STORAGE_ERROR, message=why)
        doubtful: list[Transaction] = []
        touched, self._touched = self._touched, {}
        for transaction in self._under_way:
            touched.update(dict.fromkeys(transaction.parts))
            if transaction.outcome is Outcome.COMMITTING and in_doubt:
                doubtful.append(transaction)
            else:
                self._fail_transaction(transaction, result)
        self._in_flight.clear()
        self._giant = None
        if self._building is not None:
            self._fail_transaction(self._building, result)
            for partition in self._building.parts:
                touched[partition] = None
                self._staging.fail_pending(partition, result)
            self._building = None
        touched.update(dict.fromkeys(self._staging.fail_all(result)))
        for partition in touched:
            self._owner.forget(partition)
        self._refusal = None
        return doubtful

    def _fail_transaction(self, transaction: Transaction, result: AppendResult) -> None:
        transaction.outcome = Outcome.FAILED
        for part in transaction.parts.values():
            for append in part.appends:
                self._staging.answer(append, result)
            for append, _ in part.joined:
                self._staging.answer(append, result)
        self._answer_writes(transaction, not_written(result.message or "the lane was broken"))
        # Their effect on memory is there already. They promise that nothing older is under way, so they wait for that.
        self._broken_controls.extend(transaction.controls)

    async def _recover(self) -> None:
        """Learn the outcome of what was being committed, fail the rest, open new sessions."""
        lost = list(self._sessions)
        for session in lost:
            session.drop()
            self._backends.answered(session)
        for transaction in self._under_way:
            commit = transaction.commit
            if commit is not None:
                # Its connection is closed, so the task ends now; its outcome, if any, is read back below.
                await asyncio.wait([commit], timeout=STATEMENT_TIMEOUT_S)
            if commit is not None and commit.done() and not commit.cancelled() and commit.exception() is None:
                transaction.outcome = Outcome.COMMITTED
        if self._giant is not None and self._giant.outcome is Outcome.COMMITTED:
            await self._settle_giant()
        while self._in_flight and self._in_flight[0].outcome is Outcome.COMMITTED:
            self._apply(self._in_flight.popleft())
        self._sessions.clear()
        self._refuse("the connection to the database was lost")
        # While the outcome is not known, clients do not wait for it: they ask again, and are refused until it is.
        doubtful: list[Transaction] | None = None
        in_doubt = asyncio.get_running_loop().call_later(
            DOUBT_S, lambda: self._admit_doubt([*self._under_way, *(doubtful or ())])
        )
        attempt = 0
        try:
            while True:
                try:
                    await self._end_backends(lost)
                    if doubtful is None:
                        doubtful = self._break("the connection to the database was lost", in_doubt=True)
                    await self._resolve(doubtful)
                    await self.open()
                    self._finish_controls(self._broken_controls)
                    self._broken_controls.clear()
                    log.warning("lane recovered", extra=self._extra())
                    return
                except Fenced:
                    self._give_up(doubtful)
                    raise
                except (*CONNECTION_ERRORS, asyncpg.PostgresError, StorageError) as error:
                    log.warning("lane cannot reconnect", extra=self._extra(error))
                    for session in self._sessions:
                        session.drop()
                    self._sessions.clear()
                if self._stopping:
                    self._give_up(doubtful)
                    return
                await asyncio.sleep(RECONNECT_DELAYS_S[min(attempt, len(RECONNECT_DELAYS_S) - 1)])
                attempt += 1
        finally:
            in_doubt.cancel()

    def _refuse(self, why: str) -> None:
        """Take no batches, and answer those whose COMMIT was not sent. Partitions stay readable, the journals' writes wait."""
        self._refusal = why
        self._staging.may_come_again(self._under_way)
        result = AppendResult(ErrorCode.KAFKA_STORAGE_ERROR, message=why)
        self._touched.update(dict.fromkeys(self._staging.fail_appends(result)))
        building = [self._building] if self._building is not None else []
        self._answer_early([*(t for t in self._under_way if t.outcome is Outcome.OPEN), *building], result)

    def _admit_doubt(self, doubtful: list[Transaction]) -> None:
        """The outcome may not be known for long: tell producers that nobody knows, which has them send again."""
        message = "the database does not say whether it was written"
        self._answer_early(doubtful, AppendResult(ErrorCode.REQUEST_TIMED_OUT, message=message))

    def _answer_early(self, transactions: list[Transaction], result: AppendResult) -> None:
        for transaction in transactions:
            for part in transaction.parts.values():
                for append in part.appends:
                    self._staging.answer_early(append, result)
                for append, _ in part.joined:
                    self._staging.answer_early(append, result)

    def _give_up(self, doubtful: list[Transaction] | None) -> None:
        """The lane ends before the outcome could be known, so say what makes the client ask again."""
        if doubtful is None:
            doubtful = self._break("stopped before the outcome was known", in_doubt=True)
        for transaction in doubtful:
            self._fail_transaction(
                transaction,
                AppendResult(ErrorCode.REQUEST_TIMED_OUT, message="stopped before the outcome was known"),
            )
        doubtful.clear()
        self._end_controls("stopped before the outcome of a commit was known")

    async def _end_backends(self, lost: list[Session]) -> None:
        """Make sure that the lost backends are gone: before that, what they were asked to write may still appear."""
        if not self._sessions:
            self._sessions.append(await self._open_session(f"lane {self.number}"))
        own = self._sessions[0]
        for session in list(lost):
            if session.identity.started_at == own.identity.started_at:
                number, pid = session.lock_id, session.identity.pid
                assert number is not None
                try:
                    async with asyncio.timeout(END_TIMEOUT_S):
                        await locks.wait_until_ended(own.connection, number, pid, spares_commits=True)
                except TimeoutError:
                    log.error("a lost backend does not end", extra=self._extra() | {"pid": pid})
                    raise unavailable(f"the backend {pid} does not end") from None
            lost.remove(session)

    async def _resolve(self, doubtful: list[Transaction]) -> None:
        """Read back what the lost backends committed.

        The session's own commits of the reads come after it opened as a writer, so it sees all that they did.
        """
        async with asyncio.timeout(RESOLVE_TIMEOUT_S):
            while doubtful:
                transaction = doubtful[0]
                if await was_committed(self._sessions[0], self._owner.incarnation, transaction):
                    log.warning("commit in doubt did happen", extra=self._extra())
                    transaction.outcome = Outcome.COMMITTED
                    doubtful.pop(0)
                    self._staging.need_not_come_again(transaction)
                    self._apply(transaction)
                else:
                    log.warning("commit in doubt did not happen", extra=self._extra())
                    doubtful.pop(0)
                    self._fail_transaction(
                        transaction, AppendResult(ErrorCode.KAFKA_STORAGE_ERROR, message="the commit did not happen")
                    )


def _is_over(transaction: Transaction) -> bool:
    return transaction.commit is not None and transaction.commit.done()


def _is_abort(error: asyncpg.PostgresError) -> bool:
    """The server has rolled back. After 57P01 and the like it may have committed and only not waited for a standby."""
    return (error.sqlstate or "")[:2] in ("22", "23", "25", "40", "42", "53", "54", "55")
