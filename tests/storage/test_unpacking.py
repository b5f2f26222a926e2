"""SQL asks for a topic whose compressed batches are kept as they came: they are unpacked, and the query waits for that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
from tests.storage.leader import Leader, leading
from tests.wire_batches import batch, records, values

from pg_kafka.storage.partition import Partition
from pg_kafka.storage.topics import Topic
from pg_kafka.wire import _records

BOTH = pytest.mark.parametrize("postgres_server", ["postgresql-15", "embedded"], indirect=True)
LZ4, ZSTD = 3, 4
DEADLINE_S = 30


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not what():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def keeping(leader: Leader, name: str = "orders", partitions: int = 1, **configs: str) -> Topic:
    """A topic with a view, that keeps batches since its first compressed one, which holds `first`."""
    topic = await leader.topic(name, partitions, **configs)
    connection = await asyncpg.connect(leader.dsn)
    await connection.execute("SELECT kafka.create_topic_view($1)", topic.id)
    await connection.close()
    partition = await leader.partition(topic)
    await leader.append(partition, batch(values(b"first"), codec=LZ4))
    await until(lambda: leader.topics.by_id[topic.id].is_packing)
    return leader.topics.by_id[topic.id]


async def fill(leader: Leader, partition: Partition, count: int = 20, first: int = 1) -> None:
    for number in range(first, first + count):
        await leader.append(partition, batch(values(b"%d" % number), codec=LZ4 if number % 3 else ZSTD))


@pytest.fixture
async def db(pg_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(pg_dsn)
    yield connection
    await connection.close()


async def packed(db: asyncpg.Connection) -> int:
    count: int = await db.fetchval("SELECT count(*) FROM kafka.log WHERE batch IS NOT NULL")
    return count


async def plain(db: asyncpg.Connection) -> int:
    return int((await db.fetchrow("SELECT count(*) FROM topics.orders"))[0])


async def simple_query(db: asyncpg.Connection) -> int:
    found = await db.execute("SELECT value FROM topics.orders")
    return int(found.removeprefix("SELECT "))


async def prepared(db: asyncpg.Connection) -> int:
    statement = await db.prepare("SELECT count(*) FROM topics.orders WHERE partition_offset >= $1")
    return int(await statement.fetchval(0))


async def function(db: asyncpg.Connection) -> int:
    await db.execute(
        """CREATE FUNCTION public.counted() RETURNS bigint LANGUAGE plpgsql AS $$
           DECLARE found bigint; BEGIN SELECT count(*) INTO found FROM topics.orders; RETURN found; END $$"""
    )
    return int(await db.fetchval("SELECT public.counted()"))


async def loop_in_a_function(db: asyncpg.Connection) -> int:
    await db.execute(
        """CREATE FUNCTION public.looped() RETURNS bigint LANGUAGE plpgsql AS $$
           DECLARE found bigint := 0; each record;
           BEGIN FOR each IN SELECT * FROM topics.orders LOOP found := found + 1; END LOOP; RETURN found; END $$"""
    )
    return int(await db.fetchval("SELECT public.looped()"))


async def sql_function(db: asyncpg.Connection) -> int:
    await db.execute(
        "CREATE FUNCTION public.counted_too() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM topics.orders'"
    )
    return int(await db.fetchval("SELECT public.counted_too()"))


async def view_of_a_user(db: asyncpg.Connection) -> int:
    await db.execute("CREATE VIEW public.mine AS SELECT kafka.as_text(value) AS text FROM topics.orders")
    return int(await db.fetchval("SELECT count(*) FROM public.mine"))


async def messages(db: asyncpg.Connection) -> int:
    return int(await db.fetchval("SELECT count(*) FROM kafka.messages"))


async def all_messages(db: asyncpg.Connection) -> int:
    return int(await db.fetchval("SELECT count(*) FROM kafka.all_messages"))


async def kafka_read(db: asyncpg.Connection) -> int:
    return int(await db.fetchval("SELECT count(*) FROM kafka.read('orders', 0, 0, 1000)"))


async def explain_first(db: asyncpg.Connection) -> int:
    await db.fetch("EXPLAIN SELECT * FROM topics.orders")
    assert await packed(db) == 0
    return await plain(db)


async def unpack_first(db: asyncpg.Connection) -> int:
    assert await db.fetchval("SELECT kafka.unpack('orders')")
    assert await packed(db) == 0
    return await plain(db)


async def in_a_read_only_transaction(db: asyncpg.Connection) -> int:
    async with db.transaction(readonly=True):
        return await plain(db)


WAYS = [
    plain,
    simple_query,
    prepared,
    function,
    loop_in_a_function,
    sql_function,
    view_of_a_user,
    messages,
    all_messages,
    kafka_read,
    explain_first,
    unpack_first,
    in_a_read_only_transaction,
]


@BOTH
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_first_query_waits_and_shows_all(
    pg_dsn: str, way: Callable[[asyncpg.Connection], Awaitable[int]]
) -> None:
    async with leading(pg_dsn) as leader:
        await leader.keep_layouts()
        topic = await keeping(leader)
        partition = await leader.partition(topic)
        await fill(leader, partition)
        before = await leader.log.read(partition, 0, 1 << 20)
        db = await asyncpg.connect(pg_dsn)
        assert await packed(db) == 20
        assert await asyncio.wait_for(way(db), DEADLINE_S) == 21
        assert await packed(db) == 0
        state = await db.fetchrow("SELECT keeps_batches, sql_asked_at IS NOT NULL FROM kafka.topics")
        assert tuple(state) == (False, True)
        # From now on there are rows, for good; consumers see what they saw.
        await fill(leader, partition, 5, 21)
        assert await packed(db) == 0
        assert await plain(db) == 26
        after = await leader.log.read(partition, 0, 1 << 20)
        assert records(after)[:21] == records(before)
        shown = await db.fetch("SELECT partition_offset, value FROM topics.orders ORDER BY 1")
        assert [tuple(row) for row in shown] == [(offset, value) for offset, _, value in records(after)]
        await db.close()


async def copied(db: asyncpg.Connection) -> int:
    found = await db.copy_from_query("SELECT value FROM topics.orders", output=lambda data: asyncio.sleep(0))
    return int(found.removeprefix("COPY "))


async def cursor(db: asyncpg.Connection) -> int:
    async with db.transaction():
        await db.execute("DECLARE c CURSOR FOR SELECT * FROM topics.orders")
        return len(await db.fetch("FETCH ALL FROM c"))


async def table_made_of_it(db: asyncpg.Connection) -> int:
    found = await db.execute("CREATE TABLE public.copied AS SELECT * FROM topics.orders")
    return int(found.removeprefix("SELECT "))


async def repeatable_read(db: asyncpg.Connection) -> int:
    async with db.transaction(isolation="repeatable_read"):
        return await plain(db)


async def explain_analyze(db: asyncpg.Connection) -> int:
    plan = await db.fetch("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) SELECT value FROM topics.orders")
    return 21 if "rows=21" in plan[0][0].replace("rows=21.00", "rows=21") else -1


async def materialized_view(db: asyncpg.Connection) -> int:
    await db.execute("DROP MATERIALIZED VIEW IF EXISTS public.kept")
    await db.execute("CREATE MATERIALIZED VIEW public.kept AS SELECT value FROM topics.orders WITH NO DATA")
    await db.execute("REFRESH MATERIALIZED VIEW public.kept")
    return int(await db.fetchval("SELECT count(*) FROM public.kept"))


async def stable_function(db: asyncpg.Connection) -> int:
    await db.execute(
        """CREATE OR REPLACE FUNCTION public.stable_count() RETURNS bigint LANGUAGE sql STABLE
           AS 'SELECT count(*) FROM topics.orders'"""
    )
    return int(await db.fetchval("SELECT public.stable_count()"))


@BOTH
@pytest.mark.parametrize(
    "way",
    [copied, cursor, table_made_of_it, explain_analyze, materialized_view, repeatable_read, stable_function],
    ids=lambda way: way.__name__,
)
async def test_statement_with_an_older_snapshot_is_to_be_run_again(
    pg_dsn: str, way: Callable[[asyncpg.Connection], Awaitable[int]]
) -> None:
    async with leading(pg_dsn) as leader:
        await leader.keep_layouts()
        partition = await leader.partition(await keeping(leader))
        await fill(leader, partition)
        db = await asyncpg.connect(pg_dsn)
        with pytest.raises(asyncpg.SerializationError) as error:
            await way(db)
        assert "again" in str(error.value.hint)  # type: ignore[attr-defined]
        assert await way(db) == 21
        await db.close()


@BOTH
async def test_plans_that_sessions_keep_are_made_anew_when_a_topic_begins_to_keep_batches(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        await leader.keep_layouts()
        topic = await leader.topic("orders")
        db = await asyncpg.connect(pg_dsn)
        await db.execute("SELECT kafka.create_topic_view($1)", topic.id)
        await db.execute("CREATE VIEW public.mine AS SELECT value FROM topics.orders")
        await db.execute("SET plan_cache_mode = force_generic_plan")
        partition = await leader.partition(topic)
        await leader.append(partition, batch(values(b"plain")))
        counts = [
            await db.prepare("SELECT count(*) FROM topics.orders WHERE partition_offset >= $1"),
            await db.prepare("SELECT count(*) FROM public.mine WHERE value <> $1"),
        ]
        arguments: list[Any] = [0, b""]
        for _ in range(8):
            assert [await s.fetchval(a) for s, a in zip(counts, arguments, strict=True)] == [1, 1]
        await leader.append(partition, batch(values(b"first"), codec=LZ4))
        await until(lambda: leader.topics.by_id[topic.id].is_packing)
        await fill(leader, partition)
        assert await packed(db) == 20
        for statement, argument in zip(counts, arguments, strict=True):
            assert await statement.fetchval(argument) == 22
        await db.close()


@BOTH
async def test_plan_that_did_not_ask_is_told_to_run_again(pg_dsn: str) -> None:
    """kafka.messages has no topic whose view could be made anew: a plan from before has no say."""
    async with leading(pg_dsn) as leader:
        await leader.keep_layouts()
        topic = await leader.topic("orders")
        db = await asyncpg.connect(pg_dsn)
        count = await db.prepare("SELECT count(*), count(value), count(key) FROM kafka.messages")
        assert (await count.fetchrow())[0] == 0  # type: ignore[index]
        partition = await leader.partition(topic)
        await leader.append(partition, batch(values(b"first"), codec=LZ4))
        await until(lambda: leader.topics.by_id[topic.id].is_packing)
        await fill(leader, partition)
        with pytest.raises(asyncpg.SerializationError):
            await count.fetchrow()
        assert tuple(await count.fetchrow()) == (21, 21, 0)  # type: ignore[arg-type]
        await db.close()


@BOTH
async def test_worker_of_a_parallel_plan_can_wait_too(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        await leader.keep_layouts()
        topic = await keeping(leader)
        await fill(leader, await leader.partition(topic))
        db = await asyncpg.connect(pg_dsn)
        for name in ("parallel_setup_cost", "parallel_tuple_cost", "min_parallel_table_scan_size"):
            await db.execute(f"SET {name} = 0")
        await db.execute("SET max_parallel_workers_per_gather = 4")
        is_new = int(await db.fetchval("SHOW server_version_num")) >= 160000
        await db.execute(f"SET {'debug_parallel_query' if is_new else 'force_parallel_mode'} = on")
        asked = "SELECT count(coalesce(values, kafka.refuse_packed(topic))) FROM kafka.log"
        assert any("Gather" in row[0] for row in await db.fetch("EXPLAIN " + asked))
        with pytest.raises(asyncpg.SerializationError):
            await db.fetchval(asked)
        assert await db.fetchval(asked) == await db.fetchval("SELECT count(*) FROM kafka.log")
        await db.close()


async def test_topic_of_layout_batches_keeps_them_again_when_nobody_asks(pg_dsn: str, db: asyncpg.Connection) -> None:
    async with leading(pg_dsn) as leader:
        layouts = await leader.keep_layouts(idle_s=0.3)
        topic = await keeping(leader, **{"storage.layout": "batches"})
        partition = await leader.partition(topic)
        await fill(leader, partition)
        db2 = await asyncpg.connect(pg_dsn)
        async with db2.transaction():
            assert await plain(db2) == 21
            # As long as a transaction that has asked is there, its topic is stored as rows.
            for number in range(8):
                await leader.append(partition, batch(values(b"row"), codec=LZ4))
                await asyncio.sleep(0.05)
                assert not leader.topics.by_id[topic.id].is_packing, number
        await db2.close()
        async with asyncio.timeout(DEADLINE_S):
            while not leader.topics.by_id[topic.id].is_packing:
                await leader.append(partition, batch(values(b"row"), codec=LZ4))
                await asyncio.sleep(0.02)
        assert layouts is not None
        await leader.append(partition, batch(values(b"kept"), codec=LZ4))
        assert await packed(db) == 1
        assert await plain(db) == partition.high_watermark


async def test_topic_of_layout_auto_is_stored_as_rows_for_good(pg_dsn: str, db: asyncpg.Connection) -> None:
    async with leading(pg_dsn) as leader:
        await leader.keep_layouts(idle_s=0.0)
        topic = await keeping(leader)
        assert await plain(db) == 1
    async with leading(pg_dsn) as leader:
        await leader.keep_layouts(idle_s=0.0)
        partition = await leader.partition(leader.topics.by_id[topic.id])
        await fill(leader, partition, 5)
        assert not leader.topics.by_id[topic.id].is_packing
        assert await packed(db) == 0


async def test_layout_rows_keeps_nothing(pg_dsn: str, db: asyncpg.Connection) -> None:
    async with leading(pg_dsn) as leader:
        await leader.keep_layouts()
        other = await keeping(leader, "other")
        assert other.is_packing
        partition = await leader.partition(await leader.topic("rows", **{"storage.layout": "rows"}))
        await fill(leader, partition, 5)
        assert not leader.topics.by_name["rows"].is_packing
        assert await packed(db) == 0


@BOTH
async def test_every_record_is_there_once_while_producers_write_and_sql_asks(pg_dsn: str) -> None:
    async with leading(pg_dsn, tail_bytes=0) as leader:
        await leader.keep_layouts()
        topic = await keeping(leader, partitions=4)
        partitions = await leader.log.load([(topic, index) for index in range(4)])
        is_over = is_written = False
        sent: list[list[bytes]] = [[b"first"], [], [], []]

        async def produce(index: int) -> None:
            number = 0
            while not is_over:
                texts = [b"%d %d %d" % (index, number, n) for n in range(50)]
                number += 1
                answer = await leader.append(
                    partitions[index], batch(values(*texts), codec=LZ4 if number % 2 else ZSTD)
                )
                assert answer.error == 0 and answer.base_offset == len(sent[index])
                sent[index] += texts

        async def consume(index: int) -> list[bytes]:
            """Reads from the database all the time, and never meets a gap."""
            found: list[bytes] = []
            while not is_written or len(found) < len(sent[index]):
                for offset, _, value in records(await leader.log.read(partitions[index], len(found), 20_000)):
                    if offset >= len(found):
                        assert offset == len(found)
                        found.append(value or b"")
                await asyncio.sleep(0)
            return found

        producers = [asyncio.create_task(produce(index)) for index in range(4)]
        consumers = [asyncio.create_task(consume(index)) for index in range(4)]
        db = await asyncpg.connect(pg_dsn)
        await until(lambda: min(len(texts) for texts in sent) > 1000)
        assert await packed(db) > 0
        shown = "SELECT partition_id, partition_offset, value FROM topics.orders ORDER BY 1, 2"
        for _ in range(3):
            known = [len(texts) for texts in sent]
            rows = await db.fetch(shown)
            for index in range(4):
                found = [(offset, value) for partition, offset, value in rows if partition == index]
                assert [offset for offset, _ in found] == list(range(len(found)))
                assert len(found) >= known[index]
                assert [value for _, value in found][: known[index]] == sent[index][: known[index]]
        assert await packed(db) == 0
        is_over = True
        await asyncio.gather(*producers)
        is_written = True
        assert await asyncio.gather(*consumers) == sent
        assert [len(texts) for texts in sent] == [p.high_watermark for p in partitions]
        await db.close()


@pytest.mark.parametrize("step", range(1, 13))
async def test_crash_between_any_two_statements_is_harmless(
    pg_dsn: str, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unpacking stops for good after so many statements; the next broker goes on by what the tables say."""
    monkeypatch.setattr("pg_kafka.storage.layouts.PIECE_BYTES", 300)
    first = Leader(pg_dsn)
    await first.start()
    await first.keep_layouts()
    topic = await keeping(first)
    partition = await first.partition(topic)
    await fill(first, partition)
    before = await first.log.read(partition, 0, 1 << 20)
    assert first.layouts is not None
    connection = first.layouts._connection()
    stopped = asyncio.Event()
    left = step
    for name in ("execute", "fetch"):
        plain_call = getattr(connection, name)

        async def counted(
            statement: str, *arguments: Any, plain_call: Callable[..., Awaitable[Any]] = plain_call, **options: Any
        ) -> Any:
            nonlocal left
            if "sql_asked_at = clock" in statement or left < step:
                left -= 1
            if left < 0:
                stopped.set()
                await asyncio.Event().wait()
            return await plain_call(statement, *arguments, **options)

        monkeypatch.setattr(type(connection), name, _bound(counted, connection, getattr(type(connection), name)))
    db = await asyncpg.connect(pg_dsn)
    ask = asyncio.create_task(db.fetchval("SELECT count(*) FROM topics.orders"))
    async with asyncio.timeout(DEADLINE_S):
        await stopped.wait()
    first.crash()
    monkeypatch.undo()
    async with leading(pg_dsn) as second:
        await second.keep_layouts()
        assert await asyncio.wait_for(ask, DEADLINE_S) == 21
        assert await packed(db) == 0
        partition = await second.partition(second.topics.by_name["orders"])
        assert records(await second.log.read(partition, 0, 1 << 20)) == records(before)
        shown = await db.fetch("SELECT partition_offset, value FROM topics.orders ORDER BY 1")
        assert [tuple(row) for row in shown] == [(offset, value) for offset, _, value in records(before)]
        await fill(second, partition, 3, 21)
        assert await packed(db) == 0
    await db.close()


