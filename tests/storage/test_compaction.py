"""Compaction of small topics in place: what stays, what readers and SQL see, and what a crash leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from tests.storage.compactor import compact, give_series, roll
from tests.storage.leader import Leader, leading
from tests.storage.log_rows import add_row
from tests.wire_batches import batch, records

from pg_kafka.storage.partition import Partition
from pg_kafka.storage.topics import Topic
from pg_kafka.storage.transactions import Marker, TransactionStore

BOTH = pytest.mark.parametrize("postgres_server", ["postgresql-15", "embedded"], indirect=True)
NOW = 1_700_000_000_000
COMPACT = {"cleanup.policy": "compact", "segment.ms": "1", "min.cleanable.dirty.ratio": "0", "delete.retention.ms": "0"}


@pytest.fixture
async def db(pg_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(pg_dsn)
    yield connection
    await connection.close()


def pairs(*texts: str, producer: int = -1, sequence: int = -1) -> bytes:
    """A batch of records: `a=1`, or `a` for a tombstone. With a producer they are in a transaction."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=int(producer >= 0),
        producer_id=producer,
        producer_epoch=0 if producer >= 0 else -1,
        base_sequence=sequence,
        batch_size=1 << 20,
    )
    for number, text in enumerate(texts):
        key, _, value = text.partition("=")
        assert builder.append(number, NOW, key.encode(), value.encode() if value else None, []) is not None
    return bytes(builder.build())


async def read_all(
    leader: Leader, partition: Partition, offset: int = 0
) -> list[tuple[int, bytes | None, bytes | None]]:
    """As a consumer does, from the database."""
    found = []
    while offset < partition.high_watermark:
        wire = await leader.log.read(partition, offset, 1_000_000)
        found += [record for record in records(wire) if record[0] >= offset]
        offset = int.from_bytes(wire[-1][:8], "big") + int.from_bytes(wire[-1][23:27], "big") + 1
    return found


async def by_sql(db: asyncpg.Connection, topic: Topic) -> list[tuple[int, bytes | None, bytes | None]]:
    rows = await db.fetch(
        "SELECT partition_offset, key, value FROM kafka.messages WHERE topic_id = $1 ORDER BY partition_id, partition_offset",
        topic.id,
    )
    return [tuple(row) for row in rows]


@BOTH
async def test_the_last_record_of_each_key_stays(pg_dsn: str, db: asyncpg.Connection) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("orders", **COMPACT)
        partition = await leader.partition(topic)
        for texts in (("a=1", "b=1", "c=1"), ("a=2", "a=3"), ("b=2", "d=1"), ("a=4",)):
            await leader.append(partition, pairs(*texts))
        globals_before = dict(await db.fetch("SELECT partition_offset, global_offset FROM kafka.messages"))
        assert await compact(leader) == 1
        expected = [(2, b"c", b"1"), (5, b"b", b"2"), (6, b"d", b"1"), (7, b"a", b"4")]
        assert await read_all(leader, partition) == expected
        assert await by_sql(db, topic) == expected
        for offset in range(8):
            assert await read_all(leader, partition, offset) == [r for r in expected if r[0] >= offset]
        after = dict(await db.fetch("SELECT partition_offset, global_offset FROM kafka.messages"))
        assert after == {offset: globals_before[offset] for offset, _, _ in expected}
        # Whoever takes over finds the same.
        assert partition.high_watermark == 8
    async with leading(pg_dsn) as leader:
        partition = await leader.partition(leader.topics.by_name["orders"])
        assert partition.high_watermark == 8
        assert await read_all(leader, partition) == expected


