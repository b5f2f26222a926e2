"""kafka.poll() while records are appended, move between segments, are compacted and unpacked: each comes once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from tests.storage.compactor import compact, give_series, roll
from tests.storage.leader import leading
from tests.storage.log_rows import add_row, add_topic, connect_migrated
from tests.storage.retaining import NOW, keeping
from tests.storage.test_compaction import COMPACT, pairs
from tests.storage.test_retention import NEVER, send
from tests.storage.test_unpacking import fill as fill_packed
from tests.storage.test_unpacking import keeping as keeping_batches
from tests.storage.test_unpacking import packed
from tests.wire_batches import batch, values

from pg_kafka.storage.segments import Segments

BOTH = pytest.mark.parametrize("postgres_server", ["postgresql-15", "embedded"], indirect=True)


@pytest.fixture
async def db(pg_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(pg_dsn)
    yield connection
    await connection.close()


async def poll(db: asyncpg.Connection, topic: str, max_records: int = 100, group: str = "g") -> list[tuple[int, int]]:
    rows = await db.fetch(
        "SELECT partition_id, partition_offset FROM kafka.poll($1, $2, $3)", group, topic, max_records
    )
    return [tuple(row) for row in rows]


async def drained(
    db: asyncpg.Connection, topic: str, max_records: int = 100, group: str = "g"
) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    while got := await poll(db, topic, max_records, group):
        found += got
    return found


async def test_records_of_several_segments_and_series(pg_dsn: str, db: asyncpg.Connection) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("orders", 2)
        parts = [await leader.partition(topic, index) for index in (0, 1)]
        numbers = iter(range(1000))

        async def write(count: int) -> None:
            for _ in range(count):
                for part in parts:
                    await leader.append(part, batch(values(b"%d" % next(numbers), b"x", b"y")))

        await write(3)
        await roll(leader, 0)
        await write(2)
        await give_series(leader, topic)
        await write(2)
        await roll(leader, topic.id)
        await write(1)
        for size in (1, 4, 100):
            found = await drained(db, "orders", size, f"g{size}")
            for partition in (0, 1):
                assert [n for p, n in found if p == partition] == list(range(24)), size


async def test_offsets_of_another_segment_are_not_passed_over(db: asyncpg.Connection, pg_dsn: str) -> None:
    """A carried-over row lies in front of newer ones in the active segment; those between are in another one."""
    await (await connect_migrated(pg_dsn)).close()
    topic = await add_topic(db, "orders")
    segments = Segments(db)
    for segment in (1, 2):
        assert await segments.roll(0, segment - 1, "none") == segment
    await add_row(db, topic, 10, [b"b"] * 10, segment=1)
    await add_row(db, topic, 0, [b"a"] * 10, segment=2)
    await add_row(db, topic, 20, [b"c"] * 10, segment=2)
    await db.execute(
        "INSERT INTO kafka.extents (topic, partition, first_offset, series, segment) VALUES ($1, 0, 20, 0, 2)", topic
    )
    assert await poll(db, "orders", 5) == [(0, n) for n in range(5)]
    assert await poll(db, "orders", 17) == [(0, n) for n in range(5, 22)]
    assert await poll(db, "orders") == [(0, n) for n in range(22, 30)]


@pytest.mark.parametrize("max_records", [1, 5, 1000])
async def test_while_segments_are_freed_and_carried_over(pg_dsn: str, max_records: int) -> None:
    async with keeping(pg_dsn, tail_bytes=0) as (leader, keeper, _db):
        topic = await leader.topic("t", 2, **{"retention.ms": "1000"})
        kept = await leader.partition(await leader.topic("kept", **NEVER))
        parts = [await leader.partition(topic, index) for index in range(2)]
        rounds, each = 8, 6
        is_over = asyncio.Event()

        async def consume(name: str) -> list[tuple[int, int]]:
            session = await asyncpg.connect(pg_dsn)
            found: list[tuple[int, int]] = []
            try:
                while not is_over.is_set():
                    found += await poll(session, name, max_records)
                return found + await drained(session, name, max_records)
            finally:
                await session.close()

        async with asyncio.TaskGroup() as group:
            of_t, of_kept = group.create_task(consume("t")), group.create_task(consume("kept"))
            try:
                for number in range(rounds):
                    now = keeper.now = NOW + number * 1000
                    for part in parts:
                        await send(leader, part, *[now] * each)
                    await send(leader, kept, now)
                    await keeper.seal()
                    await keeper.retain()
                    await keeper.free()
                    await keeper.clean()
            finally:
                is_over.set()
        assert of_kept.result() == [(0, n) for n in range(rounds)]
        for part in parts:
            found = [n for p, n in of_t.result() if p == part.index]
            assert found == sorted(set(found))
            # What nobody has removed came; the rest where the group was early enough.
            assert found[-(part.high_watermark - part.log_start_offset) :] == list(
                range(part.log_start_offset, part.high_watermark)
            )


async def test_no_record_is_skipped_when_a_segment_ends_between_two_looks(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("orders")
        part = await leader.partition(topic)
        is_over = asyncio.Event()

        async def consume() -> list[int]:
            session = await asyncpg.connect(pg_dsn)
            try:
                found: list[int] = []
                while not is_over.is_set():
                    found += [n for _, n in await poll(session, "orders", 3)]
                return found + [n for _, n in await drained(session, "orders")]
            finally:
                await session.close()

        async with asyncio.TaskGroup() as group:
            consumer = group.create_task(consume())
            try:
                for number in range(15):
                    for n in range(8):
                        await leader.append(part, batch(values(b"%d" % n)))
                    if number % 2:
                        await roll(leader, 0)
            finally:
                is_over.set()
        assert consumer.result() == list(range(120))


@BOTH
async def test_compacted_topic(pg_dsn: str, db: asyncpg.Connection) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("orders", **COMPACT)
        part = await leader.partition(topic)
        for number in range(6):
            await leader.append(part, pairs(*(f"k{n}={number}" for n in range(10))))
        await give_series(leader, topic)
        await leader.append(part, pairs("k0=z", "last=1"))
        await roll(leader, topic.id)
        await leader.append(part, pairs("active=1"))
        assert await poll(db, "orders", 15) == [(0, n) for n in range(15)]
        async with db.transaction(isolation="repeatable_read"):
            await db.fetch("SELECT FROM kafka.topics")  # its snapshot is from before
            await compact(leader)
            assert await poll(db, "orders", 10) == [(0, n) for n in range(15, 25)]
        shown = await db.fetch("SELECT partition_offset FROM kafka.messages WHERE partition_offset >= 25 ORDER BY 1")
        assert len(shown) < 38
        assert await drained(db, "orders", 2) == [(0, row[0]) for row in shown]


@BOTH
async def test_packed_batches_are_unpacked_for_a_poll(pg_dsn: str, db: asyncpg.Connection) -> None:
    async with leading(pg_dsn) as leader:
        await leader.keep_layouts()
        topic = await keeping_batches(leader)
        await fill_packed(leader, await leader.partition(topic))
        assert await packed(db) == 20
        async with asyncio.timeout(30):
            assert await drained(db, "orders", 8) == [(0, n) for n in range(21)]
        assert await packed(db) == 0


async def test_packed_batches_and_an_older_snapshot(pg_dsn: str, db: asyncpg.Connection) -> None:
    async with leading(pg_dsn) as leader:
        await leader.keep_layouts()
        topic = await keeping_batches(leader)
        await fill_packed(leader, await leader.partition(topic))
        with pytest.raises(asyncpg.SerializationError):
            async with asyncio.timeout(30), db.transaction(isolation="repeatable_read"):
                await poll(db, "orders")
        async with db.transaction(isolation="repeatable_read"):
            assert len(await poll(db, "orders")) == 21
