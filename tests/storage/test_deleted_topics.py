"""Deleted topics: by SQL as by the protocol, at once where nobody reads, and without holding anybody up where somebody does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from tests.storage.janitors import janitor_of
from tests.storage.leader import Leader, leading
from tests.storage.log_rows import add_topic, connect_migrated
from tests.storage.test_janitor import NONE_DELETED, until
from tests.wire_batches import batch, values

from pg_kafka.storage.partition import Partition
from pg_kafka.storage.segments import Segments
from pg_kafka.storage.topics import Topic
from pg_kafka.storage.upkeep.janitor import Janitor
from pg_kafka.wire.error_codes import ErrorCode

SIZE = "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0) FROM pg_class c WHERE c.relname ~ $1 AND c.relkind = 'r'"


@asynccontextmanager
async def with_janitor(leader: Leader, dsn: str) -> AsyncIterator[Janitor]:
    janitor = janitor_of(
        dsn,
        leader.log,
        owner=leader.log.node_id,
        growth=leader.growth,
        on_changes=leader.topics.follow,
        interval_s=0.2,
        compression="none",
    )
    leader.topics.watch(janitor)
    await janitor.start()
    try:
        yield janitor
    finally:
        await janitor.stop()


async def own_series(leader: Leader, db: asyncpg.Connection, name: str = "big") -> tuple[Topic, Partition]:
    """A topic that has outgrown the shared series, with rows in both."""
    topic = await leader.topic(name)
    partition = await leader.partition(topic)
    await leader.append(partition, batch(values(b"s" * 1000)))
    leader.growth.outgrown.add(topic.id)
    leader.growth.look()
    await until(db, "SELECT series = id FROM kafka.topics WHERE id = $1", topic.id)
    async with asyncio.timeout(20):
        while partition.series != topic.id:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    for number in range(20):
        assert (await leader.append(partition, batch(values(b"%d" % number * 10_000)))).error == 0
    return topic, partition


async def test_a_topic_that_sql_deletes_while_it_is_written_is_freed_as_any(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader, with_janitor(leader, pg_dsn) as janitor:
        db = await asyncpg.connect(pg_dsn)
        topic, partition = await own_series(leader, db)
        other = await leader.partition(await leader.topic("other"))
        errors: list[int] = []

        async def write() -> None:
            while not errors or not errors[-1]:
                errors.append((await leader.append(partition, batch(values(b"x" * 1000)))).error)
                assert (await leader.append(other, batch(values(b"o")))).error == 0

        writing = asyncio.create_task(write())
        while len(errors) < 5:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await db.execute("DELETE FROM kafka.topics WHERE name = 'big'")
        janitor.poke()
        await asyncio.wait_for(writing, 30)
        assert errors[-1] in (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, ErrorCode.NOT_LEADER_OR_FOLLOWER)
        await until(db, NONE_DELETED)
        assert "big" not in leader.topics.by_name and partition.is_closed
        assert await db.fetchval("SELECT count(*) FROM kafka.log WHERE topic = $1", topic.id) == 0
        assert await db.fetchval("SELECT count(*) FROM kafka.extents WHERE topic = $1", topic.id) == 0
        assert await db.fetchval("SELECT to_regclass($1) IS NULL", f"kafka.log_{topic.id}")
        assert (await leader.append(other, batch(values(b"o")))).error == 0
        assert not leader.over.is_set() and not janitor.failures["free topics"]
        again = await leader.topic("big")
        assert again.id != topic.id and (await leader.partition(again)).high_watermark == 0
        await db.close()


async def test_every_way_of_deleting_by_sql_keeps_the_topic_for_the_janitor(pg_dsn: str) -> None:
    db = await connect_migrated(pg_dsn)
    first, second, third = [await add_topic(db, name) for name in ("a", "b", "c")]
    await db.execute("UPDATE kafka.topics SET view_name = 'a' WHERE id = $1", first)
    await db.execute("DELETE FROM kafka.topics WHERE id < $1", third)
    rows = await db.fetch("SELECT id, name, series, view_name FROM kafka.deleted_topics ORDER BY id")
    assert [tuple(row) for row in rows] == [(first, "a", 0, "a"), (second, "b", 0, None)]
    # A program from before the trigger writes the row itself.
    await db.execute(
        "WITH gone AS (DELETE FROM kafka.topics RETURNING id, name, series)"
        " INSERT INTO kafka.deleted_topics (id, name, series) SELECT * FROM gone"
    )
    assert await db.fetchval("SELECT count(*) FROM kafka.deleted_topics") == 3
    await db.close()


async def test_a_reader_of_one_segment_keeps_the_space_of_that_one_only(pg_dsn: str) -> None:
    db, reader = await connect_migrated(pg_dsn), await asyncpg.connect(pg_dsn)
    topic = await add_topic(db, "t")
    segments = Segments(db)
    await segments.create_series(topic, "none", 1)
    for number in range(3):
        await db.execute(
            f"INSERT INTO kafka.log_{topic}_{number} (series, topic, base_offset, last_offset, global_base, max_timestamp,"
            " running_max_timestamp, append_time, first_timestamp, segment, partition, record_count, row_bytes, leader_epoch,"
            " timestamp_type, codec, is_transactional, is_control, values)"
            f" SELECT {topic}, {topic}, n, n, n, 0, 0, 0, 0, {number}, 0, 1, 9, 0, 0, 0, false, false,"
            " ARRAY[repeat('x', 4000)::bytea] FROM generate_series(1, 100) AS n"
        )
        await segments.roll(topic, number, "none")
    transaction = reader.transaction()
    await transaction.start()
    await reader.fetch(f"SELECT count(*) FROM kafka.log_{topic}_1")
    with pytest.raises(asyncpg.LockNotAvailableError):
        await segments.drop_series(topic)
    sizes = [await db.fetchval(SIZE, f"^log_{topic}_{number}$") for number in range(3)]
    assert sizes[0] == sizes[2] < sizes[1]
    await transaction.commit()
    await segments.drop_series(topic)
    assert await db.fetchval(SIZE, f"^log_{topic}_") == 0
    await db.close()
    await reader.close()


async def test_deleting_behind_a_reader_of_everything_holds_up_no_writer(pg_dsn: str) -> None:
    """As behind pg_dump: all tables are locked against what the janitor wants, and it waits for them, others do not."""
    async with leading(pg_dsn) as leader, with_janitor(leader, pg_dsn):
        db, reader = await asyncpg.connect(pg_dsn), await asyncpg.connect(pg_dsn)
        topic, _ = await own_series(leader, db)
        other = await leader.partition(await leader.topic("other"))
        transaction = reader.transaction()
        await transaction.start()
        await reader.execute("LOCK TABLE kafka.log IN ACCESS SHARE MODE")
        async with asyncio.timeout(20):
            await leader.topics.delete([topic])
        # The janitor is at work on it, and asks for locks that it does not get.
        await until(db, "SELECT EXISTS (SELECT FROM kafka.deleted_topics)")
        for _ in range(50):
            assert (await asyncio.wait_for(leader.append(other, batch(values(b"o"))), 10)).error == 0
        assert await db.fetchval(SIZE, f"^log_{topic.id}_") > 100_000
        await transaction.commit()
        await until(db, NONE_DELETED)
        assert await db.fetchval(SIZE, f"^log_{topic.id}_") == 0
        await db.close()
        await reader.close()
