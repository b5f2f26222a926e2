"""A lane: one queue, one task, two sessions; the only writer of the partitions that belong to it.

It takes all that has queued while the last commit was on its way and writes it as one transaction (group commit). While
that one is flushed, the second session may load the next; it commits only after the first has. Offsets are given out when
a transaction is built, in queue order, and become real on its commit, together with the producers' sequence state.

What must never happen here: an answer before its commit, a COMMIT that is cancelled or timed, a retry after 23505.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import asyncpg

from pg_kafka.coordinator import producer_state
from pg_kafka.coordinator.producer_state import Accepted, Duplicate, ProducerWindow, SequencedBatch
from pg_kafka.errors import StorageError
from pg_kafka.storage import queries
from pg_kafka.storage.partition import Append, AppendResult, Extent, Partition
from pg_kafka.storage.segments import leaf_table
from pg_kafka.storage.sessions import (
    CONNECTION_ERRORS,
    SQL as SESSION_SQL,
    Fenced,
    Session,
    describe,
    is_data_error,
)
from pg_kafka.wire import _records
from pg_kafka.wire.error_codes import ErrorCode

SQL = queries.load("log")
CLUSTER_SQL = queries.load("cluster")
log = logging.getLogger("pg_kafka.lane")

MAX_TRANSACTION_BYTES = 4 * 1024 * 1024
MAX_TURN_BYTES = 256 * 1024
MAX_ROW_BYTES = _records.MAX_SLICE_BYTES
# Below this much queued data, loading beside a flush only splits what one later transaction would hold.
OVERLAP_BYTES = 128 * 1024
GLOBAL_BLOCK = 1_048_576
STATEMENT_TIMEOUT_S = 30.0
RESOLVE_TIMEOUT_S = 30.0
RECONNECT_DELAYS_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
CHECKPOINTS_AT_ONCE = 500
_COPY_LINE = re.compile(r"\bline (\d+)")


class Outcome(enum.Enum):
    """What is known of a transaction."""

    OPEN = "not committed, and will not be by itself"
    COMMITTING = "COMMIT was sent, the answer is not here"
    COMMITTED = "committed"
    FAILED = "rolled back"


@dataclass(slots=True)
class Control:
    """A queue item without records: it takes effect for all transactions after the one that carries it.

    `apply` changes the lane's memory and may run again when its transaction failed, so it must be repeatable.
    """

    apply: Callable[[], None]
    done: asyncio.Future[None]


@dataclass(slots=True)
class Part:
    """One partition's share of a transaction."""

    partition: Partition
    appends: list[Append] = field(default_factory=list)
    windows: dict[int, ProducerWindow] = field(default_factory=dict)
    joined: list[tuple[Append, SequencedBatch]] = field(default_factory=list)
    rows: list[bytes] = field(default_factory=list)
    bytes: int = 0
    end: int = 0
    max_timestamp: int = -1
    append_time: int = -1
    extent: Extent | None = None
    begins_epoch: bool = False
    checkpoint: tuple[int, int, int, str] | None = None
    first: tuple[int, int] = (0, 0)  # base offset and global base of its first row
    first_extent: Extent | None = None


@dataclass(slots=True, eq=False)
class Transaction:
    """What is written together."""

    parts: dict[Partition, Part] = field(default_factory=dict)
    controls: list[Control] = field(default_factory=list)
    checkpoints: list[Part] = field(default_factory=list)
    bytes: int = 0
    outcome: Outcome = Outcome.OPEN
    session: Session | None = None
    commit: asyncio.Task[None] | None = None

    @property
    def has_statements(self) -> bool:
        return any(p.extent or p.begins_epoch or p.checkpoint for p in self.parts.values()) or bool(self.checkpoints)


class Owner(Protocol):
    """What a lane needs from the log that it belongs to."""

    incarnation: int

    def active_segment(self, series: int) -> int: ...
    def now_ms(self) -> int: ...
    def answered(self, count_bytes: int) -> None: ...
    def committed(self, partition: Partition, appended_bytes: int) -> None: ...
    def forget(self, partition: Partition) -> None: ...
    def fenced(self, reason: str) -> None: ...
    def stored_codec_differs(self, append: Append) -> bool: ...


