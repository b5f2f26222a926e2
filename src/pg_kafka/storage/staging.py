"""What waits for a lane, and how it becomes a transaction: batches get their offsets, producers are checked, rows are made.

Offsets are given out in queue order when a transaction is built. What is staged runs ahead of what is committed; the lane
makes it real, or has it fall back.

A batch as large as a transaction, a giant, gets one to itself, which is loaded beside those of other partitions. Its
partition is held meanwhile: nothing else of it is staged, no marker and no checkpoint.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pg_kafka.clock import Clock
from pg_kafka.coordinator import producer_state
from pg_kafka.coordinator.producer_state import Accepted, Duplicate, ProducerWindow, SequencedBatch
from pg_kafka.errors import StorageError
from pg_kafka.metrics._requests import Commit
from pg_kafka.storage.backlog import Backlog
from pg_kafka.storage.bundles import Bundle
from pg_kafka.storage.committed_ends import CommittedEnds
from pg_kafka.storage.disk import NEARLY_FULL
from pg_kafka.storage.endings import Ending, MarkerAppend
from pg_kafka.storage.first_batches import FirstBatches
from pg_kafka.storage.flight import Checkpoint, Control, Flight, GlobalOffsets, Part, make_rows
from pg_kafka.storage.journal import JournalPart, JournalQueue, not_written, writes_of
from pg_kafka.storage.partition import Append, AppendResult, Partition
from pg_kafka.storage.producer_ages import ProducerAges
from pg_kafka.storage.write_places import WritePlaces
from pg_kafka.wire import _records
from pg_kafka.wire._records import Batch
from pg_kafka.wire.error_codes import ErrorCode

logger = logging.getLogger("pg_kafka.lane")

MAX_TRANSACTION_BYTES = 4 * 1024 * 1024
MAX_TURN_BYTES = 256 * 1024
# Making the rows of so many takes some 40 ms of the event loop.
MAX_TRANSACTION_PARTITIONS = 2_000
GIANT_BYTES = MAX_TRANSACTION_BYTES
# A larger batch would take the place of many in memory, and a copy of it holds up all connections.
MAX_TAIL_BATCH_BYTES = 8 * 1024 * 1024
# The journals' share of a transaction, so that partitions have theirs.
MAX_JOURNAL_BYTES = 2 * 1024 * 1024
CHECKPOINTS_AT_ONCE = 500
_ANY_BYTES = 1 << 40  # for those who wait for the last stable offset, how far it moved does not matter
# After these errors a client sends the same batch again.
_ASKED_AGAIN = (ErrorCode.KAFKA_STORAGE_ERROR, ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.REQUEST_TIMED_OUT)


class Owner(Protocol):
    """The log, as its lanes see it."""

    def committed(self, partition: Partition, appended_bytes: int) -> None:
        """A partition has grown."""


class OpenTransactions(Protocol):
    """What the coordinator of transactions knows (coordinator/open_transactions.py)."""

    def admits(self, place: tuple[int, int], producer_id: int, epoch: int) -> int:
        """0 when a producer's transaction is open in a partition, else the error code."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What all lanes of a log use."""

    places: WritePlaces
    backlog: Backlog
    first_batches: FirstBatches
    ends: CommittedEnds
    ages: ProducerAges
    clock: Clock
    transactions: OpenTransactions
    commit: Commit


