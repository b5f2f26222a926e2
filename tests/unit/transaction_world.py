"""Runs machines of transactional ids as the broker does, over lanes and partitions in memory.

A lane is a queue of commits in order. What is queued is lost in a crash, what is committed stays: journals, logs,
offsets of groups. The rules of the edge are these:

- records of a transactional id go to its lane, in order, and replies wait for them;
- a batch is queued in the same breath as the machine is asked, and, when it goes to another lane, only after all
  records of the transactional id are committed;
- an ending that fits into one lane may be one commit with its decision; otherwise the decision is committed first, then
  the ending of each lane, then the completion;
- a topic is forgotten after its deletion is committed.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

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
from pg_kafka.wire.error_codes import ErrorCode

SETTINGS = TransactionSettings(transaction_max_timeout_ms=60_000, transactional_id_expiration_ms=1_000_000)
BEGIN_MS = 1_700_000_000_000


@dataclass(eq=False)
class Txn:
    """A transaction, for the books that the test keeps beside the machine."""

    transactional_id: str
    decision: bool | None = None  # commit
    is_decided: bool = False  # durably


Reply = Callable[[int, Any, Txn | None], None]
"""Takes the error code, the reply of the step, and the transaction that the request was part of."""


def ignore(error: int, reply: Any, txn: Txn | None) -> None:
    """A reply that nobody waits for."""


@dataclass(frozen=True)
class Row:
    """A batch of one record, or a marker."""

    producer_id: int
    epoch: int
    label: int  # -1: a marker
    commit: bool
    txn: Txn = field(compare=False)


@dataclass
class Commit:
    """One PostgreSQL transaction of a lane: what it changes, and what is done after it."""

    changes: list[Callable[[], None]]
    after: list[Callable[[], None]] = field(default_factory=list)


class World:
    def __init__(self, lanes: int = 1, *, is_collapsed: bool = True, settings: TransactionSettings = SETTINGS) -> None:
        self.lanes = lanes
        self.is_collapsed = is_collapsed
        self.settings = settings
        self.steady_ms = BEGIN_MS
        self.next_producer_id = 1_000
        # What is durable.
        self.journal: dict[str, dict[tuple[str, str], Any]] = {}
        self.logs: dict[TopicPartition, list[Row]] = {}
        self.offsets: dict[tuple[str, int, int], tuple[int, int]] = {}  # committed_at_ms and offset
        self.all_commits: dict[tuple[str, int, int], list[tuple[int, int]]] = {}  # that happened, in any order
        self.forgotten: set[int] = set()  # topics that are gone, and left out by all machines
        # What a crash takes.
        self.queues: list[deque[Commit]] = []
        self.machines: dict[str, Transaction] = {}
        self.timers: dict[tuple[str, str], int] = {}
        self.last_write: dict[str, Commit] = {}  # of a transactional id, not committed yet
        self.written: dict[str, dict[tuple[str, str], Any]] = {}  # the journal, when all queues are empty
        self.txns: dict[str, Txn] = {}  # the open or ending one
        self.durable_txns: dict[str, Txn] = {}  # the same, as far as it is committed
        self.crash()

    # -- lanes ---------------------------------------------------------------------------------------------------------

    def lane_of(self, thing: str | TopicPartition) -> int:
        number = sum(thing) if isinstance(thing, tuple) else sum(thing.encode())
        return number % self.lanes

    def submit(self, lane: int, commit: Commit) -> Commit:
        self.queues[lane].append(commit)
        return commit

    def commit(self, lane: int, *, is_heard: bool = True) -> bool:
        """Carry out the lane's next commit; False when there is none. The broker may die before it hears of it."""
        queue = self.queues[lane]
        if not queue:
            return False
        commit = queue.popleft()
        for change in commit.changes:
            change()
        for action in commit.after if is_heard else ():
            action()
        return True

    def drain(self) -> None:
        while any(self.commit(lane) for lane in range(self.lanes)):
            pass

    def crash(self) -> None:
        """All that is not committed is gone; the broker starts again."""
        self.queues = [deque() for _ in range(self.lanes)]
        self.timers, self.last_write, self.machines, self.forgotten = {}, {}, {}, set()
        self.txns = dict(self.durable_txns)
        self.written = {transactional_id: dict(records) for transactional_id, records in self.journal.items()}
        for transactional_id in list(self.journal):
            machine = self.machines[transactional_id] = self.loaded(transactional_id)
            if machine.state == ONGOING:
                self.txns[transactional_id].decision = None  # if there was one, it was lost
            self.perform(transactional_id, machine.restart(self.steady_ms, self.steady_ms))

    def loaded(self, transactional_id: str) -> Transaction:
        """The machine that what is written gives."""
        machine = Transaction(transactional_id, self.settings)
        for (kind, key), value in self.written[transactional_id].items():
            machine.apply(Record(kind, key, json.loads(json.dumps(value))))
        return machine

    # -- the edge ------------------------------------------------------------------------------------------------------

    def fresh(self, machine: Transaction) -> int | None:
        if not machine.needs_producer_id:
            return None
        self.next_producer_id += 1
        return self.next_producer_id

    def perform(self, transactional_id: str, step: Step, reply: Reply = ignore) -> None:
        """Write, end, and reply when all is committed."""
        self.set_timers(transactional_id, step)
        if step.is_dead:
            del self.machines[transactional_id]
        txn, lane = self.txns.get(transactional_id), self.lane_of(transactional_id)
        decision = step.decision
        if decision is None:
            self.write(transactional_id, step.records, txn)
        else:
            assert txn is not None
            assert txn.decision in (None, decision.commit), "one decision only"
            txn.decision = decision.commit
            lanes = {
                lane,
                *map(self.lane_of, decision.partitions),
                *(self.lane_of(each.group) for each in decision.offsets),
            }
            if self.is_collapsed and len(lanes) == 1:
                ended = self.machines[transactional_id].ended(self.steady_ms)
                self.set_timers(transactional_id, ended)
                commit = self.write(transactional_id, [*step.records, *ended.records], None, force=True)
                self.prepare_ending(txn, decision, lane, commit)
                del self.txns[transactional_id]
            else:
                commit = self.write(transactional_id, step.records, txn, force=True)
                commit.changes.append(lambda: self.set_decided(txn))
                commit.after.append(lambda: self.end_in_lanes(transactional_id, txn, decision, sorted(lanes)))
        last = self.last_write.get(transactional_id)
        if last is None:
            reply(step.error, step.reply, txn)
        else:
            last.after.append(lambda: reply(step.error, step.reply, txn))

    def set_timers(self, transactional_id: str, step: Step) -> None:
        for name, deadline_ms in step.timers.items():
            self.timers.pop((transactional_id, name), None)
            if deadline_ms is not None:
                self.timers[transactional_id, name] = deadline_ms

    def set_decided(self, txn: Txn) -> None:
        txn.is_decided = True

    def write(
        self, transactional_id: str, records: Sequence[Record], txn: Txn | None, *, force: bool = False
    ) -> Commit:
        commit = Commit([])
        if not records and not force:
            return commit
        # The latest value of each only, as in one COPY of the journal.
        latest = {(record.kind, record.key): record.value for record in records}

        def change() -> None:
            self.apply_records(self.journal, transactional_id, latest)
            self.durable_txns.pop(transactional_id, None)
            if txn is not None:
                self.durable_txns[transactional_id] = txn

        def forget() -> None:
            if self.last_write.get(transactional_id) is commit:
                del self.last_write[transactional_id]

        self.apply_records(self.written, transactional_id, latest)
        commit.changes.append(change)
        commit.after.append(forget)
        self.last_write[transactional_id] = commit
        return self.submit(self.lane_of(transactional_id), commit)

    def apply_records(
        self,
        where: dict[str, dict[tuple[str, str], Any]],
        transactional_id: str,
        latest: dict[tuple[str, str], Any],
    ) -> None:
        records = where.setdefault(transactional_id, {})
        for key, value in latest.items():
            if value is None:
                records.pop(key, None)
            else:
                records[key] = value
        if not records:
            del where[transactional_id]

    def prepare_ending(self, txn: Txn, decision: Decision, lane: int, commit: Commit) -> None:
        """Markers and offsets of one lane."""

        def change() -> None:
            txn.is_decided = True
            for partition in decision.partitions:
                log = self.logs.get(partition)
                if log is not None and self.lane_of(partition) == lane:
                    log.append(Row(decision.producer_id, decision.producer_epoch, -1, decision.commit, txn))
            for offset in decision.offsets if decision.commit else ():
                if self.lane_of(offset.group) == lane:
                    self.commit_offset(offset)

        commit.changes.append(change)

    def commit_offset(self, offset: PendingOffset) -> None:
        key = (offset.group, offset.topic_id, offset.partition)
        if (offset.topic_id, offset.partition) not in self.logs:
            return
        new = (offset.committed_at_ms, offset.offset)
        self.all_commits.setdefault(key, []).append(new)
        if new >= self.offsets.get(key, (-1, -1)):
            self.offsets[key] = new

    def end_in_lanes(self, transactional_id: str, txn: Txn, decision: Decision, lanes: Sequence[int]) -> None:
        left = set(lanes)

        def finish(lane: int) -> None:
            left.discard(lane)
            if not left and transactional_id in self.machines:
                self.txns.pop(transactional_id, None)
                self.perform(transactional_id, self.machines[transactional_id].ended(self.steady_ms))

        for lane in lanes:
            commit = Commit([])
            self.prepare_ending(txn, decision, lane, commit)
            commit.after.append(lambda lane=lane: finish(lane))  # type: ignore[misc]
            self.submit(lane, commit)

    # -- requests ------------------------------------------------------------------------------------------------------

    def init(
        self,
        transactional_id: str,
        producer_id: int = -1,
        epoch: int = -1,
        *,
        timeout_ms: int = 10_000,
        version: int = 5,
        reply: Reply = ignore,
        **more: Any,
    ) -> Step:
        machine = self.machines.setdefault(transactional_id, Transaction(transactional_id, self.settings))
        step = machine.init_producer(
            producer_id,
            epoch,
            timeout_ms,
            fresh_producer_id=self.fresh(machine),
            version=version,
            steady_ms=self.steady_ms,
            **more,
        )
        self.perform(transactional_id, step, reply)
        if machine.is_blank:
            del self.machines[transactional_id]
        return step

    def ask(self, transactional_id: str, request: Callable[[Transaction], Step], reply: Reply = ignore) -> Step:
        """Any other request that changes the machine."""
        machine = self.machines.get(transactional_id)
        if machine is None:
            reply(ErrorCode.INVALID_PRODUCER_ID_MAPPING, None, None)
            return Step(ErrorCode.INVALID_PRODUCER_ID_MAPPING)
        step = request(machine)
        if step.decision is not None or machine.state == ONGOING:
            self.txns.setdefault(transactional_id, Txn(transactional_id))
        self.perform(transactional_id, step, reply)
        return step

    def registrations(self, partitions: Sequence[TopicPartition]) -> list[tuple[int, int, int]]:
        return [(*partition, len(self.logs.get(partition, ()))) for partition in partitions]

    def add_partitions(
        self,
        transactional_id: str,
        producer: tuple[int, int],
        partitions: Sequence[TopicPartition],
        *,
        version: int = 3,
        reply: Reply = ignore,
    ) -> Step:
        new = self.registrations(partitions)
        return self.ask(
            transactional_id,
            lambda machine: machine.add_partitions(*producer, new, version=version, steady_ms=self.steady_ms),
            reply,
        )

    def produce(
        self,
        transactional_id: str,
        producer: tuple[int, int],
        partition: TopicPartition,
        label: int,
        *,
        version: int,
        reply: Reply = ignore,
    ) -> None:
        """One record to one partition."""
        if partition not in self.logs:
            reply(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, None, None)
            return
        new = self.registrations([partition])
        step = self.ask(
            transactional_id,
            lambda machine: machine.produce(*producer, new, version=version, steady_ms=self.steady_ms),
        )
        error = step.error or step.reply.get(partition, 0)
        if error:
            reply(error, None, None)
            return
        last = self.last_write.get(transactional_id)
        if last is not None and self.lane_of(partition) != self.lane_of(transactional_id):
            # All may be different then.
            last.after.append(
                lambda: self.produce(transactional_id, producer, partition, label, version=version, reply=reply)
            )
            return
        txn = self.txns[transactional_id]

        def change() -> None:
            if partition in self.logs:
                self.logs[partition].append(Row(*producer, label, False, txn))

        def answer() -> None:
            reply(0 if partition in self.logs else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, None, txn)

        self.submit(self.lane_of(partition), Commit([change], [answer]))

    def add_offsets(
        self, transactional_id: str, producer: tuple[int, int], group: str, *, version: int = 3, reply: Reply = ignore
    ) -> Step:
        return self.ask(
            transactional_id,
            lambda machine: machine.add_offsets(*producer, group, version=version, steady_ms=self.steady_ms),
            reply,
        )

    def commit_offsets(
        self,
        transactional_id: str,
        producer: tuple[int, int],
        group: str,
        partition: TopicPartition,
        offset: int,
        *,
        version: int,
        reply: Reply = ignore,
    ) -> Step:
        pending = PendingOffset(group, *partition, offset, -1, "", self.steady_ms)
        return self.ask(
            transactional_id,
            lambda machine: machine.commit_offsets(
                *producer, group, [pending], version=version, steady_ms=self.steady_ms
            ),
            reply,
        )

    def end(
        self,
        transactional_id: str,
        producer: tuple[int, int],
        commit: bool,
        *,
        version: int,
        reply: Reply = ignore,
    ) -> Step:
        return self.ask(
            transactional_id,
            lambda machine: machine.end(
                *producer, commit, version=version, fresh_producer_id=self.fresh(machine), steady_ms=self.steady_ms
            ),
            reply,
        )

    def abort(self, transactional_id: str, reply: Reply = ignore) -> Step:
        """By an operator."""
        return self.ask(
            transactional_id,
            lambda machine: machine.abort(self.steady_ms, fresh_producer_id=self.fresh(machine)),
            reply,
        )

    # -- what else happens ---------------------------------------------------------------------------------------------

    def commit_plainly(self, group: str, partition: TopicPartition, offset: int) -> None:
        """OffsetCommit, outside of any transaction."""
        plain = PendingOffset(group, *partition, offset, -1, "", self.steady_ms)
        self.submit(self.lane_of(group), Commit([lambda: self.commit_offset(plain)]))

    def create_topic(self, topic_id: int, partitions: int) -> None:
        self.logs.update({(topic_id, index): [] for index in range(partitions)})

    def delete_topic(self, topic_id: int) -> None:
        partitions = [partition for partition in self.logs if partition[0] == topic_id]

        def change() -> None:
            for partition in partitions:
                self.logs.pop(partition, None)
            for table in (self.offsets, self.all_commits):
                for key in [key for key in table if key[1] == topic_id]:
                    del table[key]

        def forget() -> None:
            for transactional_id, machine in list(self.machines.items()):
                self.perform(transactional_id, machine.forget_topic(topic_id))
            self.forgotten.add(topic_id)

        self.submit(0, Commit([change], [forget]))

    def advance(self, ms: int) -> None:
        """Time passes; timers that are due fire in their order."""
        until_ms = self.steady_ms + ms
        while True:
            due = [(at_ms, key) for key, at_ms in self.timers.items() if at_ms <= until_ms]
            if not due:
                break
            at_ms, key = min(due)
            self.steady_ms = max(self.steady_ms, at_ms)
            del self.timers[key]
            transactional_id, name = key
            machine = self.machines[transactional_id]
            step = machine.on_timer(name, self.steady_ms, fresh_producer_id=self.fresh(machine))
            self.perform(transactional_id, step)
        self.steady_ms = until_ms

    # -- what a consumer sees ------------------------------------------------------------------------------------------

    def last_stable_offset(self, partition: TopicPartition) -> int:
        open_since: dict[int, int] = {}
        log = self.logs[partition]
        for offset, row in enumerate(log):
            if row.label < 0:
                open_since.pop(row.producer_id, None)
            else:
                open_since.setdefault(row.producer_id, offset)
        return min(open_since.values(), default=len(log))

    def read_committed(self, partition: TopicPartition) -> list[int]:
        """The labels of the committed records, in order."""
        log, labels = self.logs[partition], []
        for offset, row in enumerate(log[: self.last_stable_offset(partition)]):
            if row.label < 0:
                continue
            marker = next(each for each in log[offset:] if each.label < 0 and each.producer_id == row.producer_id)
            if marker.commit:
                labels.append(row.label)
        return labels