class Lane:
    """See the module. `run` is the task; it ends only by stop() or when the incarnation is fenced."""

    def __init__(
        self,
        number: int,
        owner: Owner,
        open_session: Callable[[str], Awaitable[Session]],
        *,
        checkpoint_bytes: int,
        checkpoint_ms: int,
        producer_expiration_ms: int,
    ) -> None:
        self.number = number
        self._owner = owner
        self._open_session = open_session
        self._checkpoint_bytes = checkpoint_bytes
        self._checkpoint_s = checkpoint_ms / 1000
        self._producer_expiration_ms = producer_expiration_ms
        self._ring: deque[Partition] = deque()
        self._controls: deque[Control] = deque()
        self._queued_bytes = 0
        self._queued_records = 0
        self._sessions: list[Session] = []
        self._in_flight: deque[Transaction] = deque()
        self._blocks: deque[tuple[int, int]] = deque()  # (next, end) of global offsets
        self._dirty: dict[Partition, None] = {}
        self._checkpoints_due: deque[Partition] = deque()
        self._next_checkpoint = time.monotonic() + self._checkpoint_s
        self._wake = asyncio.Event()
        self._stopping = False
        self._closed: set[int] = set()  # topics that take no more appends
        self.ready = asyncio.Event()  # sessions are open and nothing is in doubt
        self.term = 0  # grows each time the lane starts over

    # -- the queue ---------------------------------------------------------------------------------------------------

    def append(self, partition: Partition, append: Append) -> None:
        """Queue a batch, or answer at once when the lane cannot write now."""
        if partition.is_closed or not self.ready.is_set() or self._stopping:
            code = ErrorCode.NOT_LEADER_OR_FOLLOWER if partition.is_closed else ErrorCode.KAFKA_STORAGE_ERROR
            self._answer(append, AppendResult(code, message="the partition cannot be written now"))
            return
        partition.pending.append(append)
        self._queued_bytes += append.bytes
        self._queued_records += append.batch.count
        if not partition.is_ringed:
            partition.is_ringed = True
            self._ring.append(partition)
        self._wake.set()

    async def control(self, apply: Callable[[], None]) -> None:
        """Run `apply` between two transactions; returns when everything queued before it is committed or failed."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._controls.append(Control(apply, done))
        self._wake.set()
        await done

    def close_topic(self, topic_id: int) -> None:
        """For control(): fail what a topic has queued and take no more from it."""
        self._closed.add(topic_id)
        for partition in [p for p in self._ring if p.topic.id == topic_id]:
            self._fail_pending(partition, AppendResult(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION))

    def reopen_topic(self, topic_id: int) -> None:
        self._closed.discard(topic_id)

    # -- the task ----------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the sessions. Raises StorageError or Fenced."""
        while len(self._sessions) < 2:
            self._sessions.append(await self._open_session(f"lane {self.number}"))
        self.ready.set()

    async def run(self) -> None:
        """Write until stopped. Connection and resource errors fail what is queued with retriable errors and start over."""
        while True:
            try:
                await self._serve()
                return
            except Fenced as error:
                self._break("the broker was fenced", in_doubt=False)
                self._owner.fenced(str(error))
                return
            except (*CONNECTION_ERRORS, asyncpg.PostgresError, StorageError) as error:
                log.warning("lane=%d event=broken error=%s", self.number, describe(error))
            except Exception:
                log.exception("lane=%d event=crashed", self.number)
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
        for session in self._sessions:
            await session.close()
        self._sessions.clear()

    def abandon(self) -> None:
        """Stop at once: drop the sessions; what was not answered stays unanswered by us and unknown to the client."""
        self.ready.clear()
        for session in self._sessions:
            session.drop()

    def _has_work(self) -> bool:
        return bool(self._ring or self._controls or self._checkpoints_due)

    async def _serve(self) -> None:
        while True:
            if self._in_flight:
                commit = self._in_flight[0].commit
                assert commit is not None
                if commit.done():
                    await self._settle_oldest()
                    continue
                if self._queued_bytes < OVERLAP_BYTES:
                    # The flush goes on; what arrives meanwhile shares the next transaction.
                    self._wake.clear()
                    if not commit.done():
                        await self._wake.wait()
                    continue
            elif not self._has_work():
                if not self._stopping:
                    await self._wait_for_work()
                elif self._dirty:
                    self._mark_checkpoints()
                else:
                    return
                continue
            await self._reserve_global_offsets()
            transaction = self._build()
            if transaction.parts or transaction.checkpoints:
                await self._write(transaction)
            elif transaction.controls:
                await self._drain()
                self._finish_controls(transaction)

    async def _wait_for_work(self) -> None:
        self._wake.clear()
        if self._has_work() or self._stopping:
            return
        try:
            async with asyncio.timeout(max(0.0, self._next_checkpoint - time.monotonic()) if self._dirty else None):
                await self._wake.wait()
        except TimeoutError:
            self._mark_checkpoints()

    async def _write(self, transaction: Transaction) -> None:
        """Load a transaction beside the one that is being flushed, then commit it in order."""
        transaction.session = session = self._free_session()
        session.commit_in_doubt = False
        alone = not self._in_flight and not transaction.has_statements and self._queued_bytes < OVERLAP_BYTES
        self._in_flight.append(transaction)
        try:
            if alone and transaction.bytes < MAX_TURN_BYTES:
                # One round trip less: the COPY is its own transaction. So its flush is inside and has no deadline.
                transaction.outcome = Outcome.COMMITTING
                await self._copy(session, transaction, timeout_s=None)
                self._check_doubt(session)
                transaction.outcome = Outcome.COMMITTED
                self._in_flight.popleft()
                self._apply(transaction)
                return
            await session.connection.execute("BEGIN", timeout=STATEMENT_TIMEOUT_S)
            await self._statements(session, transaction)
            if transaction.parts:
                await self._copy(session, transaction, timeout_s=STATEMENT_TIMEOUT_S)
        except asyncpg.PostgresError as error:
            self._refuse_unique_violation(error)
            if _is_abort(error):
                transaction.outcome = Outcome.OPEN
            if not is_data_error(error):
                raise
            await self._fail_culprits(transaction, error)
            return
        while len(self._in_flight) > 1:
            await self._settle_oldest()
        transaction.outcome = Outcome.COMMITTING
        transaction.commit = asyncio.create_task(self._commit(session), name=f"lane {self.number} commit")
        transaction.commit.add_done_callback(self._on_commit_done)

    def _on_commit_done(self, _commit: asyncio.Task[None]) -> None:
        self._wake.set()

    async def _commit(self, session: Session) -> None:
        status = await session.connection.execute("COMMIT")
        if status != "COMMIT":
            raise StorageLost(f"COMMIT was answered {status}")
        self._check_doubt(session)

    async def _settle_oldest(self) -> None:
        """Wait for the oldest transaction's commit and make it real."""
        transaction = self._in_flight[0]
        assert transaction.commit is not None
        # Never cancelled by a cancelled waiter: the outcome of a COMMIT must be known.
        await asyncio.shield(transaction.commit)
        transaction.outcome = Outcome.COMMITTED
        self._in_flight.popleft()
        self._apply(transaction)

    async def _drain(self) -> None:
        while self._in_flight:
            await self._settle_oldest()

    def _free_session(self) -> Session:
        busy = {t.session for t in self._in_flight}
        for session in self._sessions:
            if session not in busy:
                return session
        raise StorageLost("no free session")

    @staticmethod
    def _check_doubt(session: Session) -> None:
        if session.commit_in_doubt:
            raise StorageLost("the wait for a synchronous standby was cancelled")

    async def _copy(self, session: Session, transaction: Transaction, timeout_s: float | None) -> None:
        await session.connection.copy_to_table(
            "log",
            schema_name="kafka",
            source=_copy_stream(transaction.parts.values()),
            format="binary",
            timeout=timeout_s,
        )

    async def _statements(self, session: Session, transaction: Transaction) -> None:
        """Rows that go with the log's. Locks: none but those of inserted rows, in the order extents, epochs, checkpoints."""
        connection = session.connection
        parts = transaction.parts.values()
        extents = [(p.partition, p.extent) for p in parts if p.extent]
        if extents:
            await connection.execute(
                SQL["insert_extents"],
                [p.topic.id for p, _ in extents],
                [p.index for p, _ in extents],
                [e.first_offset for _, e in extents],
                [e.series for _, e in extents],
                [e.segment for _, e in extents],
                timeout=STATEMENT_TIMEOUT_S,
            )
        begun = [p for p in parts if p.begins_epoch]
        if begun:
            await connection.execute(
                SQL["insert_epochs"],
                [p.partition.topic.id for p in begun],
                [p.partition.index for p in begun],
                [p.partition.leader_epoch for p in begun],
                [p.first[0] for p in begun],
                timeout=STATEMENT_TIMEOUT_S,
            )
        checked = sorted(
            [(p.partition, p.checkpoint) for p in [*parts, *transaction.checkpoints] if p.checkpoint],
            key=lambda c: (c[0].topic.id, c[0].index),
        )
        if checked:
            await connection.execute(
                SQL["write_checkpoints"],
                [p.topic.id for p, _ in checked],
                [p.index for p, _ in checked],
                *([c[column] for _, c in checked] for column in range(4)),
                timeout=STATEMENT_TIMEOUT_S,
            )

    # -- building ----------------------------------------------------------------------------------------------------

    async def _reserve_global_offsets(self) -> None:
        """Have enough blocks for all that is queued: a row never spans two, so at most one row's worth of each is lost."""
        left = sum(end - start for start, end in self._blocks)
        while left < 2 * GLOBAL_BLOCK + 2 * self._queued_records:
            session = self._free_session() if len(self._in_flight) < 2 else None
            if session is None:
                await self._settle_oldest()
                continue
            start = await session.connection.fetchval(SQL["next_global_block"], timeout=STATEMENT_TIMEOUT_S)
            self._blocks.append((start, start + GLOBAL_BLOCK))
            left += GLOBAL_BLOCK

    def _take_global_offsets(self, count: int) -> int:
        while True:
            start, end = self._blocks[0]
            if end - start >= count:
                self._blocks[0] = (start + count, end)
                return start
            self._blocks.popleft()

    def _build(self) -> Transaction:
        """Take queued batches, round robin over partitions, and give them offsets."""
        transaction = Transaction()
        while self._controls:
            control = self._controls.popleft()
            control.apply()
            transaction.controls.append(control)
        while self._ring and transaction.bytes < MAX_TRANSACTION_BYTES:
            partition = self._ring.popleft()
            part = transaction.parts.get(partition)
            if part is None:
                part = transaction.parts[partition] = Part(partition)
            taken = 0
            while partition.pending and taken < MAX_TURN_BYTES and transaction.bytes < MAX_TRANSACTION_BYTES:
                append = partition.pending.popleft()
                self._queued_bytes -= append.bytes
                self._queued_records -= append.batch.count
                if self._stage(part, append):
                    taken += append.bytes
                    transaction.bytes += append.bytes
            if partition.pending:
                self._ring.append(partition)
            else:
                partition.is_ringed = False
        now_ms = self._owner.now_ms()
        for part in list(transaction.parts.values()):
            if part.appends:
                self._make_rows(part, now_ms)
            else:
                del transaction.parts[part.partition]
        for partition in self._take_due_checkpoints():
            part = transaction.parts.get(partition)
            if part is None:
                part = Part(partition)
                transaction.checkpoints.append(part)
            part.checkpoint = self._checkpoint(partition, part.bytes, now_ms)
        return transaction

    def _stage(self, part: Part, append: Append) -> bool:
        """Check a batch's sequence and give it its offset; False when it is answered, or will be, without being written."""
        partition, batch = part.partition, append.batch
        if partition.is_closed or partition.topic.id in self._closed:
            self._answer(append, AppendResult(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION))
            return False
        base_offset = partition.staged_end
        if batch.producer_id >= 0:
            window = partition.staged_producers.get(batch.producer_id) or partition.producers.get(batch.producer_id)
            verdict = producer_state.check(
                window, epoch=batch.producer_epoch, base_sequence=batch.base_sequence, count=batch.count
            )
            if isinstance(verdict, Duplicate):
                self._join(part, append, verdict.batch)
                return False
            if not isinstance(verdict, Accepted):
                self._answer(append, AppendResult(verdict.error, message=verdict.message))
                return False
            window = producer_state.advance(
                window,
                epoch=batch.producer_epoch,
                base_sequence=batch.base_sequence,
                count=batch.count,
                base_offset=base_offset,
                timestamp_ms=self._owner.now_ms(),
            )
            part.windows[batch.producer_id] = partition.staged_producers[batch.producer_id] = window
        append.base_offset = base_offset
        partition.staged_end = base_offset + batch.count
        part.appends.append(append)
        part.bytes += append.bytes
        return True

    def _join(self, part: Part, append: Append, batch: SequencedBatch) -> None:
        """Answer a duplicate with the offset of the first copy, once that is committed."""
        partition = part.partition
        if batch.last_offset < partition.high_watermark:
            self._answer(append, self._duplicate_result(partition, append, batch))
            return
        for transaction in self._in_flight:
            holder = transaction.parts.get(partition)
            if holder is not None and batch.last_offset < holder.end:
                holder.joined.append((append, batch))
                return
        part.joined.append((append, batch))

    @staticmethod
    def _duplicate_result(partition: Partition, append: Append, batch: SequencedBatch) -> AppendResult:
        stamped = batch.timestamp_ms if append.timestamp_type == 1 else -1
        return AppendResult(
            ErrorCode.NONE, batch.base_offset, stamped, partition.log_start_offset
        )

    def _make_rows(self, part: Part, now_ms: int) -> None:
        partition = part.partition
        segment = self._owner.active_segment(partition.series)
        current = partition.staged_extent or (partition.extents[-1] if partition.extents else None)
        first_offset = part.appends[0].base_offset
        if current is None or (current.series, current.segment) != (partition.series, segment):
            current = part.extent = partition.staged_extent = Extent(first_offset, partition.series, segment)
        part.first_extent = current
        if not partition.staged_epoch and (not partition.epochs or partition.epochs[-1][0] != partition.leader_epoch):
            part.begins_epoch = partition.staged_epoch = True
        part.append_time = now_ms
        group: list[Append] = []
        group_bytes = 0
        for append in part.appends:
            if group and (
                group_bytes + append.bytes > MAX_ROW_BYTES
                or append.codec != group[0].codec
                or append.timestamp_type != group[0].timestamp_type
            ):
                self._make_group_rows(part, group, segment)
                group, group_bytes = [], 0
            group.append(append)
            group_bytes += append.bytes
        self._make_group_rows(part, group, segment)
        part.end = partition.staged_end
        part.max_timestamp = partition.staged_max_timestamp

    def _make_group_rows(self, part: Part, group: list[Append], segment: int) -> None:
        """One row for batches that share one, or several rows for a batch too large for one."""
        partition = part.partition
        producers = [
            (b.producer_id, b.producer_epoch, b.base_sequence, a.base_offset, b.count)
            for a in group
            if (b := a.batch).producer_id >= 0
        ]
        slices = [piece for append in group for piece in append.batch.slices]
        rows = [slices] if len(group) > 1 or len(slices) == 1 else [[piece] for piece in slices]
        base_offset = group[0].base_offset
        stamped = part.append_time if group[0].timestamp_type == 1 else -1
        for row in rows:
            count = sum(piece.count for piece in row)
            global_base = self._take_global_offsets(count)
            if not part.rows:
                part.first = (base_offset, global_base)
            part.rows.append(
                _records.copy_row(
                    series=partition.series,
                    topic=partition.topic.id,
                    partition=partition.index,
                    segment=segment,
                    base_offset=base_offset,
                    leader_epoch=partition.leader_epoch,
                    global_base=global_base,
                    running_max_timestamp=partition.staged_max_timestamp,
                    append_time=part.append_time,
                    timestamp_type=group[0].timestamp_type,
                    codec=group[0].codec,
                    is_transactional=False,
                    is_control=False,
                    delete_horizon=None,
                    producers=producers,
                    slices=row,
                    log_append_time=stamped,
                )
            )
            top = stamped if stamped >= 0 else max(piece.max_timestamp for piece in row)
            partition.staged_max_timestamp = max(partition.staged_max_timestamp, top)
            base_offset += count

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def _checkpoint(self, partition: Partition, added_bytes: int, now_ms: int) -> tuple[int, int, int, str]:
        staged = added_bytes + sum(t.parts[partition].bytes for t in self._in_flight if partition in t.parts)
        return (
            partition.staged_end,
            partition.staged_max_timestamp,
            partition.append_bytes_total + staged,
            partition.checkpoint_json(now_ms, self._producer_expiration_ms),
        )

    def _mark_checkpoints(self) -> None:
        """All changed partitions are due."""
        self._checkpoints_due.extend(self._dirty)
        self._dirty.clear()
        self._next_checkpoint = time.monotonic() + self._checkpoint_s

    def _take_due_checkpoints(self) -> list[Partition]:
        if self._dirty and time.monotonic() >= self._next_checkpoint:
            self._mark_checkpoints()
        due: list[Partition] = []
        while self._checkpoints_due and len(due) < CHECKPOINTS_AT_ONCE:
            partition = self._checkpoints_due.popleft()
            if not partition.is_closed:
                due.append(partition)
        return due

    # -- after the database has answered -----------------------------------------------------------------------------

    def _apply(self, transaction: Transaction) -> None:
        """Make a committed transaction real, then answer and wake."""
        for part in transaction.parts.values():
            self._apply_part(part)
        for part in transaction.checkpoints:
            part.partition.bytes_since_checkpoint = 0
            part.partition.expire_producers(self._owner.now_ms(), self._producer_expiration_ms)
        self._finish_controls(transaction)

    def _finish_controls(self, transaction: Transaction) -> None:
        for control in transaction.controls:
            if not control.done.done():
                control.done.set_result(None)

    def _apply_part(self, part: Part) -> None:
        partition = part.partition
        partition.producers.update(part.windows)
        if part.extent is not None:
            partition.extents.append(part.extent)
        if part.begins_epoch:
            partition.epochs.append((partition.leader_epoch, part.first[0]))
        partition.running_max_timestamp = part.max_timestamp
        partition.append_bytes_total += part.bytes
        partition.bytes_since_checkpoint += part.bytes
        sent = 0
        for append in part.appends:
            batch = append.batch
            stamped = part.append_time if append.timestamp_type == 1 else -1
            if partition.is_closed or self._owner.stored_codec_differs(append):
                sent += len(batch.wire)
                continue
            wire = _records.restamp(batch.wire, append.base_offset, partition.leader_epoch, stamped)
            partition.tail.append(append.base_offset, append.base_offset + batch.count - 1, wire)
            sent += len(wire)
        partition.high_watermark = part.end
        if partition.staged_end == part.end:
            partition.unstage()
        if part.checkpoint is not None:
            partition.bytes_since_checkpoint = 0
            partition.expire_producers(self._owner.now_ms(), self._producer_expiration_ms)
        elif partition.bytes_since_checkpoint >= self._checkpoint_bytes:
            self._checkpoints_due.append(partition)
            partition.bytes_since_checkpoint = 0
        self._dirty[partition] = None
        start = partition.log_start_offset
        for append in part.appends:
            stamped = part.append_time if append.timestamp_type == 1 else -1
            self._answer(append, AppendResult(ErrorCode.NONE, append.base_offset, stamped, start))
        for append, batch_before in part.joined:
            self._answer(append, self._duplicate_result(partition, append, batch_before))
        self._owner.committed(partition, part.bytes)
        for waiter in list(partition.waiters):
            waiter.on_advance(partition, sent)

    def _answer(self, append: Append, result: AppendResult) -> None:
        self._owner.answered(len(append.batch.wire))
        try:
            append.done(result)
        except Exception:
            log.exception("lane=%d event=reply_failed", self.number)

    def _fail_pending(self, partition: Partition, result: AppendResult) -> None:
        while partition.pending:
            append = partition.pending.popleft()
            self._queued_bytes -= append.bytes
            self._queued_records -= append.batch.count
            self._answer(append, result)

    # -- errors ------------------------------------------------------------------------------------------------------

    @staticmethod
    def _refuse_unique_violation(error: asyncpg.PostgresError) -> None:
        if error.sqlstate == "23505":
            # Somebody else has written at our offsets: we are not the leader, whatever we believe.
            raise Fenced(f"another writer has used our offsets: {describe(error)}") from error

    async def _fail_culprits(self, transaction: Transaction, error: asyncpg.PostgresError) -> None:
        """A data error: the partitions that cause it fail alone, the others are written with their offsets unchanged."""
        self._in_flight.remove(transaction)
        await self._drain()
        assert transaction.session is not None
        if transaction.session.connection.is_in_transaction():
            await transaction.session.connection.execute("ROLLBACK", timeout=STATEMENT_TIMEOUT_S)
        culprit = _named_culprit(transaction, error)
        groups: deque[list[Part]] = deque()
        parts = list(transaction.parts.values())
        if culprit is not None and len(parts) > 1:
            groups.extend([[culprit], [p for p in parts if p is not culprit]])
        else:
            groups.extend(_halves(parts))
        if len(parts) == 1:
            self._fail_part(parts[0], error)
            groups.clear()
        rest = Transaction(checkpoints=transaction.checkpoints, controls=transaction.controls)
        while groups:
            group = groups.popleft()
            trial = Transaction(parts={p.partition: p for p in group}, session=transaction.session)
            self._in_flight.append(trial)
            try:
                connection = transaction.session.connection
                await connection.execute("BEGIN", timeout=STATEMENT_TIMEOUT_S)
                await self._statements(transaction.session, trial)
                await self._copy(transaction.session, trial, timeout_s=STATEMENT_TIMEOUT_S)
                trial.outcome = Outcome.COMMITTING
                await self._commit(transaction.session)
                trial.outcome = Outcome.COMMITTED
                self._in_flight.remove(trial)
                self._apply(trial)
            except asyncpg.PostgresError as again:
                self._refuse_unique_violation(again)
                if _is_abort(again):
                    trial.outcome = Outcome.OPEN
                if not is_data_error(again):
                    raise
                self._in_flight.remove(trial)
                await transaction.session.connection.execute("ROLLBACK", timeout=STATEMENT_TIMEOUT_S)
                if len(group) == 1:
                    self._fail_part(group[0], again)
                else:
                    groups.extend(_halves(group))
        if rest.checkpoints:
            self._checkpoints_due.extend(p.partition for p in rest.checkpoints)
        self._finish_controls(rest)

    def _fail_part(self, part: Part, error: asyncpg.PostgresError) -> None:
        """The database refuses these rows: answer so, and give the offsets to what comes next."""
        partition = part.partition
        log.error(
            "lane=%d event=refused topic=%s partition=%d sqlstate=%s error=%s",
            self.number, partition.topic.name, partition.index, error.sqlstate, describe(error),
        )  # fmt: skip
        partition.unstage()
        result = AppendResult(
            ErrorCode.UNKNOWN_SERVER_ERROR, message=f"the database refused the records: {describe(error)}"
        )
        for append in part.appends:
            self._answer(append, result)
        for append, _ in part.joined:
            self._answer(append, result)

    def _break(self, why: str, *, in_doubt: bool) -> list[Transaction]:
        """Answer everything queued with a retriable error and forget the partitions; returns what is in doubt."""
        self.ready.clear()
        self.term += 1
        result = AppendResult(ErrorCode.KAFKA_STORAGE_ERROR, message=why)
        doubtful: list[Transaction] = []
        touched: dict[Partition, None] = dict.fromkeys(self._dirty)
        for transaction in self._in_flight:
            for partition in transaction.parts:
                touched[partition] = None
            if transaction.outcome is Outcome.COMMITTING and in_doubt:
                doubtful.append(transaction)
            else:
                self._fail_transaction(transaction, result)
        self._in_flight.clear()
        for partition in self._ring:
            touched[partition] = None
            partition.is_ringed = False
            self._fail_pending(partition, result)
        self._ring.clear()
        for partition in touched:
            self._owner.forget(partition)
        self._dirty.clear()
        self._checkpoints_due.clear()
        self._blocks.clear()
        return doubtful

    def _fail_transaction(self, transaction: Transaction, result: AppendResult) -> None:
        transaction.outcome = Outcome.FAILED
        for part in transaction.parts.values():
            for append in part.appends:
                self._answer(append, result)
            for append, _ in part.joined:
                self._answer(append, result)
        for control in transaction.controls:
            # Its effect on memory is there already; partitions are loaded afresh.
            if not control.done.done():
                control.done.set_result(None)

    async def _recover(self) -> None:
        """Connection or resource error: fail the queue, learn the outcome of what was being committed, open new sessions."""
        commits = [t.commit for t in self._in_flight if t.commit is not None]
        lost = [s for s in self._sessions]
        for session in lost:
            session.drop()
        for commit in commits:
            # Its connection is closed, so the task ends now; its outcome, if any, is read back below.
            await asyncio.wait([commit], timeout=STATEMENT_TIMEOUT_S)
        for transaction in self._in_flight:
            if transaction.commit is not None and transaction.commit.done() and not transaction.commit.cancelled():
                if transaction.commit.exception() is None:
                    transaction.outcome = Outcome.COMMITTED
        while self._in_flight and self._in_flight[0].outcome is Outcome.COMMITTED:
            self._apply(self._in_flight.popleft())
        self._sessions.clear()
        doubtful = self._break("the connection to the database was lost", in_doubt=True)
        attempt = 0
        while True:
            try:
                await self._resolve(lost, doubtful)
                await self.open()
                log.warning("lane=%d event=recovered", self.number)
                return
            except (*CONNECTION_ERRORS, asyncpg.PostgresError, StorageError) as error:
                log.warning("lane=%d event=reconnect_failed error=%s", self.number, describe(error))
                for session in self._sessions:
                    session.drop()
                self._sessions.clear()
            if self._stopping:
                self._give_up(doubtful)
                return
            await asyncio.sleep(RECONNECT_DELAYS_S[min(attempt, len(RECONNECT_DELAYS_S) - 1)])
            attempt += 1

    def _give_up(self, doubtful: list[Transaction]) -> None:
        """Stopped while the database is away: the outcome stays unknown, so say what makes the client ask again."""
        for transaction in doubtful:
            self._fail_transaction(
                transaction, AppendResult(ErrorCode.REQUEST_TIMED_OUT, message="the broker stopped before the commit was known")
            )
        doubtful.clear()

    async def _resolve(self, lost: list[Session], doubtful: list[Transaction]) -> None:
        """Make sure that the lost backends are gone, then read back what they committed.

        Before that the rows may still appear. The session's own commits of the reads come after it opened as a writer,
        so it sees all that the lost backends did.
        """
        if not self._sessions:
            self._sessions.append(await self._open_session(f"lane {self.number}"))
        connection = self._sessions[0].connection
        async with asyncio.timeout(RESOLVE_TIMEOUT_S):
            for session in list(lost):
                if session.identity.started_at == self._sessions[0].identity.started_at:
                    await connection.fetchval(SESSION_SQL["terminate"], session.identity.pid)
                    await connection.execute(SESSION_SQL["lock_exclusive"], session.lock_id)
                    await connection.execute(SESSION_SQL["unlock_exclusive"], session.lock_id)
                lost.remove(session)
            while doubtful:
                transaction = doubtful[0]
                if await self._was_committed(connection, transaction):
                    log.warning("lane=%d event=resolved outcome=committed", self.number)
                    transaction.outcome = Outcome.COMMITTED
                    doubtful.pop(0)
                    self._apply(transaction)
                else:
                    log.warning("lane=%d event=resolved outcome=rolled_back", self.number)
                    doubtful.pop(0)
                    self._fail_transaction(
                        transaction, AppendResult(ErrorCode.KAFKA_STORAGE_ERROR, message="the commit did not happen")
                    )

    async def _was_committed(self, connection: asyncpg.Connection, transaction: Transaction) -> bool:
        # A write of our own that returns clean is the barrier: under synchronous replication everything before it has
        # reached the standby too.
        session = self._sessions[0]
        session.commit_in_doubt = False
        await connection.execute(CLUSTER_SQL["heartbeat"], self._owner.incarnation)
        self._check_doubt(session)
        for partition, part in transaction.parts.items():
            assert part.first_extent is not None
            statement = queries.render(
                SQL["row_exists"], leaf=leaf_table(part.first_extent.series, part.first_extent.segment)
            )
            return bool(await connection.fetchval(statement, partition.topic.id, partition.index, *part.first))
        return False