def _bound(
    mine: Callable[..., Awaitable[Any]], connection: object, plain_call: Callable[..., Any]
) -> Callable[..., Any]:
    """A method that is ours for one connection."""

    def call(self: object, *arguments: Any, **options: Any) -> Any:
        return mine(*arguments, **options) if self is connection else plain_call(self, *arguments, **options)

    return call


async def test_large_batch_becomes_several_rows(pg_dsn: str, db: asyncpg.Connection) -> None:
    async with leading(pg_dsn, tail_bytes=0) as leader:
        await leader.keep_layouts()
        partition = await leader.partition(await keeping(leader, **{"max.message.bytes": "20000000"}))
        large = batch(
            values(*(b"%d " % number * 2_000 for number in range(2_000))),
            codec=ZSTD,
            producer_id=5,
            epoch=0,
            sequence=0,
        )
        small = [batch(values(b"x", b"y"), codec=LZ4, producer_id=pid, epoch=0, sequence=0) for pid in (6, 7, 8)]
        await asyncio.gather(*(leader.send(partition, wire) for wire in (*small, large, *small[:1])))
        before = records(await leader.log.read(partition, 0, 1 << 26))
        sums = "sum(record_count), sum(row_bytes), sum(wire_bytes)"
        facts = f"min(base_offset), max(last_offset), {sums}, max(running_max_timestamp)"
        known = await db.fetchrow(f"SELECT {facts} FROM kafka.log")
        assert await packed(db) <= 5
        assert await plain(db) == len(before)
        assert await db.fetchrow(f"SELECT {facts} FROM kafka.log") == known
        assert await db.fetchval("SELECT max(row_bytes) FROM kafka.log") <= _records.MAX_SLICE_BYTES
        found = []
        while len(found) < len(before):
            found += [r for r in records(await leader.log.read(partition, len(found), 1 << 20)) if r[0] >= len(found)]
        assert found == before
        # global_offset stays what it was: distance from the row's global base.
        wrong = "SELECT count(*) FROM (SELECT global_base - base_offset AS d FROM kafka.log) AS s"
        assert await db.fetchval(wrong.replace("count(*)", "count(DISTINCT d)")) <= 3
        # The next broker knows the producers, of whom one has a batch in many rows.
    async with leading(pg_dsn) as leader:
        partition = await leader.partition(leader.topics.by_name["orders"])
        for wire, offset in [(small[0], 1), (small[2], 5), (large, 7)]:
            again = await leader.append(partition, wire)
            assert (again.error, again.base_offset) == (0, offset)