class Staging:
    """See the module. `in_flight` is the lane's: transactions that are written but not committed yet."""

    def __init__(
        self,
        owner: Owner,
        shared: Shared,
        in_flight: Sequence[Flight],
        *,
        checkpoint_bytes: int,
        checkpoint_ms: int,
    ) -> None:
        self.ring: deque[Partition] = deque()
        self.controls: deque[Control] = deque()
        self.journal = JournalQueue()
        self.global_offsets = GlobalOffsets()
        self.dirty: dict[Partition, None] = {}  # changed since their checkpoints
        self.checkpoints_due: dict[
            Partition, None
        ] = {}  # in order, each once: a statement writes a partition's row once
        self.closed: set[int] = set()  # topics that take no more appends
        self.giants: deque[Partition] = deque()  # not in the ring, as their next batch is a giant
        self.held: Partition | None = None  # its giant is being written
        self.queued_records = 0
        self.giant_bytes = 0  # of giants that are queued
        self._queued_bytes = 0
        self._owner = owner
        self._places = shared.places
        self._backlog = shared.backlog
        self._first_batches = shared.first_batches
        self._ends = shared.ends
        self._ages = shared.ages
        self._clock = shared.clock
        self._transactions = shared.transactions
        self._in_flight = in_flight
        self._checkpoint_bytes = checkpoint_bytes
        self._checkpoint_s = checkpoint_ms / 1000
        self._next_checkpoint = self._clock.steady_s() + self._checkpoint_s

    def __bool__(self) -> bool:
        """Is there something to build from?"""
        return bool(self.ring or self.journal or self.controls or self.checkpoints_due or self.has_giant)

    @property
    def has_giant(self) -> bool:
        """Can a giant be built?"""
        return bool(self.giants) and self.held is None

    @property
    def waits_for_held(self) -> bool:
        """What is next has to come after the giant that is being written."""
        held = self.held
        return held is not None and bool(
            self.controls
            or any(isinstance(item, Bundle) and any(p is held for p in item.partitions()) for item in self.journal)
        )

    @property
    def bytes(self) -> int:
        """How much is queued, without giants."""
        return self._queued_bytes + self.journal.bytes

    def add(self, partition: Partition, append: Append) -> None:
        """Queue a batch."""
        partition.pending.append(append)
        if not _is_giant(append):
            self._queued_bytes += append.bytes
        else:
            self.giant_bytes += append.bytes
        self.queued_records += append.batch.count
        if not partition.is_ringed:
            partition.is_ringed = True
            self.ring.append(partition)

    def _next(self, partition: Partition) -> Append:
        append = partition.pending.popleft()
        if not _is_giant(append):
            self._queued_bytes -= append.bytes
        else:
            self.giant_bytes -= append.bytes
        self.queued_records -= append.batch.count
        return append

    def fail_pending(self, partition: Partition, result: AppendResult) -> None:
        """Answer all that a partition has queued."""
        while partition.pending:
            self.answer(self._next(partition), result)

    def answer(self, append: Append, result: AppendResult) -> None:
        """Say what became of a batch."""
        self._backlog.answered(append.bytes)
        if result.error in _ASKED_AGAIN:
            self._await_again(append)
        try:
            append.done(result)
        except Exception:
            where = {"topic": append.partition.topic.name, "partition": append.partition.index}
            logger.exception("reply failed", extra=where)

    def _await_again(self, append: Append) -> None:
        batch, partition = append.batch, append.partition
        if batch.base_sequence >= 0:
            self._first_batches.await_again(
                partition.topic.id, partition.index, batch.producer_id, batch.producer_epoch, batch.base_sequence
            )

    def may_come_again(self, flights: Iterable[Flight]) -> None:
        """Their batches come before those that are failed from now on, should they have to be sent again."""
        for flight in flights:
            for part in flight.parts.values():
                for append in part.appends:
                    self._await_again(append)

    def need_not_come_again(self, flight: Flight) -> None:
        """It is committed after all."""
        for partition, part in flight.parts.items():
            for append in part.appends:
                if append.batch.base_sequence >= 0:
                    self._first_batches.take(partition, append.batch)

    def answer_early(self, append: Append, result: AppendResult) -> None:
        """Answer a batch before what became of its transaction is known; then it gets no other answer."""
        if append.done is _was_answered:
            return
        self.answer(append, result)
        append.done = _was_answered
        self._backlog.expect(append.bytes)  # it is still held, and answered once more in the end

    def fail_appends(self, result: AppendResult) -> list[Partition]:
        """Answer all batches that are queued; what is staged stays. Returns their partitions."""
        queued = [*self.ring, *self.giants, *((self.held,) if self.held is not None else ())]
        for partition in queued:
            partition.is_ringed = False
            self.fail_pending(partition, result)
        self.ring.clear()
        self.giants.clear()
        self.held = None
        return queued

    def fail_all(self, result: AppendResult) -> list[Partition]:
        """Answer everything that is queued and forget what is staged; returns the partitions that are touched by that."""
        touched = [*self.dirty, *self.fail_appends(result)]
        self.journal.fail_all(result.message or "")
        self.dirty.clear()
        self.checkpoints_due.clear()
        self.global_offsets.clear()
        return touched

    def close_topic(self, topic_id: int) -> None:
        """Fail what a topic has queued and take no more from it."""
        self.closed.add(topic_id)
        for partition in [p for p in (*self.ring, *self.giants) if p.topic.id == topic_id]:
            self.fail_pending(partition, AppendResult(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION))

    def reopen_topic(self, topic_id: int) -> None:
        self.closed.discard(topic_id)

    # -- building ----------------------------------------------------------------------------------------------------

    def build(self, flight: Flight) -> None:
        """Take queued batches, round robin over partitions, and give them offsets."""
        while self.controls:
            control = self.controls.popleft()
            control.apply()
            flight.controls.append(control)
        if self.journal:
            flight.journals = self._places.journals
            for item in self.journal.take(MAX_JOURNAL_BYTES):
                if isinstance(item, Bundle) and (reason := self._refusal(item)):
                    self._refuse(item, not_written(reason))
                    continue
                for write in writes_of(item):
                    flight.journal_parts.setdefault(write.owner, JournalPart(write.owner)).writes.append(write)
                if isinstance(item, Bundle):
                    flight.bundles.append(item)
                    self._stage_appends(flight, item)
                if isinstance(item, Ending):
                    self._stage_markers(flight, item)
                flight.bytes += item.bytes
        while self.ring and flight.bytes < MAX_TRANSACTION_BYTES and len(flight.parts) < MAX_TRANSACTION_PARTITIONS:
            partition = self.ring.popleft()
            part = flight.parts.get(partition)
            if part is None:
                part = flight.parts[partition] = Part(partition)
            taken = 0
            while partition.pending and taken < MAX_TURN_BYTES and flight.bytes < MAX_TRANSACTION_BYTES:
                if _is_giant(partition.pending[0]):
                    break
                append = self._next(partition)
                if self._stage(part, append):
                    taken += append.bytes
                    flight.bytes += append.bytes
            self._put_back(partition)
        now_ms = self._clock.wall_ms()
        for part in list(flight.parts.values()):
            if part.appends:
                self._ends.check(part.partition, part.appends[0].base_offset)
                make_rows(part, self._places.segment(part.partition.series), now_ms, self.global_offsets)
            else:
                del flight.parts[part.partition]
        for partition in self._take_due_checkpoints():
            part = flight.parts.get(partition)
            if part is None:
                part = Part(partition)
                flight.checkpoints.append(part)
            part.checkpoint = self._checkpoint(partition, part.bytes)

    def build_giant(self, flight: Flight) -> None:
        """Take the next giant, alone, and hold its partition; without one that has to be written, nothing is taken.

        Nothing else may be in flight: it commits in its own time.
        """
        partition = self.giants.popleft()
        part = Part(partition)
        if partition.pending and self._stage(part, self._next(partition)):
            flight.parts[partition] = part
            flight.bytes = part.bytes
            self.held = partition
            self._ends.check(partition, part.appends[0].base_offset)
            segment = self._places.segment(partition.series)
            make_rows(part, segment, self._clock.wall_ms(), self.global_offsets)
            return
        assert not part.joined  # nothing is in flight, so the first copy of a duplicate is committed
        self._put_back(partition)

    def release(self) -> None:
        """The giant is written, or has failed."""
        partition, self.held = self.held, None
        if partition is not None:
            self._put_back(partition)

    def _put_back(self, partition: Partition) -> None:
        """Queue a partition again if it has more."""
        if not partition.pending:
            partition.is_ringed = False
        elif _is_giant(partition.pending[0]):
            self.giants.append(partition)
        else:
            self.ring.append(partition)

    def _refusal(self, bundle: Bundle) -> str | None:
        """Why a bundle cannot be written now."""
        if any(self._is_closed(partition) for partition in bundle.partitions()):
            # The topic may go, or stay after all: whose bundle it is has to look again.
            return "a topic is being deleted"
        if bundle.appends and self._backlog.must_drop:
            return NEARLY_FULL
        return None

    def _refuse(self, bundle: Bundle, error: StorageError) -> None:
        """Answer a bundle, and what has queued behind it and builds on it."""
        self.journal.finish(bundle, error)
        for owner in {write.owner for write in bundle.writes}:
            for later in self.journal.take_owned(owner):
                self.journal.finish(later, error)

    def _stage_appends(self, flight: Flight, bundle: Bundle) -> None:
        """Give the batches of a bundle their offsets."""
        for partition, appends in bundle.appends:
            part = flight.parts.get(partition)
            if part is None:
                part = flight.parts[partition] = Part(partition)
            for append in appends:
                append.base_offset = partition.stage_batch(part, append.batch.count, -1, None, is_transactional=False)
                part.appends.append(append)
                part.bytes += append.bytes
                self._backlog.expect(append.bytes)  # what is answered was counted before

    def _stage_markers(self, flight: Flight, ending: Ending) -> None:
        """Give the markers of a transaction their offsets."""
        now_ms = self._clock.wall_ms()
        for partition, marker in ending.markers:
            part = flight.parts.get(partition)
            if part is None:
                part = flight.parts[partition] = Part(partition)
            producer_id = marker.producer_id
            first_offset = partition.staged_transaction(producer_id)
            append = MarkerAppend(partition, marker, first_offset, now_ms)
            window = producer_state.mark(
                partition.staged_window(producer_id),
                epoch=marker.producer_epoch,
                timestamp_ms=now_ms,
                coordinator_epoch=marker.coordinator_epoch,
            )
            partition.stage_marker(part, append.base_offset, producer_id, window, is_commit=marker.is_commit)
            part.appends.append(append)
            part.bytes += append.bytes
            part.has_markers = True
            self._backlog.expect(append.bytes)  # what is answered was counted before

    def _stage(self, part: Part, append: Append) -> bool:
        """Check a batch's sequence and give it its offset; False when it is answered without being written."""
        partition, batch = part.partition, append.batch
        if self._is_closed(partition):
            self.answer(append, AppendResult(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION))
            return False
        if self._backlog.must_drop:
            self.answer(append, AppendResult(ErrorCode.KAFKA_STORAGE_ERROR, message=NEARLY_FULL))
            return False
        window: ProducerWindow | None = None
        if batch.producer_id >= 0:
            window = partition.staged_window(batch.producer_id)
            verdict = producer_state.check(
                window, epoch=batch.producer_epoch, base_sequence=batch.base_sequence, count=batch.count
            )
            if window is None and (message := self._refuse_unknown(partition, append)):
                self.answer(append, AppendResult(ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, message=message))
                return False
            if isinstance(verdict, Duplicate):
                self._join(part, append, verdict.batch)
                return False
            if not isinstance(verdict, Accepted):
                self.answer(append, AppendResult(verdict.error, message=verdict.message))
                return False
            refused = self._check_transaction(partition, batch)
            if refused is not None:
                self.answer(append, refused)
                return False
            window = producer_state.advance(
                window,
                epoch=batch.producer_epoch,
                base_sequence=batch.base_sequence,
                count=batch.count,
                base_offset=partition.staged_end,
                timestamp_ms=self._clock.wall_ms(),
            )
        append.base_offset = partition.stage_batch(
            part, batch.count, batch.producer_id, window, is_transactional=batch.is_transactional
        )
        part.appends.append(append)
        part.bytes += append.bytes
        return True

    def _refuse_unknown(self, partition: Partition, append: Append) -> str | None:
        """Why a producer that the partition does not know cannot begin with this batch."""
        if append.begins_at_zero and append.batch.base_sequence:
            return f"sequence number {append.batch.base_sequence} where 0 comes first, the producer is not known here"
        if not self._first_batches.take(partition, append.batch):
            return "an earlier batch of this producer failed and has to be sent again first"
        return None

    def _is_closed(self, partition: Partition) -> bool:
        return partition.is_closed or partition.topic.id in self.closed

    def _check_transaction(self, partition: Partition, batch: Batch) -> AppendResult | None:
        """What a batch is refused with: one of a transaction that is not open, or one without in the midst of a transaction."""
        if batch.is_transactional:
            place = (partition.topic.id, partition.index)
            code = self._transactions.admits(place, batch.producer_id, batch.producer_epoch)
            if code:
                return AppendResult(code, message="the transaction of the batch is not open in this partition")
        elif (partition.open_transactions or partition.staged_open) and (
            partition.staged_transaction(batch.producer_id) is not None
        ):
            message = "the producer has an open transaction here, and the batch does not belong to it"
            return AppendResult(ErrorCode.INVALID_TXN_STATE, message=message)
        return None

    def _join(self, part: Part, append: Append, batch: SequencedBatch) -> None:
        """Answer a duplicate with the offset of the first copy, once that is committed."""
        partition = part.partition
        if batch.last_offset < partition.high_watermark:
            self.answer(append, self.duplicate_result(partition, append, batch))
            return
        for flight in self._in_flight:
            holder = flight.parts.get(partition)
            if holder is not None and batch.last_offset < holder.end:
                holder.joined.append((append, batch))
                return
        part.joined.append((append, batch))

    @staticmethod
    def duplicate_result(partition: Partition, append: Append, batch: SequencedBatch) -> AppendResult:
        stamped = batch.timestamp_ms if append.timestamp_type == 1 else -1
        return AppendResult(ErrorCode.NONE, batch.base_offset, stamped, partition.log_start_offset)

    # -- after the commit -------------------------------------------------------------------------------------------

    def make_real(self, part: Part) -> None:
        """A part is committed: take it into the partition's state, answer its batches and wake who waits."""
        partition = part.partition
        partition.commit(part)
        sent = 0
        for append in part.appends:
            batch = append.batch
            stamped = part.append_time if append.timestamp_type == 1 else -1
            is_large = len(batch.wire) > MAX_TAIL_BATCH_BYTES
            if is_large or partition.is_closed or append.is_encoded_anew:
                sent += len(batch.wire)
                continue
            wire = append.wire or _records.restamp(batch.wire, append.base_offset, partition.leader_epoch, stamped)
            partition.tail.append(append.base_offset, append.base_offset + batch.count - 1, wire)
            sent += len(wire)
        if part.checkpoint is not None:
            self.checkpoint_written(partition)
        elif partition.bytes_since_checkpoint >= self._checkpoint_bytes:
            self.checkpoints_due[partition] = None
            partition.checkpoint_due()
        self.dirty[partition] = None
        start = partition.log_start_offset
        for append in part.appends:
            stamped = part.append_time if append.timestamp_type == 1 else -1
            self.answer(append, AppendResult(ErrorCode.NONE, append.base_offset, stamped, start))
        for append, batch_before in part.joined:
            self.answer(append, self.duplicate_result(partition, append, batch_before))
        if partition.traffic is not None:
            partition.traffic.written(part.appends)
        self._ends.note(partition)
        self._owner.committed(partition, part.bytes)
        for waiter in list(partition.waiters):
            waiter.on_advance(partition, _ANY_BYTES if part.has_markers else sent)

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def _checkpoint(self, partition: Partition, added_bytes: int) -> Checkpoint:
        staged = added_bytes + sum(t.parts[partition].bytes for t in self._in_flight if partition in t.parts)
        figures = partition.staged_held
        return Checkpoint(
            partition.staged_end,
            partition.staged_max_timestamp,
            partition.append_bytes_total + staged,
            partition.checkpoint_json(self._ages.oldest_ms()),
            partition.open_json(),
            None if figures is None else figures.bytes,
            None if figures is None else figures.records,
        )

    def mark_checkpoints(self) -> None:
        """All changed partitions are due."""
        self.checkpoints_due.update(self.dirty)
        self.dirty.clear()
        self._next_checkpoint = self._clock.steady_s() + self._checkpoint_s

    def _take_due_checkpoints(self) -> list[Partition]:
        if self.dirty and self.until_checkpoint_s() <= 0:
            self.mark_checkpoints()
        due: list[Partition] = []
        while self.checkpoints_due and len(due) < CHECKPOINTS_AT_ONCE:
            partition = next(iter(self.checkpoints_due))
            del self.checkpoints_due[partition]
            if partition is self.held:
                self.dirty[partition] = None  # what is staged there may fail
            elif not partition.is_closed:
                due.append(partition)
        return due

    def checkpoint_written(self, partition: Partition) -> None:
        partition.checkpoint_written(self._ages.oldest_ms())

    def until_checkpoint_s(self) -> float:
        """Seconds until all changed partitions are due."""
        return self._next_checkpoint - self._clock.steady_s()


def _is_giant(append: Append) -> bool:
    return append.bytes >= GIANT_BYTES


def _was_answered(_result: AppendResult) -> None:
    """For a batch that has had its answer."""