class StorageLost(StorageError):
    """A session can no longer be trusted; the lane must start over with new ones."""

    def __init__(self, message: str) -> None:
        super().__init__(True, ErrorCode.KAFKA_STORAGE_ERROR, message)


async def _copy_stream(parts: Iterable[Part]) -> AsyncIterator[bytes]:
    """The COPY data of a transaction in pieces of a useful size: few calls, no copy of what is large already."""
    pieces = [_records.COPY_HEADER]
    size = 0
    for part in parts:
        for row in part.rows:
            pieces.append(row)
            size += len(row)
            if size >= 262_144:
                yield b"".join(pieces)
                pieces, size = [], 0
    pieces.append(_records.COPY_TRAILER)
    yield b"".join(pieces)


def _is_abort(error: asyncpg.PostgresError) -> bool:
    """The server has rolled back. After 57P01 and the like it may have committed and only not waited for a standby."""
    return (error.sqlstate or "")[:2] in ("22", "23", "25", "40", "42", "53", "54", "55")


def _halves(parts: list[Part]) -> list[list[Part]]:
    middle = len(parts) // 2
    return [half for half in (parts[:middle], parts[middle:]) if half]


def _named_culprit(transaction: Transaction, error: asyncpg.PostgresError) -> Part | None:
    """The part whose row the error names ("COPY log, line 7")."""
    found = _COPY_LINE.search(getattr(error, "context", None) or "")
    if found is None:
        return None
    line = int(found[1])
    for part in transaction.parts.values():
        line -= len(part.rows)
        if line <= 0:
            return part
    return None
