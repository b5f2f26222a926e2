"""Any order of appends, transactions, retention, deleted records, rolling and carrying over, with kills in between.

Played by Hypothesis on a real PostgreSQL. Before each retention the rows of the log say, one by one, where it has to
begin. Consumers find everything from there on, plain and committed, from memory and from the database; SQL finds the same;
and whoever has a snapshot from before sees the same as ever.

PG_KAFKA_MACHINE_EXAMPLES=200 plays more.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

import asyncpg
import hypothesis.strategies as st
import pytest
from aiokafka.record.default_records import DefaultRecordBatch
from hypothesis import HealthCheck, settings
from hypothesis.stateful import rule, run_state_machine_as_test
from tests.storage.leader import Leader
from tests.storage.retaining import Keeper
from tests.storage.test_segments import Killed, MortalConnection
from tests.storage.test_transactions_log_machine import (
    EXAMPLES,
    PARTITIONS,
    RETRIABLE,
    TransactionMachine,
    made,
    partitions,
)

from pg_kafka.errors import StorageError
from pg_kafka.storage.sessions import CONNECTION_ERRORS
from pg_kafka.wire._records import peek
from pg_kafka.wire.error_codes import ErrorCode

ROWS = (
    "SELECT l.base_offset, l.last_offset, l.max_timestamp, coalesce(l.wire_bytes, l.row_bytes) AS bytes FROM kafka.log l"
    " WHERE l.topic = $1 AND l.partition = $2 AND l.last_offset >= $3"
    " AND NOT EXISTS (SELECT FROM kafka.segments g WHERE (g.series, g.segment) = (l.series, l.segment)"
    " AND g.state IN ('filling', 'replaced')) ORDER BY l.base_offset"
)
MESSAGES = (
    "SELECT partition_id, partition_offset, value FROM kafka.messages m JOIN kafka.topics t ON t.id = m.topic_id"
    " WHERE t.name = $1 ORDER BY 1, 2"
)
PROBLEMS = (Killed, asyncpg.PostgresError, StorageError, *CONNECTION_ERRORS)
deaths = st.one_of(st.none(), st.integers(0, 40))


class RetentionMachine(TransactionMachine):
    def __init__(self) -> None:
        self.offsets: defaultdict[int, dict[bytes, int]] = defaultdict(dict)
        self.starts = [0] * PARTITIONS
        super().__init__()
        self.keeper = self.run(self.kept())
        self.snapshots: list[tuple[asyncpg.Connection, list[tuple[int, int, bytes]]]] = []

    async def started(self) -> Leader:
        leader = Leader(self.dsn, checkpoint_bytes=500, lanes=2)
        await leader.start()
        return leader

    async def kept(self) -> Keeper:
        keeper = Keeper(self.leader)
        await keeper.open()
        return keeper

    # What was written, and where.

    async def send(self, index: int, wire: bytes) -> int:
        offset = await super().send(index, wire)
        for record in DefaultRecordBatch(wire):
            self.offsets[index][record.value] = offset + record.offset
        return offset

    async def leader_append_plain(self, index: int, texts: Sequence[bytes]) -> None:
        while True:
            result = await self.leader.append(await self.partition(index), made(-1, -1, texts))
            if result.error == 0:
                break
            assert result.error in RETRIABLE, result
            await asyncio.sleep(0.02)
        for number, text in enumerate(texts):
            self.offsets[index][text] = result.base_offset + number

    # Retention and what follows from it, killed after so many statements of the janitor or the cleaner.

    async def mortally(self, deaths: int | None, work: Callable[[], Awaitable[object]]) -> None:
        if deaths is None:
            await work()
            return
        site = self.keeper.janitor._site
        assert site.session is not None
        site.use(site.session, site.available)
        mortal = MortalConnection(site.session.connection, deaths)
        site.session.connection = mortal  # type: ignore[assignment]
        site._segments._connection = mortal  # type: ignore[union-attr,assignment]
        try:
            await work()
        except PROBLEMS:
            pass
        self.keeper.close()
        await self.keeper.open()

    @rule(deaths=deaths, limit=st.integers(0, 600), is_size=st.booleans())
    def retain(self, deaths: int | None, limit: int, is_size: bool) -> None:
        self.run(self.let_go(deaths, limit, is_size))

    async def let_go(self, deaths: int | None, limit: int, is_size: bool) -> None:
        topic = self.leader.topics.by_name[self.name]
        configs = {"retention.ms": "-1" if is_size else "1000", "retention.bytes": str(limit) if is_size else "-1"}
        await self.keeper.set_configs(topic, configs)
        db = await asyncpg.connect(self.dsn)
        newest = 0
        expected = []
        rows = [await db.fetch(ROWS, topic.id, index, self.starts[index]) for index in range(PARTITIONS)]
        await db.close()
        stamps = sorted({row["max_timestamp"] for part in rows for row in part})
        if stamps:
            newest = stamps[min(len(stamps) - 1, limit * len(stamps) // 600)]
        self.keeper.now = newest + 1000
        for index, part in enumerate(rows):
            start = self.starts[index]
            behind = sum(row["bytes"] for row in part)
            for row in part:
                behind -= row["bytes"]
                if not (behind >= limit if is_size else row["max_timestamp"] < newest):
                    break
                start = row["last_offset"] + 1
            expected.append(start)
        await self.mortally(deaths, self.keeper.retain)
        for index in range(PARTITIONS):
            partition = await self.partition(index)
            if deaths is None:
                assert partition.log_start_offset == expected[index]
            assert self.starts[index] <= partition.log_start_offset <= expected[index]
            self.starts[index] = partition.log_start_offset

    @rule(index=partitions, back=st.integers(0, 10))
    def delete_records(self, index: int, back: int) -> None:
        async def work() -> None:
            partition = await self.partition(index)
            offset = max(0, partition.high_watermark - back)
            while True:
                try:
                    (start,) = await self.leader.log.delete_records([(partition, offset)])
                    break
                except StorageError:
                    await asyncio.sleep(0.02)
            assert start == max(offset, self.starts[index])
            self.starts[index] = (await self.partition(index)).log_start_offset
            assert self.starts[index] == start

        self.run(work())

    @rule(is_own=st.booleans())
    def roll(self, is_own: bool) -> None:
        series = self.leader.topics.by_name[self.name].series if is_own else 0
        self.run(self.keeper.seal(series))

    @rule()
    def move_to_own_series(self) -> None:
        topic = self.leader.topics.by_name[self.name]
        if not topic.series:
            self.run(self.keeper.own_series(topic.id))

    @rule(deaths=deaths)
    def free(self, deaths: int | None) -> None:
        self.run(self.mortally(deaths, lambda: self.keeper.step("free segments")))

    @rule(deaths=deaths)
    def carry_over(self, deaths: int | None) -> None:
        self.run(self.clean(deaths))

    async def clean(self, deaths: int | None) -> None:
        cleaner = self.keeper.cleaner
        if deaths is not None:
            await cleaner._connect()
            assert cleaner._session is not None
            cleaner._session.connection = MortalConnection(cleaner._session.connection, deaths)  # type: ignore[assignment]
        await self.keeper.clean()

    # Snapshots from before.

    @rule()
    def hold(self) -> None:
        async def work() -> None:
            connection = await asyncpg.connect(self.dsn)
            await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            seen = [tuple(row) for row in await connection.fetch(MESSAGES, self.name)]
            self.snapshots.append((connection, seen))

        if len(self.snapshots) < 3:
            self.run(work())

    @rule()
    def look(self) -> None:
        async def work() -> None:
            for connection, seen in self.snapshots:
                assert [tuple(row) for row in await connection.fetch(MESSAGES, self.name)] == seen

        self.run(work())

    @rule()
    def let_loose(self) -> None:
        self.look()
        for connection, _ in self.snapshots:
            self.run(connection.close())
        self.snapshots.clear()

    @rule(is_orderly=st.booleans())
    def restart(self, is_orderly: bool) -> None:
        self.keeper.close()
        super().restart(is_orderly)  # type: ignore[misc]
        self.keeper = self.run(self.kept())

    # What is found.

    async def check(self, index: int, start: int, max_bytes: int) -> None:
        partition = await self.partition(index)
        opened = [touched[index][0] for touched in self.open.values() if index in touched]
        begin = partition.log_start_offset
        assert begin == self.starts[index]
        assert partition.last_stable_offset == max(begin, min(opened, default=partition.high_watermark))
        seen: dict[int, bytes] = {}
        start = offset = max(start, begin)
        while offset < partition.last_stable_offset:
            batches = self.leader.log.read_tail(partition, offset, max_bytes)
            if batches is None:
                try:
                    batches = await self.leader.log.read(partition, offset, max_bytes)
                except StorageError as error:
                    assert error.code != ErrorCode.OFFSET_OUT_OF_RANGE
                    await asyncio.sleep(0.02)
                    partition = await self.partition(index)
                    continue
            batches = [one for one in batches if peek(one).base_offset < partition.last_stable_offset]
            aborted = sorted(await self.leader.log.aborted(partition, offset, batches), key=lambda one: one[1])
            offset = self.consume(batches, aborted, start, seen)
        expected = {self.offsets[index][text]: text for text in self.committed[index]}
        assert seen == {o: text for o, text in expected.items() if start <= o < partition.last_stable_offset}
        connection = await asyncpg.connect(self.dsn)
        rows = await connection.fetch(MESSAGES, self.name)
        await connection.close()
        found = {row["partition_offset"]: row["value"] for row in rows if row["partition_id"] == index}
        assert found == {o: text for o, text in expected.items() if o >= begin}

    def teardown(self) -> None:
        try:
            self.let_loose()
            self.run(self.clean(None))
            self.run(self.keeper.free())
        finally:
            self.keeper.close()
            super().teardown()


@pytest.mark.timeout(900)
def test_any_order_of_retention_failures_and_restarts(pg_dsn: str) -> None:
    class Machine(RetentionMachine):
        dsn = pg_dsn

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
