"""Any order of records, tombstones, transactions, deleted records, retention, compactions, crashes in the middle of these,
and restarts, played by Hypothesis on a real PostgreSQL and compared with a model of Kafka's cleaner.

At any time consumers that read from any offset, read_committed ones, SQL and kafka.latest() see what the model says.

PG_KAFKA_MACHINE_EXAMPLES=200 plays more.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import asyncpg
import hypothesis.strategies as st
import pytest
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from tests.storage.compactor import Crash, compact, give_series, roll, set_log_start
from tests.storage.leader import Leader
from tests.storage.retaining import Keeper

from pg_kafka.storage.partition import Partition
from pg_kafka.storage.transactions import Marker, TransactionStore
from pg_kafka.wire._records import peek

T = TypeVar("T")
PARTITIONS = 2
PLAIN = -1
FOR_EVER = 1 << 60
EXAMPLES = int(os.environ.get("PG_KAFKA_MACHINE_EXAMPLES", "6"))
# Shrinking takes many restarts of a broker: for a look at a failure.
PHASES = [phase for phase in Phase if phase is not Phase.shrink or "PG_KAFKA_MACHINE_SHRINK" in os.environ]
NOW = 1_700_000_000_000

partitions = st.integers(0, PARTITIONS - 1)
producers = st.integers(0, 1)
keys = st.sampled_from([b"a", b"b", b"c", b"d", b"e", None])
contents = st.lists(st.tuples(keys, st.sampled_from([b"1", b"22", b"", None])), min_size=1, max_size=4)


@dataclass(slots=True)
class Sent:
    """A record as it was sent, and what is known of it."""

    offset: int
    key: bytes | None
    value: bytes | None
    batch: int
    producer: int
    state: str  # plain, open, committed, aborted

    @property
    def counts(self) -> bool:
        return self.state in ("plain", "committed")

    @property
    def record(self) -> tuple[int, bytes | None, bytes | None]:
        return self.offset, self.key, self.value


class Cleaner:
    """A partition as Kafka's cleaner leaves it."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.start = self.end = self.first_dirty = 0
        self.horizons: set[int] = set()  # batches whose tombstones may go when delete.retention.ms has passed

    def stable(self) -> int:
        return max(self.start, min((one.offset for one in self.sent if one.state == "open"), default=self.end))

    def clean(self, cleanable: int, *, keeps_tombstones: bool) -> None:
        end = min(self.stable(), cleanable)
        if end <= max(self.first_dirty, self.start):
            return
        self.first_dirty = end
        latest = {one.key: one.offset for one in self.sent if one.counts and one.offset < end and one.key is not None}
        kept = []
        for one in self.sent:
            is_expired = one.value is None and one.batch in self.horizons and not keeps_tombstones
            if one.offset >= end or (one.counts and latest.get(one.key) == one.offset and not is_expired):
                kept.append(one)
        self.horizons |= {one.batch for one in kept if one.value is None and one.offset < end}
        self.sent = kept

    def visible(self) -> list[Sent]:
        return [one for one in self.sent if one.offset >= self.start]


def made(producer: int, sequence: int, content: Sequence[tuple[bytes | None, bytes | None]]) -> bytes:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=int(producer != PLAIN),
        producer_id=producer,
        producer_epoch=0 if producer != PLAIN else -1,
        base_sequence=sequence,
        batch_size=1 << 20,
    )
    for offset, (key, value) in enumerate(content):
        headers = [("k", b"v"), ("n", None)] if key == b"a" else []
        assert builder.append(offset, NOW + 7 * offset, key, value, headers) is not None
    return bytes(builder.build())


_machines = itertools.count()


