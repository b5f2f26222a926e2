"""kafka.latest(): the newest value of each key, compacted or not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from tests.storage.compactor import compact, give_series, roll, set_log_start
from tests.storage.leader import leading
from tests.storage.test_compaction import COMPACT, NOW, marked, pairs
from tests.wire_batches import batch

BOTH = pytest.mark.parametrize("postgres_server", ["postgresql-15", "embedded"], indirect=True)
LATEST = "SELECT partition_id, partition_offset, key, value FROM kafka.latest('orders') ORDER BY 1, 2"


@pytest.fixture
async def db(pg_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(pg_dsn)
    yield connection
    await connection.close()


async def latest(db: asyncpg.Connection) -> list[tuple[int, int, bytes, bytes]]:
    return [tuple(row) for row in await db.fetch(LATEST)]


@BOTH
async def test_the_newest_value_of_each_key_whether_compacted_or_not(pg_dsn: str, db: asyncpg.Connection) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("orders", 2, **COMPACT)
        partition, other = [await leader.partition(topic, index) for index in (0, 1)]
        await leader.append(partition, pairs("a=1", "b=1", "c=1"))
        await leader.append(partition, pairs("a=2", "b"))
        await leader.append(other, pairs("a=9", "d=1"))
        await give_series(leader, topic)
        await leader.append(partition, pairs("c=2", "e=1", "e=2"))
        await roll(leader, topic.id)
        await leader.append(other, pairs("d=2"))
        expected = [(0, 3, b"a", b"2"), (0, 5, b"c", b"2"), (0, 7, b"e", b"2"), (1, 0, b"a", b"9"), (1, 2, b"d", b"2")]
        assert await latest(db) == expected
        async with db.transaction(isolation="repeatable_read"):
            await db.fetch("SELECT FROM kafka.topics")  # its snapshot is from before
            await compact(leader)
            assert await latest(db) == expected
        assert await latest(db) == expected
        # What it says of a record is what the views say.
        rows = await db.fetch("SELECT * FROM kafka.latest('orders')")
        shown = await db.fetch(
            "SELECT partition_id, partition_offset, global_offset, key, value, timestamp, timestamp_ms FROM kafka.messages"
        )
        assert {tuple(row) for row in rows} <= {tuple(row) for row in shown}


async def test_transactions_count_when_they_are_committed(pg_dsn: str, db: asyncpg.Connection) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("orders")
        partition = await leader.partition(topic)
        await leader.append(partition, pairs("a=1", "b=1"))
        await leader.append(partition, pairs("a=2", producer=7, sequence=0))
        assert await latest(db) == [(0, 0, b"a", b"1"), (0, 1, b"b", b"1")]
        await marked(leader, topic, 7, is_commit=True)
        await leader.append(partition, pairs("b=2", producer=7, sequence=1))
        assert await latest(db) == [(0, 1, b"b", b"1"), (0, 2, b"a", b"2")]
        await marked(leader, topic, 7, is_commit=False)
        assert await latest(db) == [(0, 1, b"b", b"1"), (0, 2, b"a", b"2")]


async def test_what_lies_below_the_log_start_is_gone(pg_dsn: str, db: asyncpg.Connection) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("orders")
        partition = await leader.partition(topic)
        await leader.append(partition, pairs("a=1", "b=1", "c=1"))
        await set_log_start(leader, partition, 2)
        assert await latest(db) == [(0, 2, b"c", b"1")]


async def test_records_without_a_key_and_times(pg_dsn: str, db: asyncpg.Connection) -> None:
    async with leading(pg_dsn) as leader:
        partition = await leader.partition(await leader.topic("orders"))
        await leader.append(
            partition,
            batch([(None, b"x", NOW, ()), (b"a", b"1", NOW + 1, ()), (b"b", b"2", NOW + 2, ()), (b"a", b"3", -1, ())]),
        )
        await leader.append(partition, batch([(None, b"none has a key", NOW, ())]))
        rows = await db.fetch("SELECT key, value, timestamp, timestamp_ms FROM kafka.latest('orders') ORDER BY key")
        assert [(r["key"], r["value"], r["timestamp_ms"]) for r in rows] == [(b"a", b"3", -1), (b"b", b"2", NOW + 2)]
        assert rows[0]["timestamp"] is None
        assert rows[1]["timestamp"].timestamp() * 1000 == NOW + 2


async def test_a_view_stands_on_it_and_is_joined(pg_dsn: str, db: asyncpg.Connection) -> None:
    async with leading(pg_dsn) as leader:
        partition = await leader.partition(await leader.topic("orders"))
        await leader.append(partition, pairs("1=one", "2=two", "2=TWO"))
        await db.execute(
            "CREATE VIEW public.customers AS SELECT kafka.as_text(key)::int AS id, kafka.as_text(value) AS name "
            "FROM kafka.latest('orders')"
        )
        rows = await db.fetch("SELECT g, c.name FROM generate_series(1, 3) g LEFT JOIN public.customers c ON c.id = g")
        assert [tuple(row) for row in rows] == [(1, "one"), (2, "TWO"), (3, None)]


async def test_who_may_not_read_the_topic_may_not_read_it_this_way(
    pg_dsn: str, db: asyncpg.Connection, pg_superuser_dsn: str, postgres_server: Any
) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("orders")
        await leader.append(await leader.partition(topic), pairs("a=1"))
        await db.execute("SELECT kafka.create_topic_view($1)", topic.id)
        reader = postgres_server.create_database()
        other = await asyncpg.connect(pg_superuser_dsn)
        try:
            await other.execute(f"SET ROLE {reader.name}")
            await db.execute(f"GRANT USAGE ON SCHEMA kafka, topics TO {reader.name}")
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="latest"):
                await latest(other)
            await db.execute(f"GRANT EXECUTE ON FUNCTION kafka.latest(text) TO {reader.name}")
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match=r"permission denied for view topics\.orders"):
                await latest(other)
            await db.execute(f"GRANT SELECT ON topics.orders TO {reader.name}")
            assert await latest(other) == [(0, 0, b"a", b"1")]
        finally:
            await other.close()
            await db.execute(f"REVOKE ALL ON SCHEMA kafka, topics FROM {reader.name}")
            await db.execute(f"REVOKE ALL ON FUNCTION kafka.latest(text) FROM {reader.name}")
            await db.execute(f"REVOKE ALL ON topics.orders FROM {reader.name}")
            postgres_server.drop_database(reader)


async def test_a_topic_that_is_not_there(pg_dsn: str, db: asyncpg.Connection) -> None:
    async with leading(pg_dsn):
        with pytest.raises(asyncpg.UndefinedObjectError, match='topic "nothing" does not exist'):
            await db.fetch("SELECT * FROM kafka.latest('nothing')")
