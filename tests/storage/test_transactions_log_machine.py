"""Any order of transactional appends, ends, lost sessions and restarts, played by Hypothesis on a real PostgreSQL.

Producers send each batch again until it is acknowledged, and a decision, once made, is written again until that is
acknowledged, as their coordinator does. At any time the last stable offset is where the oldest open transaction begins,
and a read_committed consumer that begins anywhere, reading memory or the database, finds committed and plain records only;
SQL finds the same and what is committed beyond.

PG_KAFKA_MACHINE_EXAMPLES=200 plays more.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import defaultdict
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import asyncpg
import hypothesis.strategies as st
import pytest
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from tests.storage.leader import Leader

from pg_kafka.errors import StorageError
from pg_kafka.storage.partition import Partition
from pg_kafka.storage.topics import Topic
from pg_kafka.storage.transactions import Marker, TransactionStore
from pg_kafka.wire._records import peek
from pg_kafka.wire.error_codes import ErrorCode

T = TypeVar("T")
PARTITIONS = 2
PRODUCERS = 3
PLAIN = -1
EXAMPLES = int(os.environ.get("PG_KAFKA_MACHINE_EXAMPLES", "8"))
RETRIABLE = (ErrorCode.KAFKA_STORAGE_ERROR, ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.REQUEST_TIMED_OUT)

partitions = st.integers(0, PARTITIONS - 1)
producers = st.integers(0, PRODUCERS - 1)


def made(producer_id: int, sequence: int, texts: Sequence[bytes]) -> bytes:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=int(producer_id != PLAIN),
        producer_id=producer_id,
        producer_epoch=0 if producer_id != PLAIN else -1,
        base_sequence=sequence,
        batch_size=1 << 20,
    )
    for offset, text in enumerate(texts):
        assert builder.append(offset, 1_700_000_000_000, None, text, []) is not None
    return bytes(builder.build())


_machines = itertools.count()


class TransactionMachine(RuleBasedStateMachine):
    dsn = ""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.number = 0
        self.sequences: defaultdict[tuple[int, int], int] = defaultdict(int)
        # Texts by partition and producer; the first offset of what is open.
        self.open: defaultdict[int, dict[int, tuple[int, list[bytes]]]] = defaultdict(dict)
        self.committed: list[set[bytes]] = [set() for _ in range(PARTITIONS)]
        self.aborted: list[set[bytes]] = [set() for _ in range(PARTITIONS)]
        self.leader = self.run(self.started())
        self.name = f"t{next(_machines)}"  # all of a run share the database; an id of Python's comes again
        self.run(self.leader.topic(self.name, PARTITIONS))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(work, 60))

    async def started(self) -> Leader:
        leader = Leader(self.dsn, checkpoint_bytes=500)
        await leader.start()
        return leader

    async def partition(self, index: int) -> Partition:
        topic = self.leader.topics.by_name[self.name]
        assert isinstance(topic, Topic)
        for _ in range(200):
            try:
                return await self.leader.partition(topic, index)
            except StorageError:
                await asyncio.sleep(0.02)
        raise AssertionError("never loaded")

    async def send(self, index: int, wire: bytes) -> int:
        for _ in range(200):
            result = await self.leader.append(await self.partition(index), wire)
            if result.error == 0:
                return result.base_offset
            assert result.error in RETRIABLE, result
            await asyncio.sleep(0.02)
        raise AssertionError("never acknowledged")

    def texts(self, count: int) -> list[bytes]:
        self.number += count
        return [b"%d" % n for n in range(self.number - count, self.number)]

    @rule(producer=producers, index=partitions, count=st.integers(1, 3), cut=st.booleans())
    def append(self, producer: int, index: int, count: int, cut: bool) -> None:
        texts = self.texts(count)
        sequence = self.sequences[producer, index]
        self.sequences[producer, index] += count

        async def work() -> int:
            sending = asyncio.create_task(self.send(index, made(producer, sequence, texts)))
            if cut:
                await asyncio.sleep(0)
                self.drop_sessions()
            return await sending

        offset = self.run(work())
        first, before = self.open[producer].get(index, (offset, []))
        self.open[producer][index] = (first, before + texts)

    @rule(index=partitions, count=st.integers(1, 3))
    def append_plain(self, index: int, count: int) -> None:
        texts = self.texts(count)
        self.run(self.leader_append_plain(index, texts))
        self.committed[index] |= set(texts)

    async def leader_append_plain(self, index: int, texts: Sequence[bytes]) -> None:
        result = await self.leader.append(await self.partition(index), made(PLAIN, -1, texts))
        while result.error in RETRIABLE:  # refused before it was written: nothing was cut meanwhile
            await asyncio.sleep(0.02)
            result = await self.leader.append(await self.partition(index), made(PLAIN, -1, texts))
        assert result.error == 0, result

    @rule(producer=producers, commit=st.booleans(), cut=st.booleans())
    def end(self, producer: int, commit: bool, cut: bool) -> None:
        touched = self.open.pop(producer, {})

        async def work() -> None:
            topic = self.leader.topics.by_name[self.name]
            markers = [Marker(topic.id, index, producer, 0, commit, 0) for index in touched]
            for attempt in range(200):
                ending = asyncio.create_task(TransactionStore(self.leader.log, self.leader.control).end(0, (), markers))
                if cut and not attempt:
                    await asyncio.sleep(0)
                    self.drop_sessions()
                try:
                    await ending
                    return
                except StorageError as error:
                    assert error.retriable, error
                    await asyncio.sleep(0.02)
            raise AssertionError("never ended")

        self.run(work())
        for index, (_, texts) in touched.items():
            (self.committed if commit else self.aborted)[index] |= set(texts)

    @rule()
    def cut_sessions(self) -> None:
        self.drop_sessions()

    def drop_sessions(self) -> None:
        for lane in self.leader.log._lanes:
            for session in lane._sessions:
                session.drop()

    @rule(is_orderly=st.booleans())
    def restart(self, is_orderly: bool) -> None:
        if is_orderly:
            self.run(self.leader.stop())
        else:
            self.leader.crash()
        self.leader = self.run(self.started())

    @rule()
    def write_checkpoints(self) -> None:
        for lane in self.leader.log._lanes:
            lane._staging.mark_checkpoints()
            lane._wake.set()

    @rule(index=partitions)
    def load_again(self, index: int) -> None:
        self.leader.log.forget(self.run(self.partition(index)))

    @rule(index=partitions, start=st.integers(0, 30), max_bytes=st.sampled_from([1, 200, 1 << 20]))
    def read(self, index: int, start: int, max_bytes: int) -> None:
        self.run(self.check(index, start, max_bytes))

    async def check(self, index: int, start: int, max_bytes: int) -> None:
        partition = await self.partition(index)
        opened = [touched[index][0] for touched in self.open.values() if index in touched]
        assert partition.last_stable_offset == min(opened, default=partition.high_watermark)
        seen: dict[int, bytes] = {}
        offset = start
        while offset < partition.last_stable_offset:
            batches = self.leader.log.read_tail(partition, offset, max_bytes)
            if batches is None:
                try:
                    batches = await self.leader.log.read(partition, offset, max_bytes)
                except StorageError:
                    await asyncio.sleep(0.02)
                    continue
            batches = [one for one in batches if peek(one).base_offset < partition.last_stable_offset]
            aborted = sorted(await self.leader.log.aborted(partition, offset, batches), key=lambda one: one[1])
            offset = self.consume(batches, aborted, start, seen)
        expected = self.committed[index]
        assert set(seen.values()) <= expected, "a record that is not committed was read"
        connection = await asyncpg.connect(self.dsn)
        rows = await connection.fetch(
            "SELECT partition_offset, value FROM kafka.messages m JOIN kafka.topics t ON t.id = m.topic_id "
            "WHERE t.name = $1 AND m.partition_id = $2 ORDER BY 1",
            self.name,
            index,
        )
        await connection.close()
        assert {row["value"] for row in rows} == expected
        assert seen == {
            row["partition_offset"]: row["value"]
            for row in rows
            if start <= row["partition_offset"] < partition.last_stable_offset
        }

    @staticmethod
    def consume(
        batches: Sequence[bytes], aborted: Sequence[tuple[int, int]], start: int, seen: dict[int, bytes]
    ) -> int:
        """As Kafka's consumer does (KIP-98, "Consumer"): a producer is out from its aborted transaction on until its marker."""
        waiting, out, end = list(aborted), set(), 0
        for data in batches:
            head = peek(data)
            end = head.base_offset + head.last_offset_delta + 1
            while waiting and waiting[0][1] < end:
                out.add(waiting.pop(0)[0])
            if head.attributes & 0x20:
                if bytes(data)[61 + 8] == 0:  # type of the marker, the last byte of its key
                    out.discard(head.producer_id)
            elif not (head.attributes & 0x10 and head.producer_id in out):
                seen |= {r.offset: r.value or b"" for r in DefaultRecordBatch(bytes(data)) if r.offset >= start}
        return end

    def teardown(self) -> None:
        try:
            for producer in range(PRODUCERS):
                self.end(producer=producer, commit=bool(producer % 2), cut=False)
            for index in range(PARTITIONS):
                for max_bytes in (1, 1 << 20):
                    self.run(self.check(index, 0, max_bytes))
                self.leader.log.forget(self.run(self.partition(index)))
                self.run(self.check(index, 0, 1 << 20))
            assert self.leader.log.backlog.bytes == 0
        finally:
            self.run(self.leader.stop())
            self.run(asyncio.sleep(0.05))
            self.loop.close()


@pytest.mark.timeout(900)
def test_any_order_of_transactions_failures_and_restarts(pg_dsn: str) -> None:
    class Machine(TransactionMachine):
        dsn = pg_dsn

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