class CompactionMachine(RuleBasedStateMachine):
    dsn: ClassVar[str] = ""
    options: ClassVar[dict[str, Any]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.sequences: dict[tuple[int, int], int] = {}
        self.open: dict[int, set[int]] = {}
        self.models = [Cleaner() for _ in range(PARTITIONS)]
        self.keeps_tombstones = True
        self.is_lenient = False  # a crash may have begun the time of tombstones earlier
        self.leader = self.run(self.started())
        self.name = f"c{next(_machines)}"

    @initialize(keeps_tombstones=st.booleans())
    def create(self, keeps_tombstones: bool) -> None:
        self.keeps_tombstones = keeps_tombstones
        self.configs = {"cleanup.policy": "compact", "segment.ms": "1", "min.cleanable.dirty.ratio": "0"}
        self.configs["delete.retention.ms"] = str(FOR_EVER if keeps_tombstones else 0)
        self.run(self.leader.topic(self.name, PARTITIONS, **self.configs))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(work, 60))

    async def started(self) -> Leader:
        leader = Leader(self.dsn, **self.options)
        await leader.start()
        return leader

    async def partition(self, index: int) -> Partition:
        return await self.leader.partition(self.leader.topics.by_name[self.name], index)

    @rule(producer=st.one_of(st.just(PLAIN), producers), index=partitions, content=contents)
    def append(self, producer: int, index: int, content: list[tuple[bytes | None, bytes | None]]) -> None:
        sequence = -1
        if producer != PLAIN:
            sequence = self.sequences.get((producer, index), 0)
            self.sequences[producer, index] = sequence + len(content)
            self.open.setdefault(producer, set()).add(index)

        async def work() -> int:
            result = await self.leader.append(await self.partition(index), made(producer, sequence, content))
            assert result.error == 0, result
            return result.base_offset

        base = self.run(work())
        model = self.models[index]
        assert base == model.end
        state = "plain" if producer == PLAIN else "open"
        model.sent += [Sent(base + n, key, value, base, producer, state) for n, (key, value) in enumerate(content)]
        model.end = base + len(content)

    @rule(producer=producers, commit=st.booleans())
    def end(self, producer: int, commit: bool) -> None:
        touched = self.open.pop(producer, set())

        async def work() -> None:
            topic = self.leader.topics.by_name[self.name]
            markers = [Marker(topic.id, index, producer, 0, commit, 0) for index in sorted(touched)]
            await TransactionStore(self.leader.log, self.leader.control).end(0, (), markers)

        self.run(work())
        for index in touched:
            model = self.models[index]
            for one in model.sent:
                if one.state == "open" and one.producer == producer:
                    one.state = "committed" if commit else "aborted"
            model.end += 1

    @rule()
    def move_to_own_series(self) -> None:
        topic = self.leader.topics.by_name[self.name]
        if topic.series == 0:
            self.run(give_series(self.leader, topic))

    @rule(shared=st.booleans())
    def roll(self, shared: bool) -> None:
        self.run(roll(self.leader, 0 if shared else self.leader.topics.by_name[self.name].series))

    @rule(crash_at=st.one_of(st.none(), st.integers(0, 60)))
    def compact(self, crash_at: int | None) -> None:
        if crash_at is not None:
            try:
                self.run(compact(self.leader, crash_at=crash_at))
            except Crash:
                self.is_lenient = not self.keeps_tombstones
                self.leader.crash()
                self.leader = self.run(self.started())
                for index in range(PARTITIONS):
                    self.run(self.partition(index))
        self.run(compact(self.leader))
        for index, model in enumerate(self.models):
            model.clean(self.run(self.cleanable(index)), keeps_tombstones=self.keeps_tombstones)

    async def cleanable(self, index: int) -> int:
        """Where the active segment begins, if the topic has one of its own."""
        partition = await self.partition(index)
        connection = await asyncpg.connect(self.dsn)
        found = await connection.fetchval(
            "SELECT min(first_offset) FROM kafka.extents JOIN kafka.segments USING (series, segment) "
            "WHERE topic = $1 AND partition = $2 AND series <> 0 AND state = 'active'",
            partition.topic.id,
            index,
        )
        await connection.close()
        return self.models[index].end if found is None else int(found)

    @rule(index=partitions, ahead=st.integers(0, 12))
    def delete_records(self, index: int, ahead: int) -> None:
        model = self.models[index]
        model.start = min(model.start + ahead, model.end)
        self.run(self.set_start(index, model.start))

    async def set_start(self, index: int, start: int) -> None:
        await set_log_start(self.leader, await self.partition(index), start)

    @rule(limit=st.integers(0, 400))
    def retain(self, limit: int) -> None:
        """For a moment the topic is deleted from as well; what is below the new starts is freed or carried over."""
        self.run(self.let_go(limit))

    async def let_go(self, limit: int) -> None:
        topic = self.leader.topics.by_name[self.name]
        keeper = Keeper(self.leader)
        await keeper.open()
        try:
            deleting = {"cleanup.policy": "compact,delete", "retention.bytes": str(limit), "retention.ms": "-1"}
            await keeper.set_configs(topic, self.configs | deleting)
            await keeper.retain()
            await keeper.free()
            await keeper.clean()
            await keeper.free()
            await keeper.set_configs(topic, self.configs)
        finally:
            keeper.close()
        for index, model in enumerate(self.models):
            start = (await self.partition(index)).log_start_offset
            assert model.start <= start <= model.end
            model.start = start

    @rule(is_orderly=st.booleans())
    def restart(self, is_orderly: bool) -> None:
        if is_orderly:
            self.run(self.leader.stop())
        else:
            self.leader.crash()
        self.leader = self.run(self.started())

    @rule(index=partitions, start=st.integers(0, 40), max_bytes=st.sampled_from([1, 200, 1 << 20]))
    def read(self, index: int, start: int, max_bytes: int) -> None:
        self.run(self.check(index, start, max_bytes))

    def settled(self, records: Sequence[Any]) -> list[Any]:
        """Without tombstones when it is not known how long they stay."""
        return [record for record in records if not (self.is_lenient and record[2] is None)]

    async def check(self, index: int, start: int, max_bytes: int) -> None:
        partition, model = await self.partition(index), self.models[index]
        assert (partition.high_watermark, partition.last_stable_offset) == (model.end, model.stable())
        start = max(start, model.start)
        seen: dict[int, Any] = {}
        committed: dict[int, Any] = {}
        offset = start
        while offset < partition.high_watermark:
            batches = self.leader.log.read_tail(partition, offset, max_bytes)
            if batches is None:
                batches = await self.leader.log.read(partition, offset, max_bytes)
            seen |= {r.offset: (r.offset, r.key, r.value) for r in records_of(batches) if r.offset >= start}
            aborted = sorted(await self.leader.log.aborted(partition, offset, batches), key=lambda one: one[1])
            offset = consume(batches, aborted, start, committed)
        expected = model.visible()
        assert self.settled(list(seen.values())) == self.settled([r.record for r in expected if r.offset >= start])
        stable = {o for o in committed if o < partition.last_stable_offset}
        wanted = {r.offset for r in expected if r.counts and start <= r.offset < partition.last_stable_offset}
        gone = {r.offset for r in expected if r.value is None} if self.is_lenient else set()
        assert stable - gone == wanted - gone
        connection = await asyncpg.connect(self.dsn)
        try:
            topic_id = partition.topic.id
            rows = await connection.fetch(
                "SELECT partition_offset, key, value FROM kafka.messages WHERE topic_id = $1 AND partition_id = $2 ORDER BY 1",
                topic_id,
                index,
            )
            assert self.settled(rows) == self.settled([r.record for r in expected if r.counts])
        finally:
            await connection.close()

    def teardown(self) -> None:
        try:
            for producer in (0, 1):
                self.end(producer=producer, commit=bool(producer))
            for _ in range(2):
                self.compact(crash_at=None)
                for index in range(PARTITIONS):
                    for max_bytes in (1, 1 << 20):
                        self.run(self.check(index, 0, max_bytes))
        finally:
            self.run(self.leader.stop())
            self.run(asyncio.sleep(0.05))
            self.loop.close()


