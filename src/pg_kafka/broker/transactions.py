"""The coordinator of transactions: it owns the machines of transactional ids, gives them requests and time, and does what
they say.

A step of a machine changes memory at once; its records are queued for the database, and whoever waits for an answer of
this id gets it after the commit of everything that it had queued by then. An ending goes to the lanes: where all of it
belongs to one lane, decision, markers, offsets and the end are one PostgreSQL transaction; otherwise the decision is
committed first, then markers and offsets lane by lane, then the end. Who asked for it is answered when all that others
can see is committed. When a write fails, or a machine does, all machines are thrown away and loaded from what is
stored, and decided endings are carried out again.

    transactions = TransactionCoordinator(...)
    await transactions.start()       loads; raises StorageError
    transactions.release()           new requests are refused
    await transactions.stop()
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pg_kafka.broker.answers import OrderedWrites
from pg_kafka.broker.groups import GroupCoordinator
from pg_kafka.broker.subjects import few
from pg_kafka.broker.timers import Timers
from pg_kafka.clock import Clock
from pg_kafka.config import Config
from pg_kafka.coordinator.group_offsets import Committed, OffsetKey
from pg_kafka.coordinator.open_transactions import OpenTransactions
from pg_kafka.coordinator.records import Record
from pg_kafka.coordinator.transaction_steps import (
    ONGOING,
    Decision,
    PendingOffset,
    Step,
    TopicPartition,
    TransactionSettings,
)
from pg_kafka.coordinator.transactions import Transaction
from pg_kafka.errors import StorageError
from pg_kafka.storage import endings
from pg_kafka.storage.endings import Marker
from pg_kafka.storage.journal import JournalWrite
from pg_kafka.storage.log import Log
from pg_kafka.storage.partition import Partition
from pg_kafka.storage.topics import Topics
from pg_kafka.storage.transactions import TransactionStore, transaction_write
from pg_kafka.wire.error_codes import ErrorCode

logger = logging.getLogger("pg_kafka.transactions")

# Delays between attempts to load machines, or the partitions of an ending.
RETRY_DELAYS_S = (0.0, 0.1, 0.5, 1.0, 2.0)
# After so long without a failure the delays begin anew.
SETTLED_MS = 10_000
# Between looks at what nothing tells of: whether a topic that is being deleted is gone.
LOOK_AGAIN_S = 0.02
# Machines made before the event loop gets its turn.
MACHINES_PER_TURN = 500

Pairs = Sequence[tuple[Partition, Marker]]

EndOfWaiting = tuple[str, OffsetKey, int]
"""An offset that waits no more: its group, its place, and the time of the commit that waited."""


class TransactionalId(OrderedWrites):
    """A transactional id in memory."""

    __slots__ = ("id", "machine", "producer_id", "term")

    def __init__(self, transactional_id: str, machine: Transaction, term: int) -> None:
        super().__init__()
        self.id = transactional_id
        self.machine = machine
        self.producer_id = -1  # by which it is found
        self.term = term  # of the load that it came with


@dataclass(slots=True, eq=False)
class TransactionCounts:
    """What is counted of all terms, as long as the process lives."""

    ended: Counter[str] = field(default_factory=Counter)  # committed, aborted, timed out, operator
    reloads: int = 0


class TransactionCoordinator:
    """See the module. Everything runs on one event loop."""

    def __init__(
        self,
        *,
        config: Config,
        topics: Topics,
        log: Log,
        opened: OpenTransactions[TransactionalId],
        store: TransactionStore,
        groups: GroupCoordinator,
        clock: Clock,
        counts: TransactionCounts | None = None,
    ) -> None:
        self._opened = opened
        self._counts = counts or TransactionCounts()
        self.refusal = ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
        """What requests get instead of an answer; NONE while transactional ids are served."""
        self._settings = TransactionSettings(
            transaction_max_timeout_ms=config.transaction_max_timeout_ms,
            transactional_id_expiration_ms=config.transactional_id_expiration_ms,
        )
        self._topics = topics
        self._log = log
        self._store = store
        self._groups = groups
        self.steady_ms = clock.steady_ms
        """The time of machines and of their timers."""
        self._began_ms = clock.steady_ms()
        self._ids: dict[str, TransactionalId] = {}
        self._pending = groups.pending
        self._term = 0
        self._timers = Timers(self.steady_ms, self._on_timer)
        self._reload = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()  # endings and timers that wait for something, of this term

    # -- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load all transactional ids and serve. Raises StorageError."""
        await self._load()
        self._keeper = asyncio.create_task(self._keep_loaded(), name="load transactional ids")

    def release(self) -> None:
        """Take nothing new. What is under way goes on."""
        self.refusal = ErrorCode.NOT_COORDINATOR
        self._opened.is_complete = False

    async def stop(self) -> None:
        """End timers and tasks. What is queued is written by the log's own stop."""
        self.release()
        self._drop_machines()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        await self._end_tasks()

    async def _load(self) -> None:
        await self._end_tasks()
        found: dict[str, TransactionalId] = {}
        for stored in await self._store.load():
            machine = Transaction(stored.transactional_id, self._settings)
            for record in stored.records:
                machine.apply(record)
            found[stored.transactional_id] = TransactionalId(stored.transactional_id, machine, self._term)
            if len(found) % MACHINES_PER_TURN == 0:
                await asyncio.sleep(0)
        if self.refusal is ErrorCode.NOT_COORDINATOR:
            return
        self._ids = found
        self.refusal = ErrorCode.NONE
        self._opened.is_complete = True
        self._pending.clear()
        for one in found.values():
            self._find_by_producer(one)
            for offset in one.machine.pending.values():
                key = (offset.topic_id, offset.partition)
                self._pending.add(one.id, offset.group, key, offset.committed_at_ms)
        steady_ms = self.steady_ms()
        for one in list(found.values()):
            steps = [partial(one.machine.forget_topic, topic_id) for topic_id in self._gone(one.machine)]
            for step in (*steps, partial(one.machine.restart, steady_ms, self._began_ms)):
                if self.refusal is not ErrorCode.NONE:
                    return
                self._run(one, step)

    def _gone(self, machine: Transaction) -> set[int]:
        """Topics of an open transaction that were deleted."""
        named = {topic_id for topic_id, _ in machine.partitions} | {one.topic_id for one in machine.pending.values()}
        return named - self._topics.by_id.keys() - self._topics.leaving

    async def _end_tasks(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _keep_loaded(self) -> None:
        """Load again whenever that is asked for, however often it takes."""
        attempt = 0
        tried_ms = 0
        while True:
            await self._reload.wait()
            if self.steady_ms() - tried_ms > SETTLED_MS:
                attempt = 0
            await asyncio.sleep(RETRY_DELAYS_S[min(attempt, len(RETRY_DELAYS_S) - 1)])
            self._reload.clear()
            try:
                await self._load()
            except StorageError as error:
                logger.warning("transactional ids cannot be loaded", extra={"error": str(error)})
            except Exception:
                logger.exception("transactional ids cannot be loaded")
            else:
                logger.warning("transactional ids are loaded again", extra={"transactional_ids": len(self._ids)})
            attempt += 1
            tried_ms = self.steady_ms()
            if self.refusal is ErrorCode.COORDINATOR_LOAD_IN_PROGRESS:
                self._reload.set()

    def _fail(self, reason: str, one: TransactionalId, error: BaseException | None = None) -> None:
        """Memory and database may differ: throw all machines away and load again."""
        if self.refusal is not ErrorCode.NONE:
            return
        self._counts.reloads += 1
        extra = {"transactional_id": one.id, "reason": reason}
        logger.warning("transactional ids have to be loaded again", extra=extra, exc_info=error)
        self.refusal = ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
        self._drop_machines()
        self._reload.set()

    def _drop_machines(self) -> None:
        self._term += 1
        self._timers.stop()
        self._ids = {}
        self._opened.clear()

    # -- what handlers ask -------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[TransactionalId]:
        return iter(list(self._ids.values()))

    def __len__(self) -> int:
        return len(self._ids)

    def get(self, transactional_id: str) -> TransactionalId | None:
        return self._ids.get(transactional_id)

    def find_producer(self, producer_id: int) -> TransactionalId | None:
        """Whose producer has this id."""
        return self._opened.by_producer.get(producer_id)

    async def init_producer(
        self, transactional_id: str, producer_id: int, epoch: int, timeout_ms: int, version: int
    ) -> Step:
        """A producer begins; the answer is in the step, with an error or when it is committed."""
        is_new = not self.refusal and transactional_id not in self._ids
        if is_new:
            machine = Transaction(transactional_id, self._settings)
            self._ids[transactional_id] = TransactionalId(transactional_id, machine, self._term)
        step = await self.step(
            transactional_id,
            lambda machine, fresh: machine.init_producer(
                producer_id, epoch, timeout_ms, fresh_producer_id=fresh, version=version, steady_ms=self.steady_ms()
            ),
            may_need_producer_id=True,
        )
        one = self._ids.get(transactional_id)
        if is_new and one is not None and one.machine.is_blank:
            del self._ids[transactional_id]  # refused before there was anything of it
        return step

    async def step(
        self,
        transactional_id: str,
        act: Callable[[Transaction, int | None], Step],
        *,
        may_need_producer_id: bool = False,
    ) -> Step:
        """Let the machine of an id take a step; returns it, with the error to answer with, when all is committed.

        `act` gets a producer id that was never used where the machine needs one (`needs_producer_id`).
        """
        one = self._ids.get(transactional_id)
        if self.refusal:
            return Step(self.refusal)
        if one is None:
            return Step(ErrorCode.INVALID_PRODUCER_ID_MAPPING)
        fresh: int | None = None
        if may_need_producer_id and one.machine.needs_producer_id:
            try:
                fresh = await self._log.allocate_producer_id()
            except StorageError as error:
                return Step(ErrorCode.COORDINATOR_NOT_AVAILABLE if error.retriable else error.code)
            if self._ids.get(transactional_id) is not one:
                return Step(self.refusal or ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)
        step = self._run(one, act, one.machine, fresh)
        if step is None:
            return Step(ErrorCode.UNKNOWN_SERVER_ERROR)
        if (not step.error or step.decision is not None) and (code := await one.written()):
            return Step(code)
        return step

    def admit(
        self,
        transactional_id: str,
        producer_id: int,
        epoch: int,
        partitions: Sequence[Partition],
        version: int,
        then: Callable[[Mapping[TopicPartition, int]], None],
    ) -> None:
        """May batches of this producer be appended? `then` is told which partitions must not get theirs, now or later.

        What a batch makes part of the transaction is committed before the batch is queued: an open transaction that
        nobody knows of would hold back its partition for ever. Whatever the id produces keeps its order.
        """
        one = self._ids.get(transactional_id)
        if self.refusal or one is None:
            # What Kafka makes of a coordinator that does not answer: older producers know no better code.
            code = ErrorCode.NOT_ENOUGH_REPLICAS if self.refusal else ErrorCode.INVALID_PRODUCER_ID_MAPPING
            then({_place(partition): int(code) for partition in partitions})
            return
        places = [(*_place(partition), partition.high_watermark) for partition in partitions]
        step = self._run(
            one, partial(one.machine.produce, version=version, steady_ms=self.steady_ms()), producer_id, epoch, places
        )
        if step is None:
            then({_place(partition): int(ErrorCode.UNKNOWN_SERVER_ERROR) for partition in partitions})
            return
        one.after_writes(_Admission(partitions, then), step.reply)

    def write_markers(self, lane: int, pairs: Pairs) -> Awaitable[None]:
        """Write markers that no machine has asked for. Awaiting it raises StorageError."""
        return self._store.end_loaded(lane, (), pairs)

    async def abort(self, transactional_id: str, producer_id: int, epoch: int) -> str | None:
        """End a transaction because an operator asks for it; says why it is not to be. Raises StorageError."""
        one = self._ids.get(transactional_id)
        if not self.refusal and one is None:
            return "there is no such transactional id"
        if one is not None:
            machine = one.machine
            is_other = (machine.producer_id, machine.producer_epoch) != (producer_id, epoch)
            if is_other or machine.state != ONGOING:
                return "that transaction is over"
        step = await self.step(
            transactional_id,
            lambda machine, fresh: machine.abort(self.steady_ms(), fresh_producer_id=fresh),
            may_need_producer_id=True,
        )
        if step.error == ErrorCode.INVALID_TXN_STATE:
            return "that transaction is over"
        if step.error:
            raise StorageError(True, step.error, f"it cannot be aborted now: {ErrorCode(step.error).name}")
        return None

    async def forget_offsets(self, group_id: str, keys: Collection[OffsetKey] | None = None) -> int:
        """Offsets of a group are deleted, all without keys: what waits for an open transaction goes too. An error code."""
        asked = []
        for one in [self._ids[each] for each in sorted(self._pending.ids(group_id, keys)) if each in self._ids]:
            if self._run(one, one.machine.forget_offsets, group_id, keys) is None:
                return int(ErrorCode.UNKNOWN_SERVER_ERROR)
            asked.append(one)
        # Of an ending under way, what others can see comes first, and then that it is over. Before that is committed, a
        # restart would carry it out again, and the offsets would be back.
        for _ in range(2):
            for waiting in [one.written() for one in asked]:
                if code := await waiting:
                    return code
        return int(ErrorCode.NONE)

    # -- steps -------------------------------------------------------------------------------------------------------

    def _run(self, one: TransactionalId, act: Callable[..., Step], *arguments: Any) -> Step | None:
        """Take a step and do what it says, but for the answer; None when the machine failed."""
        try:
            step = act(*arguments)
            self._perform(one, step)
        except Exception as error:
            self._fail("the machine of a transactional id failed", one, error)
            return None
        return step

    def _perform(self, one: TransactionalId, step: Step) -> None:
        self._take_over(one, step)
        if step.decision is not None:
            self._end(one, step.records, step.decision)
        elif step.records:
            self._write(one, step.records)
        if step.is_dead:
            self._timers.clear(one)
            del self._ids[one.id]
            self._opened.by_producer.pop(one.producer_id, None)

    def _take_over(self, one: TransactionalId, step: Step) -> None:
        """What follows from a step at once."""
        if step.timers:
            self._timers.update(one, {(name,): deadline_ms for name, deadline_ms in step.timers.items()})
        if one.machine.producer_id != one.producer_id:
            self._find_by_producer(one)

    def _find_by_producer(self, one: TransactionalId) -> None:
        by_producer = self._opened.by_producer
        if by_producer.get(one.producer_id) is one:
            del by_producer[one.producer_id]
        one.producer_id = one.machine.producer_id
        by_producer[one.producer_id] = one

    def _on_timer(self, owner: object, name: tuple[str, ...]) -> None:
        assert isinstance(owner, TransactionalId)
        if owner.machine.needs_producer_id:
            self._spawn(owner, self._fire_with_producer_id(owner, name[0]))
        else:
            self._run(owner, owner.machine.on_timer, name[0], self.steady_ms())

    async def _fire_with_producer_id(self, one: TransactionalId, name: str) -> None:
        fresh = await self._persistently(self._log.allocate_producer_id, {"transactional_id": one.id})
        if one.term == self._term:
            self._run(one, partial(one.machine.on_timer, name, self.steady_ms(), fresh_producer_id=fresh))

    def _spawn(self, one: TransactionalId, work: Coroutine[Any, Any, None]) -> None:
        """A task that ends with the term; who waits for what it was to write is then told so."""
        task = asyncio.create_task(work, name="end a transaction")
        self._tasks.add(task)
        task.add_done_callback(partial(self._on_task_done, one))

    def _on_task_done(self, one: TransactionalId, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and one.term == self._term:
            self._fail("a transaction cannot be ended", one, error)
        if error is not None or task.cancelled():
            one.settle(failed=True)

    # -- writes ------------------------------------------------------------------------------------------------------

    def _write(self, one: TransactionalId, records: Sequence[Record]) -> None:
        self._stage_pending(one.id, records)
        one.issued += 1
        self._store.write(one.id, records, partial(self._on_written, one, self._ends_of_waiting(one.id, records)))

    def _on_written(self, one: TransactionalId, ends: Sequence[EndOfWaiting], error: StorageError | None) -> None:
        """A write is committed, or has failed; those of one id end in the order in which they began."""
        if one.term == self._term:
            if error is None:
                for group_id, key, committed_at_ms in ends:
                    self._pending.remove(one.id, group_id, key, committed_at_ms)
            else:
                self._fail(str(error), one)
        one.settle(failed=error is not None)

    def _stage_pending(self, transactional_id: str, records: Sequence[Record]) -> None:
        for record in records:
            if record.kind == "offset" and record.value is not None:
                offset = PendingOffset.of(record.value)
                key = (offset.topic_id, offset.partition)
                self._pending.add(transactional_id, offset.group, key, offset.committed_at_ms)

    def _ends_of_waiting(self, transactional_id: str, records: Sequence[Record]) -> list[EndOfWaiting]:
        """The offsets that wait no more once these records are committed.

        By then the next transaction may have committed the same: who asks for its time finds that it is another one.
        """
        ends = []
        for record in records:
            if record.kind == "offset" and record.value is None:
                group_id, topic_id, partition = record.key.rsplit("\n", 2)
                key = (int(topic_id), int(partition))
                committed_at_ms = self._pending.time_of(transactional_id, group_id, key)
                if committed_at_ms is not None:
                    ends.append((group_id, key, committed_at_ms))
        return ends

    # -- endings -----------------------------------------------------------------------------------------------------

    def _end(self, one: TransactionalId, records: Sequence[Record], decision: Decision) -> None:
        """Write what was decided, alone when more than one lane has to do with it, and carry it out."""
        if records and (decision.commit or decision.partitions or decision.offsets):
            self._counts.ended[_result(decision)] += (
                1  # else it was decided before, or there is nothing but a new epoch
            )
        if decision.is_timeout:
            logger.warning("a transaction timed out", extra=self._about(one, decision))
        elif decision.by_operator:
            logger.warning("an operator has aborted a transaction", extra=self._about(one, decision))
        one.issued += 1
        if records and len(self._lanes_of(one, decision)) > 1:
            self._store.write(one.id, records, partial(self._on_decided, one, decision))
        else:
            self._carry_out(one, records, decision)

    def _about(self, one: TransactionalId, decision: Decision) -> dict[str, object]:
        """Fields of a log line."""
        return {
            "transactional_id": one.id,
            "producer_id": decision.producer_id,
            "timeout_ms": one.machine.timeout_ms,
            "open_ms": self.steady_ms() - one.machine.started_ms,
            "topics": self._topics_of(decision),
            "partitions": len(decision.partitions),
        }

    def _topics_of(self, decision: Decision) -> str:
        """The first few topics that a transaction has written to, for a log line."""
        found = map(self._topics.by_id.get, dict.fromkeys(topic_id for topic_id, _ in decision.partitions))
        named = [topic.name for topic in found if topic is not None]
        return few(named, len(named))

    def _on_decided(self, one: TransactionalId, decision: Decision, error: StorageError | None) -> None:
        if error is not None:
            self._on_written(one, (), error)
        elif one.term != self._term:
            one.settle(failed=True)
        else:
            try:
                self._carry_out(one, (), decision)
            except Exception as failure:
                self._fail("a transaction cannot be ended", one, failure)
                one.settle(failed=True)

    def _lanes_of(self, one: TransactionalId, decision: Decision) -> set[int]:
        lanes = {self._log.lane_of_journal(one.id)}
        if decision.commit:
            lanes.update(self._log.lane_of_journal(offset.group) for offset in decision.offsets)
        lanes.update(self._log.lane_of(topic_id, index) for topic_id, index in decision.partitions)
        return lanes

    def _carry_out(self, one: TransactionalId, records: Sequence[Record], decision: Decision) -> None:
        """Queue markers and offsets, at once when all that they touch is in memory, else as soon as it is."""
        pairs = self._loaded(decision)
        if pairs is None:
            self._spawn(one, self._carry_out_later(one, records, decision))
        else:
            self._queue(one, records, decision, pairs)

    async def _carry_out_later(self, one: TransactionalId, records: Sequence[Record], decision: Decision) -> None:
        pairs: Pairs | None = None
        about = self._about(one, decision)
        while pairs is None:
            await self._groups.loaded()
            await self._persistently(partial(self._log.load_for_markers, self._markers(decision)), about)
            pairs = self._loaded(decision)
            if pairs is None:
                await asyncio.sleep(LOOK_AGAIN_S)
        self._queue(one, records, decision, pairs)

    async def _persistently(self, ask: Callable[[], Coroutine[Any, Any, Any]], about: Mapping[str, object]) -> Any:
        """What `ask` gives, however often the database has to be asked. `about` is for the log."""
        attempt = 0
        while True:
            try:
                return await ask()
            except StorageError as error:
                attempt += 1
                logger.warning("the end of a transaction has to wait", extra={"error": str(error), **about})
            await asyncio.sleep(RETRY_DELAYS_S[min(attempt, len(RETRY_DELAYS_S) - 1)])

    def _markers(self, decision: Decision) -> list[Marker]:
        producer = (decision.producer_id, decision.producer_epoch)
        return [Marker(*place, *producer, decision.commit, self._log.epoch) for place in decision.partitions]

    def _loaded(self, decision: Decision) -> Pairs | None:
        """The markers with their partitions, without those of topics that are gone; None when there is something to wait for."""
        if self._groups.refusal and decision.offsets:
            return None
        if any(topic_id in self._topics.leaving for topic_id, _ in decision.partitions):
            return None  # the deletion may fail
        pairs = []
        for marker in self._markers(decision):
            topic = self._topics.by_id.get(marker.topic_id)
            if topic is not None and marker.partition < topic.partitions:
                partition = self._log.partition(topic, marker.partition)
                if partition is None:
                    return None
                pairs.append((partition, marker))
        return pairs

    def _queue(self, one: TransactionalId, records: Sequence[Record], decision: Decision, pairs: Pairs) -> None:
        """Hand an ending to its lanes. Nothing may come between the look at memory and this."""
        home = self._log.lane_of_journal(one.id)
        is_whole = self._lanes_of(one, decision) == {home}
        by_lane: defaultdict[int, tuple[list[JournalWrite], list[tuple[Partition, Marker]]]]
        by_lane = defaultdict(lambda: ([], []))
        kept: Sequence[Record] = ()
        if is_whole:
            last = one.machine.ended(self.steady_ms())
            self._take_over(one, last)
            kept = list({(record.kind, record.key): record for record in (*records, *last.records)}.values())
            by_lane[home][0].append(_prepared(one.id, kept))
        for partition, marker in pairs:
            by_lane[self._log.lane_of(*_place(partition))][1].append((partition, marker))
        for write in self._offset_writes(decision):
            by_lane[self._log.lane_of_journal(write.owner_id)][0].append(write)
        if is_whole:
            self._queue_for_lane(
                home, *by_lane[home], partial(self._on_written, one, self._ends_of_waiting(one.id, kept))
            )
            return
        left = len(by_lane)

        def on_lane_done(error: StorageError | None) -> None:
            nonlocal left
            left -= 1
            if error is not None and one.term == self._term:
                self._fail(str(error), one)
            if not left:
                self._on_carried_out(one)

        for lane, (writes, of_lane) in by_lane.items():
            self._queue_for_lane(lane, writes, of_lane, on_lane_done)
        if not by_lane:
            self._on_carried_out(one)

    def _offset_writes(self, decision: Decision) -> list[JournalWrite]:
        """What groups write of it. Raises StorageError when one cannot."""
        by_group: dict[str, dict[OffsetKey, Committed]] = {}
        for offset in decision.offsets if decision.commit else ():
            if offset.topic_id in self._topics.by_id:
                committed = Committed(offset.offset, offset.leader_epoch, offset.metadata, offset.committed_at_ms)
                by_group.setdefault(offset.group, {})[offset.topic_id, offset.partition] = committed
        writes: list[JournalWrite] = []
        try:
            for group_id, commits in by_group.items():
                writes += self._groups.commit_with_transaction(group_id, commits)
        except StorageError as error:
            for write in writes:
                write.done(error)
            raise
        return writes

    def _queue_for_lane(
        self, lane: int, writes: Sequence[JournalWrite], pairs: Pairs, done: Callable[[StorageError | None], None]
    ) -> None:
        def on_done(error: StorageError | None) -> None:
            for write in writes:
                write.done(error)
            done(error)

        error = self._log.end_transaction(lane, endings.Ending(writes, on_done, markers=pairs))
        if error is not None:
            on_done(error)

    def _on_carried_out(self, one: TransactionalId) -> None:
        """Markers and offsets are committed, if no lane has failed. That they are is written last, and nobody waits for it."""
        is_over = one.term != self._term
        if not is_over:
            self._run(one, one.machine.ended, self.steady_ms())
        one.settle(failed=is_over)


class _Admission:
    """Batches that wait for what their id has to write before they are queued."""

    def __init__(self, partitions: Sequence[Partition], then: Callable[[Mapping[TopicPartition, int]], None]) -> None:
        self._partitions = partitions
        self._then = then

    def answer(self, message: Mapping[TopicPartition, int]) -> None:
        self._then(message)

    def refuse(self, code: int) -> None:
        self._then({_place(partition): int(ErrorCode.NOT_ENOUGH_REPLICAS) for partition in self._partitions})


def _result(decision: Decision) -> str:
    """How a transaction is ended, for those who count."""
    if decision.commit:
        return "committed"
    if decision.is_timeout:
        return "timed out"
    return "operator" if decision.by_operator else "aborted"


def _prepared(transactional_id: str, records: Sequence[Record]) -> JournalWrite:
    write = transaction_write(transactional_id, records)
    if reason := write.prepare():
        raise StorageError(False, ErrorCode.UNKNOWN_SERVER_ERROR, reason)
    return write


def _place(partition: Partition) -> TopicPartition:
    return partition.topic.id, partition.index