async def test_offsets_by_time_are_found_in_what_was_unpacked(pg_dsn: str, db: asyncpg.Connection) -> None:
    now = 1_700_000_000_000
    async with leading(pg_dsn) as leader:
        await leader.keep_layouts()
        partition = await leader.partition(await keeping(leader))
        stamps = [now]
        for first in range(10):
            taken = [(None, b"v" * 30_000, now + 100 * first + delta, ()) for delta in (5, 90, 20, 130, 40, 60)]
            stamps += [stamp for _, _, stamp, _ in taken]
            await leader.append(partition, batch(taken, codec=ZSTD))
        assert await plain(db) == len(stamps)
        for wanted in range(now - 1, now + 1032):
            expected = next(((n, s, partition.leader_epoch) for n, s in enumerate(stamps) if s >= wanted), None)
            assert await leader.log.offset_for_timestamp(partition, wanted) == expected


async def test_transactions_and_times_of_append_stay_what_they_were(pg_dsn: str, db: asyncpg.Connection) -> None:
    facts = """partition, min(base_offset) AS b, max(last_offset), sum(record_count), min(append_time), max(max_timestamp),
               bool_and(is_transactional), min(coalesce(producer_id, producer_ids[1])), min(leader_epoch), min(codec)"""
    async with leading(pg_dsn, tail_bytes=0) as leader:
        await leader.keep_layouts()
        topic = await keeping(leader, partitions=2, **{"message.timestamp.type": "LogAppendTime"})
        partition = (await leader.log.load([(topic, 1)]))[0]
        sent = bytearray(batch(values(b"a", b"b"), codec=LZ4, producer_id=9, epoch=0, sequence=0))
        sent[22] |= 0x10
        sent[17:21] = _records.crc32c(bytes(sent[21:])).to_bytes(4, "big")
        answer = await leader.append(partition, bytes(sent))
        assert answer.error == 0 and answer.log_append_time_ms > 0
        before = await leader.log.read(partition, 0, 1 << 20)
        known = await db.fetch(f"SELECT {facts} FROM kafka.log GROUP BY partition ORDER BY 1")
        assert await plain(db) == 1  # the transaction is open
        assert await packed(db) == 0
        assert await db.fetch(f"SELECT {facts} FROM kafka.log GROUP BY partition ORDER BY 1") == known
        after = await leader.log.read(partition, 0, 1 << 20)
        for old, new in zip(before, after, strict=True):
            kept, made = _records.peek(old), _records.peek(new)
            assert made.attributes == kept.attributes
            assert (made.producer_id, made.producer_epoch, made.base_sequence) == (9, 0, 0)
            assert made.max_timestamp == kept.max_timestamp == answer.log_append_time_ms
        shown = await db.fetch("SELECT transaction, timestamp_ms FROM kafka.all_messages WHERE partition_id = 1")
        assert {tuple(row) for row in shown} == {("open", answer.log_append_time_ms)}