def records_of(batches: Sequence[bytes]) -> list[Any]:
    found = []
    for data in batches:
        parsed = DefaultRecordBatch(bytes(data))
        if not parsed.is_control_batch:
            found += list(parsed)
    return found


def consume(batches: Sequence[bytes], aborted: Sequence[tuple[int, int]], start: int, seen: dict[int, Any]) -> int:
    """As Kafka's consumer does (KIP-98, "Consumer"): a producer is out from its aborted transaction on until its marker."""
    waiting, out, end = list(aborted), set(), 0
    for data in batches:
        head = peek(data)
        end = head.base_offset + head.last_offset_delta + 1
        while waiting and waiting[0][1] < end:
            out.add(waiting.pop(0)[0])
        read = list(DefaultRecordBatch(bytes(data)))
        if head.attributes & 0x20:
            if read[0].key[3] == 0:
                out.discard(head.producer_id)
        elif not (head.attributes & 0x10 and head.producer_id in out):
            seen |= {r.offset: r for r in read if r.offset >= start}
    return end


@pytest.mark.timeout(900)
def test_any_history_is_cleaned_as_kafka_does_it(pg_dsn: str) -> None:
    class Machine(CompactionMachine):
        dsn = pg_dsn

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=PHASES,
            print_blob=True,
        ),
    )