@BOTH
async def test_a_series_of_its_own_is_compacted_by_segments_that_replace_others(
    pg_dsn: str, db: asyncpg.Connection
) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("orders", 2, **COMPACT)
        partition, other = [await leader.partition(topic, index) for index in (0, 1)]
        await leader.append(partition, pairs("a=1", "b=1", "c=1"))
        await leader.append(other, pairs("x=1", "y=1"))
        await give_series(leader, topic)
        await leader.append(partition, pairs("a=2", "d=2"))
        await leader.append(other, pairs("x=2"))
        await roll(leader, topic.id)
        await leader.append(partition, pairs("a=3", "e=3"))
        await roll(leader, topic.id)
        # The active segment is not touched, and nothing in it counts.
        await leader.append(partition, pairs("a=4", "a=5"))
        reader = await asyncpg.connect(pg_dsn)
        transaction = reader.transaction(isolation="repeatable_read")
        await transaction.start()
        before = await by_sql(db, topic)
        await reader.fetch("SELECT FROM kafka.topics")  # its snapshot is from now
        assert await compact(leader) == 1
        expected = [
            (1, b"b", b"1"),
            (2, b"c", b"1"),
            (4, b"d", b"2"),
            (5, b"a", b"3"),
            (6, b"e", b"3"),
            (7, b"a", b"4"),
            (8, b"a", b"5"),
        ]
        assert await read_all(leader, partition) == expected
        assert await read_all(leader, other) == [(1, b"y", b"1"), (2, b"x", b"2")]
        assert await by_sql(db, topic) == [*expected, (1, b"y", b"1"), (2, b"x", b"2")]
        # A reader from before sees what was there; its rows are freed when it has gone.
        assert await by_sql(reader, topic) == before
        await transaction.rollback()
        await reader.close()
        cleaned = await db.fetch(
            "SELECT partition, first_dirty_offset, records_before, records_after FROM kafka.compactions"
        )
        assert sorted(tuple(row) for row in cleaned) == [(0, 7, 7, 5), (1, 3, 3, 2)]
        for offset in range(9):
            assert await read_all(leader, partition, offset) == [r for r in expected if r[0] >= offset]


async def marked(leader: Leader, topic: Topic, producer: int, *, is_commit: bool) -> None:
    markers = [Marker(topic.id, 0, producer, 0, is_commit, 0)]
    await TransactionStore(leader.log, leader.control).end(0, (), markers)


async def stored(db: asyncpg.Connection) -> list[tuple[int, int, int, bool]]:
    """Base and last offset, record count, and whether it is a marker, of each row."""
    rows = await db.fetch(
        "SELECT base_offset, last_offset, record_count, is_control FROM kafka.log ORDER BY base_offset"
    )
    return [tuple(row) for row in rows]


async def test_a_row_takes_over_the_offsets_of_those_behind_it_that_are_gone(
    pg_dsn: str, db: asyncpg.Connection
) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("orders", **COMPACT)
        partition = await leader.partition(topic)
        for texts in (("a=1",), ("a=2", "b=1"), ("a=3",), ("a=4",), ("b=2", "a=5", "c=1")):
            await leader.append(partition, pairs(*texts))
        await compact(leader)
        # The first row stays without a record, so that all offsets are in some row.
        assert await stored(db) == [(0, 4, 0, False), (5, 7, 3, False)]
        await leader.append(partition, pairs("c=2"))
        await compact(leader)
        assert await stored(db) == [(0, 4, 0, False), (5, 7, 2, False), (8, 8, 1, False)]
        extent = await db.fetchrow("SELECT sum(records) AS records FROM kafka.extents WHERE last_offset IS NOT NULL")
        assert extent["records"] is None  # nothing is sealed yet
        await roll(leader, 0)
        await leader.append(partition, pairs("b=3"))
        await compact(leader)
        figures = await db.fetchrow("SELECT * FROM kafka.extents WHERE last_offset IS NOT NULL")
        assert (figures["last_offset"], figures["records"], figures["max_timestamp"]) == (8, 2, NOW)