async def test_frozen_segment_is_vacuumed_again(pg_dsn: str, db: asyncpg.Connection) -> None:
    told = asyncio.Event()
    async with leading(pg_dsn) as leader:
        await leader.keep_layouts(on_unfrozen=told.set)
        await fill(leader, await leader.partition(await keeping(leader)))
        await db.execute(
            "UPDATE kafka.segments SET state = 'frozen', owner = NULL, sealed_at = now() - interval '1 day'"
        )
        assert await plain(db) == 21
        assert told.is_set()
        state = await db.fetchrow("SELECT state, sealed_at > now() - interval '1 hour' FROM kafka.segments")
        assert tuple(state) == ("sealed", True)


async def test_topic_that_is_deleted_while_somebody_asks(pg_dsn: str, db: asyncpg.Connection) -> None:
    async with leading(pg_dsn) as leader:
        await leader.keep_layouts(has_room=lambda _bytes: False)  # so that it is never unpacked
        topic = await keeping(leader)
        await fill(leader, await leader.partition(topic))
        ask = asyncio.create_task(plain(db))
        await until(lambda: leader.topics.by_id[topic.id].is_asked)
        await leader.topics.delete([leader.topics.by_id[topic.id]])
        assert await asyncio.wait_for(ask, DEADLINE_S) == 0


