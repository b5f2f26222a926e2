"""What retention lets go: exact to the row, never earlier than Kafka, and the disk is back."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from tests.storage.leader import Leader, leading
from tests.storage.retaining import NOW, keeping
from tests.wire_batches import batch, records, values

from pg_kafka.errors import StorageError
from pg_kafka.storage.partition import Partition
from pg_kafka.storage.upkeep.carry_over import Share, choose
from pg_kafka.wire.error_codes import ErrorCode

BOTH = pytest.mark.parametrize("postgres_server", ["postgresql-15", "embedded"], indirect=True)
NEVER = {"retention.ms": "-1"}
LZ4 = 3


async def send(leader: Leader, partition: Partition, *timestamps: int, size: int = 10, codec: int = 0) -> None:
    """A record, and a row, for each timestamp."""
    for timestamp in timestamps:
        await leader.append(partition, batch(values(b"x" * size, timestamp=timestamp), codec=codec))


async def readable(leader: Leader, partition: Partition) -> list[int]:
    """All offsets that a consumer gets, from where the log begins."""
    found: list[int] = []
    offset = partition.log_start_offset
    while offset < partition.high_watermark:
        some = [o for o, _, _ in records(await leader.log.read(partition, offset, 1 << 20)) if o >= offset]
        assert some and some[0] == offset
        found += some
        offset = some[-1] + 1
    return found


async def by_sql(db: asyncpg.Connection, topic_id: int, partition: int = 0) -> list[int]:
    rows = await db.fetch(
        "SELECT partition_offset FROM kafka.messages WHERE topic_id = $1 AND partition_id = $2 ORDER BY 1",
        topic_id,
        partition,
    )
    return [row[0] for row in rows]


async def segments(db: asyncpg.Connection, series: int = 0) -> dict[int, str]:
    rows = await db.fetch("SELECT segment, state FROM kafka.segments WHERE series = $1", series)
    return {row["segment"]: row["state"] for row in rows}


@BOTH
async def test_by_time_to_the_row_and_a_prefix_only(pg_dsn: str) -> None:
    async with keeping(pg_dsn) as (leader, keeper, db):
        topic = await leader.topic("t", **{"retention.ms": "1000"})
        partition = await leader.partition(topic)
        await send(leader, partition, NOW - 5000, NOW - 4000)
        await keeper.seal()
        await send(leader, partition, NOW - 3000, NOW - 1000, NOW - 2000)
        await keeper.seal()
        await send(leader, partition, NOW - 1500, NOW)
        await keeper.retain()
        # 3 is exactly as old as may be; what is behind it stays though it is older.
        assert partition.log_start_offset == 3
        assert await readable(leader, partition) == [3, 4, 5, 6] == await by_sql(db, topic.id)
        keeper.now += 1
        await keeper.retain()
        assert partition.log_start_offset == 6
        await keeper.free()
        assert await segments(db) == {2: "active"}
        assert await readable(leader, partition) == [6] == await by_sql(db, topic.id)
        with pytest.raises(StorageError) as raised:
            await leader.log.read(partition, 2, 100)
        assert raised.value.code == ErrorCode.OFFSET_OUT_OF_RANGE


@BOTH
async def test_by_size_what_stays_is_never_less_than_the_limit(pg_dsn: str) -> None:
    async with keeping(pg_dsn) as (leader, keeper, db):
        probe = await leader.partition(await leader.topic("probe", **NEVER))
        await send(leader, probe, NOW)
        await keeper.seal()
        row = await db.fetchval("SELECT bytes FROM kafka.extents WHERE topic = $1", probe.topic.id)
        for limit, stays in ((3 * row, 3), (3 * row + 1, 4), (3 * row - 1, 3), (0, 0), (1, 1), (100 * row, 9)):
            topic = await leader.topic(f"t{limit}", **NEVER, **{"retention.bytes": str(limit)})
            partition = await leader.partition(topic)
            await send(leader, partition, NOW, NOW, NOW, NOW)
            await keeper.seal()
            await send(leader, partition, NOW, NOW)
            await keeper.seal()
            await send(leader, partition, NOW, NOW, NOW)
            await keeper.retain()
            assert partition.log_start_offset == 9 - stays, (limit, row)
            assert await readable(leader, partition) == list(range(9 - stays, 9)) == await by_sql(db, topic.id)


async def test_wire_bytes_count_for_batches_that_are_kept_compressed(pg_dsn: str) -> None:
    async with keeping(pg_dsn) as (leader, keeper, db):
        layouts = await leader.keep_layouts()
        topic = await leader.topic("t", **NEVER, **{"retention.bytes": "1000"})
        partition = await leader.partition(topic)
        await send(leader, partition, NOW, size=10_000, codec=LZ4)
        async with asyncio.timeout(20):
            while not leader.topics.by_id[topic.id].is_packing:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        for _ in range(30):
            await send(leader, partition, NOW, size=10_000, codec=LZ4)
        await keeper.seal()
        await keeper.retain()
        rows = await db.fetch("SELECT wire_bytes FROM kafka.log WHERE topic = $1 ORDER BY base_offset", topic.id)
        wire = [row["wire_bytes"] for row in rows]
        start = partition.log_start_offset
        assert 0 < start < 31 and sum(wire[start:]) >= 1000 > sum(wire[start + 1 :])
        await layouts.stop()


@BOTH
async def test_topics_with_different_configs_in_the_shared_series(pg_dsn: str) -> None:
    """One hot partition and an idle one, a topic for ever, a compacted one, one that only compacts and expires."""
    async with keeping(pg_dsn) as (leader, keeper, db):
        hot = await leader.topic("hot", 2, **{"retention.ms": "1000"})
        ever = await leader.topic("ever", **NEVER)
        compacted = await leader.topic("compacted", **{"retention.ms": "1", "cleanup.policy": "compact"})
        both = await leader.topic("both", **{"retention.ms": "1000", "cleanup.policy": "compact,delete"})
        parts = [await leader.partition(hot, 0), await leader.partition(hot, 1)]
        kept = await leader.partition(ever)
        await send(leader, parts[1], NOW - 500)
        await send(leader, kept, NOW - 9000)
        keyed = batch([(b"k", b"v", NOW - 9000, ())])
        await leader.append(await leader.partition(compacted), keyed)
        await leader.append(await leader.partition(both), keyed)
        for _ in range(3):
            await send(leader, parts[0], *[NOW - 2000] * 20)
            await keeper.seal()
        await send(leader, parts[0], NOW)
        await keeper.retain()
        assert [p.log_start_offset for p in parts] == [60, 0]
        assert kept.log_start_offset == 0 and (await leader.partition(compacted)).log_start_offset == 0
        assert (await leader.partition(both)).log_start_offset == 1
        await keeper.free()
        # The first has rows of others, a few; the next two are gone.
        assert await segments(db) == {0: "sealed", 3: "active"}
        await keeper.clean()
        await keeper.free()
        assert await segments(db) == {3: "active", 4: "sealed"}
        assert await db.fetchval("SELECT count(*) FROM kafka.log_0_4") == 3
        for partition, expected in ((parts[0], [60]), (parts[1], [0]), (kept, [0])):
            assert await readable(leader, partition) == expected
            assert await by_sql(db, partition.topic.id, partition.index) == expected
            assert len(partition.extents) == 1
        await send(leader, parts[1], NOW)
        assert await readable(leader, parts[1]) == [0, 1]


@BOTH
async def test_all_expired_the_end_survives_and_the_active_segment_is_rolled(pg_dsn: str) -> None:
    """Over a restart and a kill, without a row left to read the end from."""
    async with keeping(pg_dsn) as (leader, keeper, db):
        topic = await leader.topic("t", 2, **{"retention.ms": "1000"})
        partition, empty = await leader.partition(topic), await leader.partition(topic, 1)
        await send(leader, partition, NOW - 5000, NOW - 5000)
        await leader.append(partition, batch(values(b"i", timestamp=NOW - 4000), producer_id=77, epoch=0, sequence=0))
        await keeper.retain()
        assert partition.log_start_offset == partition.high_watermark == 3
        assert empty.log_start_offset == 0
        assert await segments(db) == {0: "sealed", 1: "active"}
        await keeper.free()
        assert not await db.fetch("SELECT * FROM kafka.extents")
        assert await leader.log.read(partition, 3, 100) == []
        assert await leader.log.offset_for_timestamp(partition, 0) is None
        assert await leader.log.offset_of_max_timestamp(partition) is None
        await keeper.retain()
        assert await segments(db) == {1: "active"}  # it is empty, so it stays
        keeper.close()
        leader.crash()
    async with leading(pg_dsn) as leader:
        partition = await leader.partition(leader.topics.by_name["t"])
        assert (partition.log_start_offset, partition.high_watermark) == (3, 3)
        # What is known of producers is there as well: this is the batch that was sent before.
        again = await leader.append(
            partition, batch(values(b"i", timestamp=NOW - 4000), producer_id=77, epoch=0, sequence=0)
        )
        assert (again.error, again.base_offset) == (0, 2)
        await send(leader, partition, NOW)
        assert await readable(leader, partition) == [3]


async def test_producers_are_known_when_their_rows_are_not_carried_over(pg_dsn: str) -> None:
    """A duplicate is known as one though its row is gone and the broker was killed before any checkpoint."""
    async with keeping(pg_dsn) as (leader, keeper, db):
        topic = await leader.topic("t", **{"retention.ms": "1000"})
        kept = await leader.partition(await leader.topic("kept", **NEVER))
        partition = await leader.partition(topic)
        await send(leader, kept, NOW)
        large = batch(values(b"x" * 1000, timestamp=NOW - 4000), producer_id=77, epoch=0, sequence=0)
        await leader.append(partition, large)
        await keeper.seal()
        await db.execute("DELETE FROM kafka.partition_checkpoints")
        await keeper.retain()
        await keeper.clean()
        await keeper.free()
        assert await segments(db) == {1: "active", 2: "sealed"}
        assert await db.fetchval("SELECT count(*) FROM kafka.log") == 1
        keeper.close()
        leader.crash()
    async with leading(pg_dsn) as leader:
        partition = await leader.partition(leader.topics.by_name["t"])
        again = await leader.append(partition, large)
        assert (again.error, again.base_offset) == (0, 0)


async def test_list_offsets_are_right_when_the_start_has_moved(pg_dsn: str) -> None:
    async with keeping(pg_dsn) as (leader, keeper, _db):
        topic = await leader.topic("t", **NEVER, **{"retention.bytes": "200"})
        partition = await leader.partition(topic)
        # The largest timestamp of all goes first.
        await send(leader, partition, NOW + 9000, NOW + 10, NOW + 40)
        await keeper.seal()
        await send(leader, partition, NOW + 20, NOW + 30)
        await keeper.retain()
        start = partition.log_start_offset
        assert start == 2
        found = {t: await leader.log.offset_for_timestamp(partition, NOW + t) for t in (0, 25, 35, 41, 9000)}
        assert {t: f and f[0] for t, f in found.items()} == {0: 2, 25: 2, 35: 2, 41: None, 9000: None}
        assert (await leader.log.offset_of_max_timestamp(partition))[:2] == (2, NOW + 40)
        topic = await leader.topic("wide")
        partition = await leader.partition(topic)
        await leader.append(partition, batch([(None, b"a", NOW + n, ()) for n in (900, 5, 70, 60)]))
        await leader.log.delete_records([(partition, 1)])
        assert (await leader.log.offset_of_max_timestamp(partition))[:2] == (2, NOW + 70)


async def test_markers_and_epochs_below_the_start_go(pg_dsn: str) -> None:
    async with keeping(pg_dsn) as (leader, keeper, db):
        topic = await leader.topic("t", **{"retention.ms": "1000"})
        partition = await leader.partition(topic)
        await send(leader, partition, NOW - 5000, NOW - 4000, NOW)
        await db.execute(
            "INSERT INTO kafka.markers (topic, partition, producer_id, marker_offset, is_commit)"
            " VALUES ($1, 0, 7, 1, true), ($1, 0, 7, 2, true)",
            topic.id,
        )
        await db.execute("DELETE FROM kafka.leader_epochs")
        await db.execute("INSERT INTO kafka.leader_epochs VALUES ($1, 0, 1, 0), ($1, 0, 2, 1), ($1, 0, 3, 3)", topic.id)
        await keeper.retain()
        assert partition.log_start_offset == 2
        assert [r[0] for r in await db.fetch("SELECT marker_offset FROM kafka.markers")] == [2]
        assert [r[0] for r in await db.fetch("SELECT epoch FROM kafka.leader_epochs ORDER BY 1")] == [2, 3]


@BOTH
async def test_a_long_query_holds_up_the_truncate_and_nobody_else(pg_dsn: str) -> None:
    async with keeping(pg_dsn) as (leader, keeper, db):
        topic = await leader.topic("t", **{"retention.ms": "1000"})
        other = await leader.partition(await leader.topic("other", **NEVER))
        partition = await leader.partition(topic)
        await send(leader, partition, NOW - 5000)
        await keeper.seal()
        await send(leader, partition, NOW)
        reader = await asyncpg.connect(pg_dsn)
        await reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        assert await by_sql(reader, topic.id) == [0, 1]
        await keeper.retain()
        await keeper.free()
        assert await segments(db) == {0: "sealed", 1: "active"}
        assert await by_sql(reader, topic.id) == [0, 1]  # as it was when it began
        assert await by_sql(db, topic.id) == [1]
        # Nobody waits: no request for the lock is left behind.
        assert not await db.fetchval(
            "SELECT count(*) FROM pg_locks WHERE NOT granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        await send(leader, other, NOW)
        assert await readable(leader, other) == [0] == await by_sql(db, other.topic.id)
        await keeper.seal()
        assert await segments(db) == {0: "sealed", 1: "sealed", 2: "active"}
        await reader.execute("COMMIT")
        await reader.close()
        await keeper.free()
        assert 0 not in await segments(db)


@BOTH
async def test_an_open_query_delays_detaching_but_new_segments_come(pg_dsn: str) -> None:
    async with keeping(pg_dsn) as (leader, keeper, db):
        topic = await leader.topic("t", **{"retention.ms": "1000"})
        partition = await leader.partition(topic)
        await send(leader, partition, NOW - 5000)
        await keeper.seal()
        await send(leader, partition, NOW)
        reader = await asyncpg.connect(pg_dsn)
        await reader.execute("BEGIN")
        await reader.fetch("SELECT count(*) FROM kafka.log_0 WHERE segment = 1")  # looks into one segment only
        await keeper.retain()
        await keeper.free()
        assert (await segments(db))[0] == "freed"
        assert await db.fetchval("SELECT pg_relation_size('kafka.log_0_0')") == 0
        await keeper.seal()
        await send(leader, partition, NOW)
        assert await readable(leader, partition) == [1, 2] == await by_sql(db, topic.id)
        await reader.execute("COMMIT")
        await reader.close()
        await keeper.free()
        assert await segments(db) == {1: "sealed", 2: "active"}


async def test_a_segment_that_empties_itself_is_not_copied(pg_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the oldest segment of a busy topic; one that stays as it is for minutes is carried over."""
    async with keeping(pg_dsn) as (leader, keeper, db):
        busy = await leader.partition(await leader.topic("busy", **{"retention.ms": "1000"}))
        await send(leader, busy, *[NOW - 100 * (20 - n) for n in range(20)])
        await keeper.seal()
        at = 0.0
        keeper.carry_over._calm_s = 300
        monkeypatch.setattr(keeper.carry_over, "_now", lambda: at)

        async def looked_at(now_ms: int) -> dict[int, str]:
            keeper.now = now_ms
            await keeper.retain()
            await keeper.cleaner._connect()
            await keeper.carry_over.step(keeper.cleaner)
            return await segments(db)

        assert await looked_at(NOW + 700) == {0: "sealed", 1: "active"}  # three of twenty are left
        at += 299
        assert await looked_at(NOW + 700) == {0: "sealed", 1: "active"}
        at += 2
        assert await looked_at(NOW + 800) == {0: "sealed", 1: "active"}  # two are left
        at += 301
        async with asyncio.timeout(20):
            # Its checkpoint is asked for first.
            while (found := await looked_at(NOW + 800)) == {0: "sealed", 1: "active"}:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert found == {0: "replaced", 1: "active", 2: "sealed"}


