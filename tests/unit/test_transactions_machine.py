"""Transactional ids under random producers, zombies, timeouts, operators, crashes and deleted topics.

Simulated producers of both protocols work in transactions over partitions and groups' offsets; some are replaced by
others and go on as zombies. Commits of the lanes happen one by one, and the broker dies between any two of them. It is
run with one lane, where decision and markers are one commit; with one lane, where they are not; and with several.
Whatever the order:

- a record is visible to read_committed if and only if its transaction is committed, and what was read once stays;
- the last stable offset passes no open transaction, and reaches the end of the log in the end;
- what a producer was told of the end of its transaction is true; a transaction is committed as a whole or not at all;
- a producer that was fenced changes nothing;
- an open transaction in a log is registered, so that it will end;
- pending offsets become the group's if and only if the transaction commits, and never replace later ones;
- what is stored gives the same machine again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.unit.transaction_world import BEGIN_MS, Reply, Txn, World

from pg_kafka.coordinator.transaction_steps import COMPLETE_COMMIT, EMPTY, ONGOING, TopicPartition
from pg_kafka.coordinator.transactions import LAST_EPOCH, Transaction
from pg_kafka.wire.error_codes import ErrorCode

IDS = ("a", "b", "c")
GROUPS = ("g", "h")
PARTITIONS = 3
FENCED = {
    ErrorCode.PRODUCER_FENCED,
    ErrorCode.INVALID_PRODUCER_EPOCH,
    ErrorCode.INVALID_PRODUCER_ID_MAPPING,
}
RETRIABLE = {ErrorCode.CONCURRENT_TRANSACTIONS, ErrorCode.NOT_ENOUGH_REPLICAS}
ABORTABLE = {ErrorCode.INVALID_TXN_STATE, ErrorCode.TRANSACTION_ABORTABLE}

ids = st.sampled_from(IDS)
numbers = st.integers(0, 5)
whats = st.sampled_from(["record", "record", "bold record", "offset", "commit", "abort", "lose patience"])
ends = st.sampled_from(["commit", "commit", "abort"])
troubles = st.sampled_from(["", "", "", "lost", "change of mind", "crash", "crash, and change of mind"])
commits = st.sampled_from([0, 1, 3, 3, 3])


@dataclass(eq=False)
class Work:
    """What a producer takes for one transaction."""

    records: list[tuple[TopicPartition, int]] = field(default_factory=list)  # acknowledged
    offsets: dict[tuple[str, TopicPartition], tuple[int, int]] = field(
        default_factory=dict
    )  # acknowledged: time, offset
    unsure: set[tuple[str, TopicPartition]] = field(default_factory=set)  # of these, one that was not may be later
    txns: set[Txn] = field(default_factory=set)  # that the coordinator has made of it
    told: bool | None = None  # committed


@dataclass(eq=False)
class Producer:
    """It waits for each answer before it goes on."""

    transactional_id: str
    is_new: bool  # transactions version 2
    producer: tuple[int, int] = (-1, -1)
    phase: str = "init"  # init, idle, open, committing, aborting, gone
    waits_for: int = 0  # the number of a request
    is_replaced: bool = False  # another one has its transactional id
    added: set[Any] = field(default_factory=set)  # partitions and groups
    work: Work = field(default_factory=Work)

    @property
    def is_waiting(self) -> bool:
        return self.waits_for > 0


class TransactionMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.producers: list[Producer] = []
        self.works: list[Work] = []
        self.labels = count(1)
        self.topics = count(1)
        self.seen: dict[TopicPartition, list[int]] = {}
        self.stable: dict[TopicPartition, int] = {}
        self.epochs: dict[int, int] = {}

    @initialize(
        lanes=st.sampled_from([1, 1, 3]),
        is_collapsed=st.booleans(),
        is_exhausted=st.booleans(),
        producers=st.lists(st.tuples(ids, st.booleans()), min_size=1, max_size=4),
    )
    def begin(self, lanes: int, is_collapsed: bool, is_exhausted: bool, producers: list[tuple[str, bool]]) -> None:
        self.producers = [Producer(*each) for each in producers]
        self.world = World(lanes, is_collapsed=is_collapsed)
        self.world.create_topic(next(self.topics), PARTITIONS)
        if is_exhausted:
            machine = Transaction("a", self.world.settings)
            machine.init_producer(-1, -1, 10_000, fresh_producer_id=1, version=5, steady_ms=BEGIN_MS)
            value = {**machine.records_of_state()[0].value, "producer_epoch": LAST_EPOCH - 3}  # type: ignore[dict-item]
            self.world.journal["a"] = {("transaction", ""): value}
            self.world.crash()

    # -- producers -----------------------------------------------------------------------------------------------------

    def one_of(self, number: int) -> Producer | None:
        able = [each for each in self.producers if each.phase != "gone" and not each.is_waiting]
        return able[number % len(able)] if able else None

    def partition(self, number: int) -> TopicPartition | None:
        partitions = sorted(self.world.logs)
        return partitions[number % len(partitions)] if partitions else None

    def wait(self, producer: Producer, handle: Reply) -> Reply:
        """Handle the answer, unless the producer has given up by then."""
        number = producer.waits_for = next(self.labels)

        def answer(error: int, reply: Any, txn: Txn | None) -> None:
            if producer.waits_for == number:
                producer.waits_for = 0
                handle(error, reply, txn)

        return answer

    def give_up(self, producer: Producer, is_fickle: bool) -> None:
        """Nobody knows what became of its request."""
        if producer.is_waiting:
            producer.waits_for = 0
            if producer.phase in ("idle", "open") or (is_fickle and producer.phase == "committing"):
                producer.phase = "aborting"

    def begin_work(self, producer: Producer) -> None:
        producer.work, producer.added, producer.phase = Work(), set(), "idle"
        self.works.append(producer.work)

    def fail(self, producer: Producer, error: int) -> None:
        """What a client does when it is refused."""
        assert error in FENCED | RETRIABLE | ABORTABLE | {ErrorCode.UNKNOWN_TOPIC_OR_PARTITION}, ErrorCode(error)
        if error == ErrorCode.PRODUCER_FENCED:
            producer.phase = "gone" if producer.is_new else "init"
        elif error in FENCED:
            producer.phase = "init"
        elif error in ABORTABLE and producer.phase in ("idle", "open"):
            producer.phase = "aborting"
        elif error in ABORTABLE:
            producer.phase = "init"

    def send_init(self, producer: Producer) -> None:
        def answer(error: int, reply: Any, txn: Txn | None) -> None:
            if error == ErrorCode.CONCURRENT_TRANSACTIONS:
                return
            if error:
                producer.phase = "gone"
                return
            if producer.is_replaced:
                assert reply[0] != producer.producer[0], "only when the transactional id had expired"
            producer.producer, producer.is_replaced = reply, False
            for each in self.producers:
                if each.transactional_id == producer.transactional_id and each.producer[1] >= 0:
                    each.is_replaced = each is not producer
            self.begin_work(producer)

        if producer.producer == (-1, -1):
            self.world.init(producer.transactional_id, reply=self.wait(producer, answer))
        else:
            self.world.init(producer.transactional_id, *producer.producer, reply=self.wait(producer, answer))

    def send_record(self, producer: Producer, partition: TopicPartition) -> None:
        label, work = next(self.labels), producer.work

        def answer(error: int, reply: Any, txn: Txn | None) -> None:
            if error:
                self.fail(producer, error)
                return
            assert txn is not None
            work.txns.add(txn)
            work.records.append((partition, label))
            producer.phase = "open"

        version = 12 if producer.is_new else 11
        self.world.produce(
            producer.transactional_id,
            producer.producer,
            partition,
            label,
            version=version,
            reply=self.wait(producer, answer),
        )

    def send_addition(self, producer: Producer, thing: Any) -> None:
        def answer(error: int, reply: Any, txn: Txn | None) -> None:
            if error:
                self.fail(producer, error)
                return
            producer.added.add(thing)
            producer.phase = "open"

        if isinstance(thing, str):
            self.world.add_offsets(
                producer.transactional_id, producer.producer, thing, reply=self.wait(producer, answer)
            )
        else:
            self.world.add_partitions(
                producer.transactional_id, producer.producer, [thing], reply=self.wait(producer, answer)
            )

    def send_offset(self, producer: Producer, group: str, partition: TopicPartition) -> None:
        offset, work, steady_ms = next(self.labels), producer.work, self.world.steady_ms

        def answer(error: int, reply: Any, txn: Txn | None) -> None:
            if error:
                self.fail(producer, error)
                return
            assert txn is not None
            work.txns.add(txn)
            work.offsets[group, partition] = (steady_ms, offset)
            work.unsure.discard((group, partition))
            producer.phase = "open"

        work.unsure.add((group, partition))
        version = 5 if producer.is_new else 4
        self.world.commit_offsets(
            producer.transactional_id,
            producer.producer,
            group,
            partition,
            offset,
            version=version,
            reply=self.wait(producer, answer),
        )

    def send_end(self, producer: Producer) -> None:
        commit, work = producer.phase == "committing", producer.work

        def answer(error: int, reply: Any, txn: Txn | None) -> None:
            if error == ErrorCode.CONCURRENT_TRANSACTIONS:
                return
            if error:
                self.fail(producer, error)
                return
            work.told = commit
            if producer.is_new:
                assert reply[1] > producer.producer[1] or reply[0] != producer.producer[0]
                producer.producer = reply
            self.begin_work(producer)

        version = 5 if producer.is_new else 3
        self.world.end(
            producer.transactional_id, producer.producer, commit, version=version, reply=self.wait(producer, answer)
        )

    # -- rules ---------------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.producers) < 12)
    @rule(transactional_id=ids, is_new=st.booleans())
    def start_producer(self, transactional_id: str, is_new: bool) -> None:
        """Another one of the same id may be at work."""
        self.producers.append(Producer(transactional_id, is_new))

    @rule(number=numbers, deeds=st.lists(st.tuples(whats, numbers, commits), min_size=1, max_size=8))
    def work(self, number: int, deeds: list[tuple[str, int, int]]) -> None:
        """One producer does some things, and lanes commit in between."""
        for what, where, times in deeds:
            producer, partition = self.one_of(number), self.partition(where)
            self.world.steady_ms += 1
            if what == "lose patience":
                for each in self.producers:
                    self.give_up(each, is_fickle=where % 2 == 0)
            elif producer and partition:
                self.do(producer, what, where, partition)
            for lane in range(times):
                self.world.commit(lane % self.world.lanes)

    @rule(
        number=numbers,
        wheres=st.lists(numbers, min_size=1, max_size=3),
        end=ends,
        trouble=troubles,
        lane=st.integers(0, 2),
    )
    def whole_transaction(self, number: int, wheres: list[int], end: str, trouble: str, lane: int) -> None:
        """One producer gets through a transaction, if nothing is in its way; it may have to ask twice for the end."""
        producer = self.one_of(number)
        things = ["record", *(("record", "offset")[where % 2] for where in wheres)]
        for number, what in enumerate(("init", *things, end)):
            for attempt in range(2):  # what was not added yet is added first
                where = wheres[number % len(wheres)]
                partition = self.partition(where)
                self.world.steady_ms += 1
                if producer and partition and not producer.is_waiting and (what != "init" or producer.phase == "init"):
                    self.do(producer, what, where, partition)
                    if what == end and trouble and not attempt:
                        self.give_up(producer, is_fickle="change" in trouble)
                    if what == end and "crash" in trouble and not attempt:
                        self.crash(lane, False)
                    self.world.drain()

    def do(self, producer: Producer, what: str, where: int, partition: TopicPartition) -> None:
        group = GROUPS[where % len(GROUPS)]
        if producer.phase == "init":
            self.send_init(producer)
        elif producer.phase in ("committing", "aborting"):
            self.send_end(producer)
        elif what in ("commit", "abort"):
            if producer.phase == "open" or (producer.phase == "idle" and producer.is_new and what == "abort"):
                producer.phase = "committing" if what == "commit" else "aborting"
                self.send_end(producer)
        elif producer.phase == "gone":
            pass
        elif what == "bold record":  # an older producer has to add the partition first
            self.send_record(producer, partition)
        elif what == "record":
            if producer.is_new or partition in producer.added:
                self.send_record(producer, partition)
            else:
                self.send_addition(producer, partition)
        elif producer.is_new or group in producer.added:
            self.send_offset(producer, group, partition)
        else:
            self.send_addition(producer, group)

    @rule(number=numbers, partition=numbers, version=st.sampled_from([3, 11, 12]), commit=st.booleans())
    def zombie(self, number: int, partition: int, version: int, commit: bool) -> None:
        """A producer that was replaced has no effect, whatever it sends."""
        zombies = [each for each in self.producers if each.is_replaced and each.producer[1] >= 0]
        where = self.partition(partition)
        if not zombies or where is None:
            return
        each = zombies[number % len(zombies)]
        answers: list[int] = []

        def answer(error: int, reply: Any, txn: Txn | None) -> None:
            answers.append(error)

        world, written = self.world, sum(map(len, self.world.queues))
        transactional_id, producer = each.transactional_id, each.producer
        world.produce(transactional_id, producer, where, next(self.labels), version=version, reply=answer)
        if version != 3:
            world.add_partitions(transactional_id, producer, [where], reply=answer)
            world.add_offsets(transactional_id, producer, "g", reply=answer)
        world.commit_offsets(transactional_id, producer, "g", where, 0, version=4 + version // 12, reply=answer)
        world.end(transactional_id, producer, commit, version=3 + 2 * (version // 12), reply=answer)
        assert sum(map(len, world.queues)) == written
        assert all(answers)

    @rule(number=numbers)
    def lose_connection(self, number: int) -> None:
        """It has lost patience, and asks again with its old id and epoch (KIP-360)."""
        producer = self.one_of(number)
        if producer and producer.phase in ("idle", "open", "aborting"):
            producer.phase = "init"

    @rule(transactional_id=ids)
    def operator_aborts(self, transactional_id: str) -> None:
        self.world.abort(transactional_id)

    @rule(group=st.sampled_from(GROUPS), partition=numbers)
    def commit_plainly(self, group: str, partition: int) -> None:
        where = self.partition(partition)
        if where:
            self.world.steady_ms += 1
            self.world.commit_plainly(group, where, next(self.labels))

    @rule(ms=st.sampled_from([1, 100, 9_999, 10_000, 10_000, 2_000_000]))
    def time_passes(self, ms: int) -> None:
        self.world.advance(ms)

    @rule()
    def create_topic(self) -> None:
        if len(self.world.logs) < 3 * PARTITIONS:
            self.world.create_topic(next(self.topics), PARTITIONS)

    @precondition(lambda self: len(self.world.logs) > PARTITIONS)
    @rule(number=numbers)
    def delete_topic(self, number: int) -> None:
        partition = self.partition(number)
        if partition:
            self.world.delete_topic(partition[0])

    @rule(lane=st.integers(0, 2), times=st.integers(1, 3))
    def commit(self, lane: int, times: int) -> None:
        for _ in range(times):
            self.world.commit(lane % self.world.lanes)

    @rule()
    def commit_all(self) -> None:
        self.world.drain()

    @rule(lane=st.integers(-1, 2), is_fickle=st.booleans())
    def crash(self, lane: int, is_fickle: bool) -> None:
        """All requests that wait fail, and nobody knows what became of them; one lane has committed still."""
        if lane >= 0:
            self.world.commit(lane % self.world.lanes, is_heard=False)
        self.world.crash()
        for producer in self.producers:
            self.give_up(producer, is_fickle)

    # -- invariants ----------------------------------------------------------------------------------------------------

    @invariant()
    def what_was_read_stays(self) -> None:
        for partition in self.world.logs:
            stable = self.world.last_stable_offset(partition)
            assert stable >= self.stable.get(partition, 0)
            self.stable[partition] = stable
            labels, seen = self.world.read_committed(partition), self.seen.get(partition, [])
            assert labels[: len(seen)] == seen
            self.seen[partition] = labels

    @invariant()
    def markers_follow_decisions(self) -> None:
        for partition, log in self.world.logs.items():
            open_rows: dict[int, Any] = {}
            for row in log:
                if row.label >= 0:
                    open_rows.setdefault(row.producer_id, row)
                    continue
                assert row.txn.is_decided
                assert row.txn.decision == row.commit
                first = open_rows.pop(row.producer_id, None)
                if first is not None:
                    assert first.txn is row.txn
                    assert first.epoch in (row.epoch, row.epoch - 1)
            for producer_id, row in open_rows.items():
                value = self.world.journal[row.txn.transactional_id]["transaction", ""]
                assert value["producer_id"] == producer_id
                registered = {(topic_id, index): offset for topic_id, index, offset in value["partitions"]}
                assert registered[partition] <= log.index(row)

    @invariant()
    def epochs_grow(self) -> None:
        for machine in self.world.machines.values():
            assert 0 <= machine.producer_epoch <= LAST_EPOCH + 1
        for records in self.world.written.values():
            value = records["transaction", ""]
            assert value["producer_epoch"] <= LAST_EPOCH or value["state"].startswith("Prepare")
        for log in self.world.logs.values():
            epochs: dict[int, int] = {}
            for row in log:
                assert row.epoch >= epochs.get(row.producer_id, 0)
                epochs[row.producer_id] = row.epoch

    @invariant()
    def reload_gives_the_same(self) -> None:
        assert set(self.world.machines) == set(self.world.written)
        for transactional_id, machine in self.world.machines.items():
            loaded = self.world.loaded(transactional_id)
            for name in Transaction.__slots__:
                assert getattr(loaded, name) == getattr(machine, name), name
            records = {(each.kind, each.key): each.value for each in machine.records_of_state()}
            assert records == self.world.written[transactional_id]
            assert loaded.describe() == machine.describe()

    @invariant()
    def every_transaction_ends(self) -> None:
        for transactional_id, machine in self.world.machines.items():
            names = {name for each, name in self.world.timers if each == transactional_id}
            if machine.state == ONGOING:
                assert names == {"timeout"}
            elif machine.is_prepared:
                assert not names
                assert any(self.world.queues)
            else:
                assert names == {"expire"}
                assert machine.state in (EMPTY, COMPLETE_COMMIT, "CompleteAbort")
                assert not machine.partitions
                assert not machine.groups
                assert not machine.pending
            topics = {topic_id for topic_id, _ in machine.partitions} | {e.topic_id for e in machine.pending.values()}
            assert not topics & self.world.forgotten

    def teardown(self) -> None:
        """When all that is under way has come to its end, books and logs agree."""
        world = self.world
        world.drain()
        for _ in range(2):
            world.advance(100_000)
            world.drain()
        for partition, log in world.logs.items():
            assert world.last_stable_offset(partition) == len(log)
        visible = {label for partition in world.logs for label in world.read_committed(partition)}
        for work in self.works:
            decisions = {txn.decision for txn in work.txns}
            assert len(decisions) <= 1
            assert None not in decisions
            if work.told is not None:
                assert decisions <= {work.told}
            for partition, label in work.records:
                if partition in world.logs:
                    assert (label in visible) == (True in decisions)
            for (group, partition), pending in work.offsets.items():
                committed = world.all_commits.get((group, *partition), [])
                if partition in world.logs and (True not in decisions or (group, partition) not in work.unsure):
                    assert (pending in committed) == (True in decisions)
        for key, committed in world.all_commits.items():
            assert world.offsets[key] == max(committed)
        acknowledged = {label for work in self.works for _, label in work.records}
        for log in world.logs.values():
            for row in log:
                if row.label >= 0 and row.label not in acknowledged:
                    assert (row.label in visible) == row.txn.decision


TestTransactions = TransactionMachine.TestCase
TestTransactions.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