async def test_change_of_the_layout_does_not_hide_that_sql_has_asked(pg_dsn: str, db: asyncpg.Connection) -> None:
    async with leading(pg_dsn) as leader:
        await leader.keep_layouts(has_room=lambda _bytes: False)
        topic = await keeping(leader)
        partition = await leader.partition(topic)
        await fill(leader, partition, 5)
        leader.topics._replace(topic, settings=replace(topic.settings, storage_layout="rows"))
        ask = asyncio.create_task(plain(db))
        await until(lambda: leader.topics.by_id[topic.id].is_asked)
        leader.topics._replace(topic, settings=topic.settings)
        assert not leader.topics.by_id[topic.id].is_packing
        # And as long as it is being unpacked it does not begin to keep batches again.
        leader.topics._replace(topic, settings=replace(topic.settings, storage_layout="batches"))
        assert leader.layouts is not None
        leader.layouts._idle_s = 0.0
        await fill(leader, partition, 3, 6)
        assert not leader.layouts._wanted
        ask.cancel()
        await asyncio.wait([ask])


async def test_disk_that_is_nearly_full_is_not_filled(
    pg_dsn: str, db: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    rooms: list[float] = []
    has_room = False

    def room(wanted: float) -> bool:
        rooms.append(wanted)
        return has_room

    async with leading(pg_dsn) as leader:
        await leader.keep_layouts(has_room=room)
        topic = await keeping(leader)
        await fill(leader, await leader.partition(topic))
        ask = asyncio.create_task(plain(db))
        await until(lambda: len(rooms) > 3)
        assert min(rooms) > 0 and not ask.done()
        other = await asyncpg.connect(pg_dsn)
        assert await packed(other) == 20
        await other.close()
        has_room = True
        assert await asyncio.wait_for(ask, DEADLINE_S) == 21
    told = [line for line in caplog.records if "not unpacked" in line.message]
    assert len(told) == 1


async def test_wait_can_be_cancelled_and_says_what_it_is_for(pg_dsn: str, db: asyncpg.Connection) -> None:
    notices: list[str] = []
    db.add_log_listener(lambda _connection, message: notices.append(message.message))
    async with leading(pg_dsn) as leader:
        await leader.keep_layouts(has_room=lambda _bytes: False)
        await fill(leader, await leader.partition(await keeping(leader)))
        await db.execute("SET statement_timeout = '2s'")
        with pytest.raises(asyncpg.QueryCanceledError):
            await plain(db)
        assert any('"orders" has compressed batches' in text for text in notices)


async def test_without_a_broker_it_is_an_error_at_once(pg_dsn: str, db: asyncpg.Connection) -> None:
    async with leading(pg_dsn) as leader:
        await leader.keep_layouts()
        await fill(leader, await leader.partition(await keeping(leader)))
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError) as error:
        await asyncio.wait_for(plain(db), 5)
    assert "no broker" in str(error.value) and "Start" in str(error.value.hint)  # type: ignore[attr-defined]
    async with leading(pg_dsn) as leader:
        await leader.keep_layouts()
        assert await plain(db) == 21


