"""kafka.seek(): a group that SQL drives goes on elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import asyncpg
import pytest
from tests.storage.log_rows import add_marker, add_row, add_topic, connect_migrated
from tests.storage.polling import Connect, committed, drained, fill, polled, sessions

BOTH = pytest.mark.parametrize("postgres_server", ["postgresql-15", "embedded"], indirect=True)
T0 = 1_790_000_000_000
WAITS = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)"


@pytest.fixture
async def db(pg_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect_migrated(pg_dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def connect(pg_dsn: str) -> AsyncIterator[Connect]:
    """More sessions."""
    async with sessions(pg_dsn) as opened:
        yield opened


async def seek(db: asyncpg.Connection, arguments: str) -> list[tuple[int, int | None, int, int]]:
    return [tuple(row) for row in await db.fetch(f"SELECT * FROM kafka.seek({arguments})")]


@pytest.fixture
async def topic(db: asyncpg.Connection) -> int:
    """orders: partition 0 has 0 to 39, of which 0 to 4 are deleted; partition 1 has 0 to 9. Each record is a second later."""
    made = await add_topic(db, "orders", 2)
    for base in range(0, 40, 10):
        await add_row(db, made, base, [b"x"] * 10, timestamps=[T0 + 1000 * n for n in range(base, base + 10)])
    await add_row(db, made, 0, [b"y"] * 10, partition=1, first_timestamp=T0 + 5000)
    await db.execute("INSERT INTO kafka.log_starts VALUES ($1, 0, 5)", made)
    return made


@BOTH
@pytest.mark.parametrize(
    ("target", "places"),
    [
        ("'earliest'", (5, 0)),
        ("'latest'", (40, 10)),
        (f"to_timestamp({T0 / 1000 + 17})", (17, 10)),
        (f"to_timestamp({T0 / 1000 + 16.0005})", (17, 10)),
        (f"to_timestamp({T0 / 1000 + 5})", (5, 0)),
        (f"to_timestamp({T0 / 1000})", (5, 0)),
        (f"to_timestamp({T0 / 1000 + 500})", (40, 10)),
        ("'2020-01-01 00:00+00'", (5, 0)),
        ("'infinity'", (40, 10)),
        ("timestamptz '-infinity'", (5, 0)),
    ],
)
async def test_all_partitions(db: asyncpg.Connection, topic: int, target: str, places: tuple[int, int]) -> None:
    expected = [(0, None, places[0], 40), (1, None, places[1], 10)]
    assert await seek(db, f"'g', 'orders', {target}, dry_run => true") == expected
    assert await db.fetchval("SELECT count(*) FROM kafka.sql_groups") == 0
    assert len(await polled(db, 7)) == 7
    before = await committed(db)
    assert await seek(db, f"'g', 'orders', {target}, dry_run => true") == [
        (p, before[p], new, end) for p, _, new, end in expected
    ]
    assert await committed(db) == before
    assert await seek(db, f"'g', 'orders', {target}") == [(p, before[p], new, end) for p, _, new, end in expected]
    assert await committed(db) == dict(enumerate(places))
    assert sorted(await drained(db)) == [(p, n) for p, end in ((0, 40), (1, 10)) for n in range(places[p], end)]


async def test_offset_of_one_partition(db: asyncpg.Connection, topic: int) -> None:
    assert await seek(db, "'g', 'orders', 33, 0") == [(0, 5, 33, 40)]
    assert await seek(db, "'g', 'orders', '34', partition => 0") == [(0, 33, 34, 40)]
    assert await seek(db, "'g', 'orders', 40::bigint, 0, true") == [(0, 34, 40, 40)]
    assert await committed(db) == {0: 34, 1: 0}
    assert sorted(await drained(db)) == [*((0, n) for n in range(34, 40)), *((1, n) for n in range(10))]


async def test_seek_belongs_to_its_transaction(db: asyncpg.Connection, topic: int) -> None:
    await drained(db)
    transaction = db.transaction()
    await transaction.start()
    await seek(db, "'g', 'orders', 'earliest'")
    assert len(await polled(db, 3)) == 3
    await transaction.rollback()
    assert await polled(db) == []
    async with db.transaction():
        await seek(db, "'g', 'orders', 37, 0")
        assert await polled(db, 1) == [(0, 37)]
        await seek(db, "'g', 'orders', 36, 0")
    assert await drained(db) == [(0, n) for n in range(36, 40)]


async def test_seek_waits_for_a_poll_and_then_gives_up(db: asyncpg.Connection, topic: int, connect: Connect) -> None:
    await polled(db, 0)
    other, third = await connect(), await connect()
    transaction = other.transaction()
    await transaction.start()
    assert len(await polled(other, 40)) == 40
    seeking = asyncio.create_task(seek(db, "'g', 'orders', 'earliest'"))
    async with asyncio.timeout(20):
        while not await third.fetchval(WAITS):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await transaction.commit()
    async with asyncio.timeout(20):
        told = await seeking
    assert sum(previous for _, previous, _, _ in told) == 40 + 5  # type: ignore[misc]
    async with other.transaction():
        assert len(await polled(other, 40)) == 40
        with pytest.raises(
            asyncpg.LockNotAvailableError, match="polled by a transaction that has been open for more than 10"
        ) as caught:
            await seek(db, "'g', 'orders', 'earliest'")
        assert caught.value.hint


async def test_by_time_in_several_segments_and_among_markers(db: asyncpg.Connection) -> None:
    topic = await add_topic(db, "orders")
    await add_row(db, topic, 0, [b"a"] * 3, timestamps=[T0, T0 + 9000, T0 + 1000])
    await add_row(db, topic, 3, [b"a"] * 3, offset_deltas=[0, 4, 8], timestamps=[T0 + 2000, T0 + 10_000, T0 + 3000])
    await add_row(db, topic, 20, [b"t"], producer_ids=[7], is_transactional=True, first_timestamp=T0 + 4000)
    await add_marker(db, topic, 21, 7, is_commit=True)
    await fill(db, topic, 10, first=30)
    for seconds, expected in ((0, 0), (1, 1), (9, 1), (9.5, 7), (10.001, 40)):
        told = await seek(db, f"'g', 'orders', to_timestamp({T0 / 1000 + seconds}), dry_run => true")
        assert told == [(0, None, expected, 40)], seconds


@pytest.mark.parametrize(
    ("arguments", "sqlstate", "says"),
    [
        ("'g', 'nope', 'earliest'", "KF001", 'topic "nope" does not exist'),
        ("'g', 'orders', 'earliest', 2", "KF002", "has no partition 2"),
        ("'g', 'orders', 'earliest', -1", "KF002", "has no partition -1"),
        ("'g', 'orders', 4, 0", "KF013", "offset 4 is not in partition 0"),
        ("'g', 'orders', 41, 0", "KF013", "offset 41 is not in partition 0"),
        ("'g', 'orders', 41, 0, true", "KF013", "offset 41 is not in partition 0"),
        ("'g', 'orders', 7", "22023", "an offset means something in one partition"),
        ("'g', 'orders', 'middle'", "22023", "target must be earliest, latest, an offset or a time"),
        ("'g', 'orders', NULL::text", "22004", "must not be NULL"),
        ("NULL, 'orders', 'earliest'", "22004", "must not be NULL"),
        ("'', 'orders', 'earliest'", "22023", "a group id has 1 to 2000 bytes"),
    ],
)
async def test_wrong_arguments(db: asyncpg.Connection, topic: int, arguments: str, sqlstate: str, says: str) -> None:
    with pytest.raises(asyncpg.PostgresError, match=says) as caught:
        await seek(db, arguments)
    assert caught.value.sqlstate == sqlstate
    assert sqlstate == "22004" or caught.value.hint
    assert await db.fetchval("SELECT count(*) FROM kafka.sql_groups") == 0


async def test_group_of_kafka_s_clients_is_refused(db: asyncpg.Connection, topic: int) -> None:
    await db.execute(
        "INSERT INTO kafka.group_journal_0 (entry, group_id, kind, key, value) VALUES (1, 'g', 'member', 'm', '{}')"
    )
    with pytest.raises(asyncpg.PostgresError) as caught:
        await seek(db, "'g', 'orders', 'earliest'")
    assert caught.value.sqlstate == "KF010"


async def test_lag_of_a_group_is_shown(db: asyncpg.Connection, topic: int) -> None:
    assert await seek(db, "'g', 'orders', 30, 0") == [(0, 5, 30, 40)]
    rows = await db.fetch(
        "SELECT partition, committed_offset, end_offset, lag, lag_seconds > 0 FROM kafka.consumer_lag ORDER BY 1"
    )
    assert [tuple(row) for row in rows] == [(0, 30, 40, 10, True), (1, 0, 10, 10, True)]
    at = await db.fetchval("SELECT committed_at FROM kafka.consumer_offsets WHERE partition_id = 0")
    assert abs((datetime.now(UTC) - at).total_seconds()) < 600
