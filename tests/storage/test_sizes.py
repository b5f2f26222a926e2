"""What topics and partitions hold: figures that agree with the rows, whoever restarts, rolls or unpacks in between."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from tests.storage.leader import Leader, leading
from tests.storage.log_rows import add_row, add_topic, connect_migrated
from tests.storage.test_transactions_log import end, marker, transactional
from tests.wire_batches import batch, values

from pg_kafka.storage.segments import Segments

BOTH_SERVERS = pytest.mark.parametrize("postgres_server", ["postgresql-15", "embedded"], indirect=True)
COUNTED = """
    SELECT partition, sum(coalesce(wire_bytes, row_bytes))::bigint AS bytes,
           sum(record_count) FILTER (WHERE NOT is_control)::bigint AS records
    FROM kafka.log WHERE topic = $1 GROUP BY partition ORDER BY partition
"""


@pytest.fixture
async def db(pg_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect_migrated(pg_dsn)
    yield connection
    await connection.close()


async def counted(db: asyncpg.Connection, topic: int) -> dict[int, tuple[int, int]]:
    """Bytes and records by partition, from the rows."""
    return {row["partition"]: (row["bytes"], row["records"]) for row in await db.fetch(COUNTED, topic)}


async def shown(db: asyncpg.Connection, topic: int) -> dict[int, tuple[int, int]]:
    """The same as the view has them."""
    rows = await db.fetch("SELECT partition_id, bytes, records FROM kafka.partition_sizes WHERE topic_id = $1", topic)
    return {row["partition_id"]: (row["bytes"], row["records"]) for row in rows}


async def fill(leader: Leader, topic: Any, *, seed: int) -> None:
    for index in range(topic.partitions):
        partition = await leader.partition(topic, index)
        await leader.append(partition, batch(values(*[b"v" * (seed + n) for n in range(3)]), codec=seed % 2))
        await leader.append(partition, transactional(seed * 10 + index, 0, b"a", b"b"))
        await end(leader, marker(partition, seed * 10 + index, commit=bool(seed % 2)))


@pytest.mark.parametrize("layout", ["rows", "batches"])
@pytest.mark.parametrize("lanes", [1, 3])
async def test_figures_agree_with_the_rows_over_restarts_and_rolls(
    pg_dsn: str, db: asyncpg.Connection, layout: str, lanes: int
) -> None:
    for seed in (1, 2, 3):
        async with leading(pg_dsn, lanes=lanes) as leader:
            topic = leader.topics.by_name.get("t") or await leader.topic("t", 3, **{"storage.layout": layout})
            await fill(leader, topic, seed=seed)
            rows = await counted(db, topic.id)
            sizes = await leader.log.sizes([topic])
            assert sizes == {(topic.id, index): size for index, (size, _) in rows.items()}
            if seed == 2:
                await Segments(db).roll(0, 0, "none")
                await leader.log.switch_segment(0, 1)
                await fill(leader, topic, seed=7)
                await Segments(db).seal(0, 0)
                rows = await counted(db, topic.id)
                assert await leader.log.sizes([topic]) == {(topic.id, i): size for i, (size, _) in rows.items()}
        # The last checkpoints were written when the broker stopped.
        assert await shown(db, topic.id) == await counted(db, topic.id)
        assert len(await shown(db, topic.id)) == 3


async def test_a_segment_that_was_sealed_since_is_counted_once(pg_dsn: str, db: asyncpg.Connection) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t")
        await fill(leader, topic, seed=1)
        await Segments(db).roll(0, 0, "none")
        await leader.log.switch_segment(0, 1)
        await Segments(db).seal(0, 0)
        ((size, _),) = (await counted(db, topic.id)).values()
        assert await leader.log.sizes([topic]) == {(topic.id, 0): size}
    assert await shown(db, topic.id) == await counted(db, topic.id)


async def test_a_crash_loses_nothing_of_it(pg_dsn: str, db: asyncpg.Connection) -> None:
    leader = Leader(pg_dsn)
    await leader.start()
    topic = await leader.topic("t", 2)
    await fill(leader, topic, seed=1)
    leader.crash()
    async with leading(pg_dsn) as leader:
        topic = leader.topics.by_name["t"]
        await leader.log.load([(topic, 0), (topic, 1)])
        rows = await counted(db, topic.id)
        assert await leader.log.sizes([topic]) == {(topic.id, i): size for i, (size, _) in rows.items()}


async def test_what_an_older_program_did_not_count_is_counted_when_it_is_loaded(
    pg_dsn: str, db: asyncpg.Connection
) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t", 2)
        await fill(leader, topic, seed=1)
    await db.execute("UPDATE kafka.partition_checkpoints SET extent_bytes = NULL, extent_records = NULL")
    async with leading(pg_dsn) as leader:
        topic = leader.topics.by_name["t"]
        assert await leader.log.sizes([topic]) == {(topic.id, 0): 0, (topic.id, 1): 0}
        await fill(leader, topic, seed=2)
        rows = await counted(db, topic.id)
        assert await leader.log.sizes([topic]) == {(topic.id, i): size for i, (size, _) in rows.items()}
    assert await shown(db, topic.id) == rows


async def test_a_failed_transaction_is_not_counted(pg_dsn: str, db: asyncpg.Connection) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t")
        partition = await leader.partition(topic)
        await leader.append(partition, batch(values(b"a")))
        before = partition.figures
        await db.execute("ALTER TABLE kafka.log_0_0 ADD CONSTRAINT no CHECK (record_count < 2)")
        assert (await leader.append(partition, batch(values(b"b", b"c")))).error
        assert (partition.figures, partition.staged_figures) == (before, before)
        await leader.append(partition, batch(values(b"d")))
        ((size, _),) = (await counted(db, topic.id)).values()
        assert partition.figures is not None and partition.figures.bytes == size


@BOTH_SERVERS
async def test_space_on_the_disk_is_shared_out(db: asyncpg.Connection) -> None:
    small, large, own, _ = [await add_topic(db, name, 2) for name in ("small", "large", "own", "empty")]
    await Segments(db).create_series(own, "none", 1)
    for topic, series, count in ((small, 0, 1), (large, 0, 9), (own, own, 5), (own, 0, 10)):
        for offset in range(count):
            base = offset + (100 if series else 0)
            await add_row(db, topic, base, [bytes(50_000)], series=series)
    await db.execute(
        "UPDATE kafka.extents x SET last_offset = f.last, records = f.count, bytes = f.bytes, first_timestamp = 0,"
        " max_timestamp = 0 FROM (SELECT topic, series, max(last_offset) AS last, count(*), sum(row_bytes) AS bytes"
        " FROM kafka.log GROUP BY 1, 2) AS f WHERE f.topic = x.topic AND f.series = x.series"
    )
    rows = {row["topic"]: row for row in await db.fetch("SELECT * FROM kafka.topic_sizes")}
    assert {name: (row["records"], row["bytes"]) for name, row in rows.items()} == {
        "small": (1, 50_000),
        "large": (9, 450_000),
        "own": (15, 750_000),
        "empty": (0, 0),
    }
    shared = await db.fetchval("SELECT pg_total_relation_size('kafka.log_0_0')")
    private = await db.fetchval(f"SELECT pg_total_relation_size('kafka.log_{own}_0')")
    estimated = {name: row["estimated_disk_bytes"] for name, row in rows.items()}
    assert estimated == {
        "small": round(shared / 20),
        "large": round(shared * 9 / 20),
        "own": round(shared / 2),
        "empty": 0,
    }
    exact = {name: row["disk_bytes"] - row["estimated_disk_bytes"] for name, row in rows.items()}
    assert exact == {"small": 0, "large": 0, "own": private, "empty": 0}
    assert {row["partitions"] for row in rows.values()} == {2}


async def test_whoever_may_read_the_view_needs_nothing_else(db: asyncpg.Connection, pg_superuser_dsn: str) -> None:
    superuser = await asyncpg.connect(pg_superuser_dsn)
    role = f"watcher_{id(db)}"
    await superuser.execute(f"CREATE ROLE {role}")
    try:
        await superuser.execute(f"GRANT USAGE ON SCHEMA kafka TO {role}")
        await superuser.execute(f"SET ROLE {role}")
        for view in ("topic_sizes", "partition_sizes"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await superuser.fetch(f"SELECT * FROM kafka.{view}")
        await superuser.execute("RESET ROLE")
        await superuser.execute(f"GRANT SELECT ON kafka.topic_sizes, kafka.partition_sizes TO {role}")
        await superuser.execute(f"SET ROLE {role}")
        for view in ("topic_sizes", "partition_sizes"):
            assert await superuser.fetch(f"SELECT * FROM kafka.{view}") == []
    finally:
        await superuser.execute("RESET ROLE")
        await superuser.execute(f"DROP OWNED BY {role}")
        await superuser.execute(f"DROP ROLE {role}")
        await superuser.close()