async def test_tombstones_stay_for_their_time(pg_dsn: str, db: asyncpg.Connection) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("orders", **COMPACT | {"delete.retention.ms": "3600000"})
        partition = await leader.partition(topic)
        await leader.append(partition, pairs("a=1", "b=1"))
        await leader.append(partition, pairs("a"))
        await compact(leader)
        assert await read_all(leader, partition) == [(1, b"b", b"1"), (2, b"a", None)]
        horizons = await db.fetch("SELECT delete_horizon FROM kafka.log ORDER BY base_offset")
        assert horizons[0][0] is None
        assert abs(horizons[1][0] - leader.clock.wall_ms() - 3_600_000) < 60_000
        # Cleaned again before its time it stays, with the time that it has.
        await leader.append(partition, pairs("b=2"))
        await compact(leader)
        assert await read_all(leader, partition) == [(2, b"a", None), (3, b"b", b"2")]
        assert (await db.fetch("SELECT delete_horizon FROM kafka.log WHERE base_offset = 2"))[0][0] == horizons[1][0]
        await db.execute("UPDATE kafka.log SET delete_horizon = 1 WHERE delete_horizon IS NOT NULL")
        await leader.append(partition, pairs("b=3"))
        await compact(leader)
        assert await read_all(leader, partition) == [(4, b"b", b"3")]


async def test_markers_go_when_nothing_of_their_transaction_is_left(pg_dsn: str, db: asyncpg.Connection) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("orders", **COMPACT)
        partition = await leader.partition(topic)
        await leader.append(partition, pairs("a=1", producer=7, sequence=0))
        await marked(leader, topic, 7, is_commit=False)  # 1
        await leader.append(partition, pairs("a=2", producer=7, sequence=1))
        await marked(leader, topic, 7, is_commit=True)  # 3
        for number in range(3):
            await leader.append(partition, pairs(f"b={number}"))
            await compact(leader)
            batches = await leader.log.read(partition, 0, 1_000_000)
            # However often it is cleaned, an aborted transaction is never told of without its marker.
            told = await leader.log.aborted(partition, 0, batches)
            markers = {offset for offset, _, _, is_control in await stored(db) if is_control}
            assert told == ([(7, 0)] if 1 in markers else [])
            assert await by_sql(db, topic) == [(2, b"a", b"2"), (4 + number, b"b", b"%d" % number)]
        # The aborted transaction's marker is gone; the other one has a record to vouch for.
        assert markers == {3}
        assert [tuple(r) for r in await db.fetch("SELECT marker_offset, is_commit FROM kafka.markers")] == [(3, True)]
        # A transaction that comes later is not taken for the aborted one.
        await leader.append(partition, pairs("c=1", producer=7, sequence=2))
        await marked(leader, topic, 7, is_commit=True)
        assert await leader.log.aborted(partition, 0, await leader.log.read(partition, 0, 1_000_000)) == []