def test_what_is_carried_over_together() -> None:
    gib, mib = 1 << 30, 1 << 20
    full = Share(0, gib, gib)
    assert choose([full, Share(1, gib, gib // 4)], gib) == []
    assert choose([full, Share(1, gib, gib // 6), Share(2, gib, 1)], gib) == [1, 2]
    assert choose([Share(1, 1000, 1)], gib) == []  # a new table for a kilobyte
    # As digits carry: a small one joins when it is no larger than what goes anyway.
    small = [Share(n, size * mib, size * mib) for n, size in enumerate((1, 2, 4, 32), 10)]
    assert choose([full, Share(1, gib, mib), *small], gib) == [1, 10, 11, 12]
    assert choose([full, *small], gib) == []
    assert choose([full, *[Share(n, mib, mib) for n in range(20)]], gib) == list(range(20))
    # Never more than a segment.
    assert choose([Share(n, gib, gib // 6) for n in range(10)], gib) == [0, 1, 2, 3, 4, 5]


def test_rows_move_as_often_as_their_segment_doubles() -> None:
    """A thousand times what little is left of a segment: what is written stays far below what a rewrite would take."""
    gib = 1 << 30
    kept: list[Share] = []
    written = 0
    for number in range(1000):
        kept.append(Share(number, gib, 100_000))
        chosen = choose(kept, gib)
        alive = sum(s.alive for s in kept if s.segment in chosen)
        kept = [s for s in kept if s.segment not in chosen]
        kept.append(Share(1000 + number, alive, alive))
        written += alive
    assert sum(s.alive for s in kept) == 1000 * 100_000
    assert len(kept) <= 12 and written < 12 * 1000 * 100_000