async def test_damaged_batch_stops_its_topic_only(
    pg_dsn: str, db: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    async with leading(pg_dsn) as leader:
        await leader.keep_layouts()
        bad = await keeping(leader, "bad")
        good = await keeping(leader)
        for topic in (bad, good):
            await fill(leader, await leader.partition(topic))
        await db.execute(
            "UPDATE kafka.log SET batch = set_byte(batch, 70, get_byte(batch, 70) # 255) WHERE topic = $1", bad.id
        )
        other = await asyncpg.connect(pg_dsn)
        ask = asyncio.create_task(other.fetchval("SELECT count(*) FROM topics.bad"))
        await until(lambda: any("cannot be unpacked" in line.message for line in caplog.records))
        assert await plain(db) == 21
        assert not ask.done()
        ask.cancel()
        await asyncio.wait([ask])
        await other.close()


async def test_who_may_read_a_view_may_ask_and_no_one_else(
    pg_dsn: str, pg_superuser_dsn: str, db: asyncpg.Connection
) -> None:
    admin = await asyncpg.connect(pg_superuser_dsn)
    role = "reader_" + (await admin.fetchval("SELECT current_database()"))
    try:
        async with leading(pg_dsn) as leader:
            await leader.keep_layouts()
            topic = await keeping(leader)
            other = await keeping(leader, "other")
            await admin.execute(f"CREATE ROLE {role} LOGIN")
            await db.execute(f"GRANT USAGE ON SCHEMA topics, kafka TO {role}")
            await db.execute(f"GRANT SELECT ON topics.orders TO {role}")
            stranger = await asyncpg.connect(pg_superuser_dsn)
            await stranger.execute(f"SET SESSION AUTHORIZATION {role}")
            # The advisory lock alone is nobody's wish.
            await stranger.fetchval("SELECT pg_advisory_lock_shared(1885825895, $1)", other.id)
            for _ in range(10):
                await asyncio.sleep(0.05)
            assert leader.topics.by_id[other.id].is_packing
            for refused in (
                "SELECT * FROM topics.other",
                "SELECT * FROM kafka.log",
                "SELECT * FROM kafka.topic_messages",
            ):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await stranger.fetch(refused)
            for function in ("await_rows(1)", "ask_for_rows(1)", "unpack('orders')"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await stranger.fetch(f"SELECT kafka.{function}")
            await stranger.execute("SELECT pg_advisory_unlock_all()")
            assert leader.topics.by_id[topic.id].is_packing
            assert await plain(stranger) == 1
            assert not leader.topics.by_id[topic.id].is_packing
            # A lock that keeps readers from theirs: they ask for all topics then.
            await stranger.fetchval("SELECT pg_advisory_lock(1885825895, $1)", other.id)
            assert await db.fetchval("SELECT count(*) FROM topics.other") == 1
            await stranger.close()
    finally:
        await admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
        await admin.close()


@BOTH
async def test_reader_through_a_view_of_somebody_else_s(
    pg_dsn: str, pg_superuser_dsn: str, db: asyncpg.Connection
) -> None:
    admin = await asyncpg.connect(pg_superuser_dsn)
    role = "viewer_" + (await admin.fetchval("SELECT current_database()"))
    try:
        async with leading(pg_dsn) as leader:
            await leader.keep_layouts()
            await fill(leader, await leader.partition(await keeping(leader)))
            await admin.execute(f"CREATE ROLE {role} LOGIN")
            await admin.execute("CREATE SCHEMA app; CREATE VIEW app.orders AS SELECT value FROM topics.orders")
            await admin.execute(f"GRANT USAGE ON SCHEMA app TO {role}; GRANT SELECT ON app.orders TO {role}")
            reader = await asyncpg.connect(pg_superuser_dsn)
            await reader.execute(f"SET SESSION AUTHORIZATION {role}")
            assert await asyncio.wait_for(reader.fetchval("SELECT count(*) FROM app.orders"), DEADLINE_S) == 21
            await reader.close()
    finally:
        await admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
        await admin.close()


async def test_dump_and_vacuum_ask_for_nothing(pg_dsn: str, db: asyncpg.Connection) -> None:
    async with leading(pg_dsn) as leader:
        await leader.keep_layouts()
        topic = await keeping(leader)
        async with db.transaction():
            await db.execute("LOCK TABLE kafka.unpacking_asked IN ACCESS SHARE MODE")
            await db.execute("LOCK TABLE kafka.unpacking_asked IN SHARE UPDATE EXCLUSIVE MODE")
            await db.fetch("SELECT * FROM kafka.unpacking_asked")
            for _ in range(10):
                await asyncio.sleep(0.05)
                assert leader.topics.by_id[topic.id].is_packing


async def test_what_somebody_has_put_in_the_place_of_a_view_is_left_alone(pg_dsn: str, db: asyncpg.Connection) -> None:
    async with leading(pg_dsn) as leader:
        await leader.keep_layouts()
        for name, mine in (("viewed", "VIEW topics.viewed AS SELECT 1 AS one"), ("tabled", "TABLE topics.tabled ()")):
            topic = await leader.topic(name)
            await db.execute("SELECT kafka.create_topic_view($1)", topic.id)
            await db.execute(f"DROP VIEW topics.{name}; CREATE {mine}")
            await leader.append(await leader.partition(topic), batch(values(b"first"), codec=LZ4))
            await until(lambda topic=topic: leader.topics.by_id[topic.id].is_packing)  # type: ignore[misc]
        assert await db.fetchval("SELECT one FROM topics.viewed") == 1