async def test_nothing_above_an_open_transaction_is_cleaned(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("orders", **COMPACT)
        partition = await leader.partition(topic)
        await leader.append(partition, pairs("a=1"))
        await leader.append(partition, pairs("a=2"))
        await leader.append(partition, pairs("b=1", producer=7, sequence=0))
        await leader.append(partition, pairs("a=3"))
        await leader.append(partition, pairs("a=4"))
        await compact(leader)
        offsets = [record[0] for record in await read_all(leader, partition)]
        assert offsets == [1, 2, 3, 4]
        await marked(leader, topic, 7, is_commit=True)
        await compact(leader)
        assert [record[0] for record in await read_all(leader, partition)] == [2, 4, 5]  # the last one is the marker


@pytest.mark.parametrize(
    ("configs", "expected"),
    [
        ({"min.compaction.lag.ms": "3600000"}, [0, 1, 2]),
        ({"segment.ms": "3600000"}, [0, 1, 2]),
        ({"min.cleanable.dirty.ratio": "1"}, [0, 1, 2]),
        ({"min.cleanable.dirty.ratio": "1", "max.compaction.lag.ms": "1"}, [2]),
        ({}, [2]),
    ],
)
async def test_what_is_not_due_is_left_alone(pg_dsn: str, configs: dict[str, str], expected: list[int]) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("orders", **COMPACT | configs)
        partition = await leader.partition(topic)
        now = leader.clock.wall_ms() - 1000
        for number in range(3):
            await leader.append(partition, batch([(b"a", b"%d" % number, now, ())]))
        await compact(leader)
        assert [record[0] for record in await read_all(leader, partition)] == expected


@pytest.mark.parametrize(
    ("settings", "configs"), [({"log_cleaner_enable": False}, {}), ({}, {"cleanup.policy": "delete"})]
)
async def test_nothing_is_cleaned_where_nobody_wants_it(
    pg_dsn: str, settings: dict[str, Any], configs: dict[str, str]
) -> None:
    async with leading(pg_dsn, **settings) as leader:
        topic = await leader.topic("orders", **COMPACT | configs)
        partition = await leader.partition(topic)
        await leader.append(partition, pairs("a=1", "a=2"))
        assert await compact(leader) == 0


async def test_what_a_record_has_besides_stays_with_it(pg_dsn: str, db: asyncpg.Connection) -> None:
    """Headers, timestamps, records without a value, and none without a key, from before the topic was compacted."""
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("orders", **COMPACT | {"cleanup.policy": "delete"})
        partition = await leader.partition(topic)
        sent = [
            (b"a", b"1", NOW + 5, [("x", b"1")]),
            (None, b"no key", NOW + 9, []),
            (b"b", b"2", NOW + 3, [("y", b"2"), ("y", None), ("z", b"")]),
            (b"a", b"3", NOW + 1, []),
            (b"c", b"", NOW + 7, [("last", b"3")]),
            (b"d", None, NOW + 2, []),
        ]
        await leader.append(partition, batch(sent))
        await db.execute("UPDATE kafka.topics SET configs = $1 WHERE id = $2", json.dumps(COMPACT), topic.id)
        await leader.topics.follow(None)
        await compact(leader)
        wire = await leader.log.read(partition, 0, 1_000_000)
        found = [(r.offset, r.key, r.value, r.timestamp, list(r.headers)) for r in DefaultRecordBatch(bytes(wire[0]))]
        assert found == [(n, *sent[n]) for n in (2, 3, 4, 5)]
        rows = await db.fetch(
            "SELECT partition_offset, key, value, timestamp_ms, headers FROM kafka.messages ORDER BY partition_offset"
        )
        assert [(r[0], r[1], r[2], r[3], [tuple(h) for h in r[4] or []]) for r in rows] == found
        (row,) = await db.fetch("SELECT first_timestamp, max_timestamp, record_count, row_bytes FROM kafka.log")
        assert tuple(row) == (NOW + 3, NOW + 7, 4, 15)
        assert await leader.log.offset_for_timestamp(partition, NOW + 4) == (4, NOW + 7, partition.leader_epoch)
        assert await leader.log.offset_of_max_timestamp(partition) == (4, NOW + 7, partition.leader_epoch)


async def test_batches_as_they_came_are_taken_apart_first(pg_dsn: str, db: asyncpg.Connection) -> None:
    async with leading(pg_dsn) as leader:
        await leader.keep_layouts()
        topic = await leader.topic("orders", **COMPACT | {"cleanup.policy": "delete"})
        partition = await leader.partition(topic)
        for number in range(20):
            await leader.append(partition, batch([(b"a", b"%d" % number, NOW, ())], codec=3))
            await asyncio.sleep(0.01)
        assert await db.fetchval("SELECT count(*) FROM kafka.log WHERE batch IS NOT NULL")
        await db.execute("UPDATE kafka.topics SET configs = $1 WHERE id = $2", json.dumps(COMPACT), topic.id)
        await leader.topics.follow(None)
        async with asyncio.timeout(20):
            while not await compact(leader):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert await read_all(leader, partition) == [(19, b"a", b"19")]
        await leader.append(partition, batch([(b"a", b"20", NOW, ())], codec=3))
        assert not await db.fetchval("SELECT count(*) FROM kafka.log WHERE batch IS NOT NULL")


async def test_offsets_farther_apart_than_a_batch_may_span(pg_dsn: str, db: asyncpg.Connection) -> None:
    """A batch says its last offset in 31 bits, so rows do not take over more than that."""
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("orders", **COMPACT)
        for number in range(8):
            await add_row(db, topic.id, number << 29, [b"v"], keys=[b"a"])
        await db.execute("UPDATE kafka.log SET last_offset = base_offset + (1 << 29) - 1")
        end = 8 << 29
        await db.execute(
            "INSERT INTO kafka.partition_checkpoints (topic, partition, next_offset, running_max_timestamp)"
            " VALUES ($1, 0, $2, 0)",
            topic.id,
            end,
        )
        await compact(leader)
        assert await stored(db) == [
            (0, (1 << 30) - 1, 0, False),
            (1 << 30, (2 << 30) - 1, 0, False),
            (2 << 30, (3 << 30) - 1, 0, False),
            (3 << 30, (7 << 29) - 1, 0, False),
            (7 << 29, end - 1, 1, False),
        ]
        partition = await leader.partition(topic)
        assert await read_all(leader, partition) == [(7 << 29, b"a", b"v")]


@BOTH
async def test_a_reader_from_before_sees_what_was_there(pg_dsn: str, db: asyncpg.Connection) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("orders", **COMPACT)
        await db.execute("SELECT kafka.create_topic_view($1)", topic.id)
        partition = await leader.partition(topic)
        for number in range(5):
            await leader.append(partition, pairs(f"a={number}", f"b={number}"))
        before = await by_sql(db, topic)
        assert len(before) == 10
        async with db.transaction(isolation="repeatable_read"):
            assert await by_sql(db, topic) == before
            await compact(leader)
            assert await by_sql(db, topic) == before
            assert len(await db.fetch("SELECT * FROM kafka.read('orders', 0, 0, 100)")) == 10
        assert await by_sql(db, topic) == before[8:]
        for first in range(10):
            rows = await db.fetch(f"SELECT partition_offset FROM kafka.read('orders', 0, {first}, 100)")
            assert [row[0] for row in rows] == [8, 9][max(0, first - 8) :]
        (stored_row,) = await db.fetch(
            "SELECT batch_base_offset, batch_last_offset FROM topics.orders WHERE partition_offset = 8"
        )
        assert tuple(stored_row) == (8, 9)


async def test_consumers_find_rows_of_segments_that_became_one_and_nothing_behind(pg_dsn: str) -> None:
    """The extents that a partition knows of become fewer."""
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("orders", **COMPACT)
        await give_series(leader, topic)
        partition = await leader.partition(topic)
        for number in range(3):
            await leader.append(partition, pairs("a=1", f"b{number}=1"))
            await roll(leader, topic.id)
        assert len(partition.extents) == 3
        await compact(leader)
        assert len(partition.extents) == 1
        partition.tail.clear()
        expected = [(1, b"b0", b"1"), (3, b"b1", b"1"), (4, b"a", b"1"), (5, b"b2", b"1")]
        for first in range(6):
            assert await read_all(leader, partition, first) == [r for r in expected if r[0] >= first]
        await leader.append(partition, pairs("c=1"))
        assert await read_all(leader, partition) == [*expected, (6, b"c", b"1")]


async def test_sizes_are_those_of_what_stays(pg_dsn: str, db: asyncpg.Connection) -> None:
    """Also of a partition whose newest segment is not complete, and with what comes afterwards."""
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("orders", **COMPACT)
        partition = await leader.partition(topic)
        for number in range(50):
            await leader.append(partition, pairs(f"a={number:050}", f"b={number:050}"))
        before = (await leader.log.sizes([topic]))[topic.id, 0]
        await compact(leader)
        await leader.append(partition, pairs("c=1"))
        rows = await db.fetchrow(
            "SELECT sum(coalesce(wire_bytes, row_bytes)) AS bytes, sum(record_count) AS records FROM kafka.log WHERE topic = $1",
            topic.id,
        )
        assert rows["records"] == 3
        assert (await leader.log.sizes([topic]))[topic.id, 0] == rows["bytes"] < before / 10
    # A stop writes checkpoints.
    shown = await db.fetchrow("SELECT records, bytes FROM kafka.topic_sizes WHERE topic = 'orders'")
    assert dict(shown) == dict(rows)
    async with leading(pg_dsn) as leader:
        await leader.partition(leader.topics.by_name["orders"])
        assert (await leader.log.sizes([topic]))[topic.id, 0] == rows["bytes"]
