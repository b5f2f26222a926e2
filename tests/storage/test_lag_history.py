"""kafka.lag_history: what is written of a minute, how it is read, and that its tables take turns whatever others do."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from tests.storage.janitors import janitor_of
from tests.storage.log_rows import connect_migrated

from pg_kafka.storage.control import ControlSession
from pg_kafka.storage.lag import Entry, LagStore
from pg_kafka.storage.sessions import connect
from pg_kafka.storage.upkeep.janitor import Janitor
from pg_kafka.storage.upkeep.lag_history import TurnLagHistory

pytestmark = pytest.mark.parametrize("postgres_server", ["postgresql-15", "embedded"], indirect=True)

BEGIN = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
SIZES = "SELECT (SELECT count(*) FROM kafka.lag_minutes m WHERE m.turn = n) FROM generate_series(0, 3) AS n"


@pytest.fixture
async def db(pg_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect_migrated(pg_dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def control(pg_dsn: str, db: asyncpg.Connection) -> AsyncIterator[ControlSession]:
    session = ControlSession(lambda kind: connect(pg_dsn, kind))
    yield session
    await session.close()


@pytest.fixture
async def janitor(pg_dsn: str, db: asyncpg.Connection) -> AsyncIterator[Janitor]:
    """Not started: tests take the steps."""

    class Lanes: ...

    made = janitor_of(pg_dsn, Lanes(), owner=1)  # type: ignore[arg-type]
    await made._connect()
    yield made
    made._site.drop()


async def write(store: LagStore, minutes: int, entries: Sequence[Entry] | None = None, begin: datetime = BEGIN) -> None:
    for n in range(minutes):
        minute_ms = int((begin + timedelta(minutes=n)).timestamp() * 1000)
        assert await store.write_minute(minute_ms, [Entry("g", "t", n, 2 * n)] if entries is None else entries)


async def look(job: TurnLagHistory) -> None:
    job._looks_at = float("-inf")
    assert await job.step() is False


async def sizes(db: asyncpg.Connection) -> list[int]:
    """Minutes in each of the tables."""
    return [row[0] for row in await db.fetch(SIZES)]


async def test_a_minute_is_read_as_a_row_for_each_group_and_topic(
    db: asyncpg.Connection, control: ControlSession
) -> None:
    store = LagStore(control)
    await write(store, 1, [Entry("billing", "orders", 12, 90), Entry("it's", 'o"dd', 0, 0), Entry(None, None, 7, 3)])
    await write(store, 1, [], begin=BEGIN + timedelta(minutes=1))
    await write(store, 1, [Entry("billing", "orders", 3, 4)], begin=BEGIN + timedelta(minutes=2))
    assert [tuple(row) for row in await db.fetch("SELECT * FROM kafka.lag_history ORDER BY minute, lag DESC")] == [
        (BEGIN, "billing", "orders", 12, 90),
        (BEGIN, None, None, 7, 3),
        (BEGIN, "it's", 'o"dd', 0, 0),
        (BEGIN + timedelta(minutes=2), "billing", "orders", 3, 4),
    ]


async def test_a_minute_is_found_by_an_index(db: asyncpg.Connection, control: ControlSession) -> None:
    await write(LagStore(control), 1)
    await db.execute("SET enable_seqscan = off")
    plan = await db.fetch("EXPLAIN SELECT * FROM kafka.lag_history WHERE minute >= $1 AND group_id = 'g'", BEGIN)
    assert sum("lag_minutes_" in row[0] and "Index" in row[0] for row in plan) >= 4


async def test_tables_take_turns_and_the_oldest_is_emptied(
    db: asyncpg.Connection, control: ControlSession, janitor: Janitor
) -> None:
    store, job = LagStore(control), TurnLagHistory(janitor._site, minutes=3)
    seen = []
    for _ in range(6):
        await write(store, 2)
        await look(job)
        await write(store, 1)
        await look(job)
        seen.append(await sizes(db))
    assert seen == [[3, 0, 0, 0], [3, 3, 0, 0], [3, 3, 3, 0], [0, 3, 3, 3], [3, 0, 3, 3], [3, 3, 0, 3]]
    assert await db.fetchval("SELECT turn FROM kafka.lag_turn") == 2


async def test_large_minutes_turn_the_tables_early(
    db: asyncpg.Connection, control: ControlSession, janitor: Janitor
) -> None:
    """Names that do not compress, as a hostile client may give."""
    names = random.Random(1)
    many = [Entry(names.randbytes(900).hex(), "t", n, n) for n in range(100)]
    store, job = LagStore(control), TurnLagHistory(janitor._site, table_bytes=256 * 1024)
    for _ in range(12):
        await write(store, 1, many)
        await look(job)
    counted = await sizes(db)
    assert 0 in counted and sum(counted) < 12
    total = await db.fetchval(
        "SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent = 'kafka.lag_minutes'::regclass"
    )
    assert total < 4 * 2 * 256 * 1024


async def test_a_held_snapshot_keeps_no_dead_rows(
    pg_dsn: str, db: asyncpg.Connection, control: ControlSession, janitor: Janitor
) -> None:
    holder = await asyncpg.connect(pg_dsn)
    await holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    await holder.fetch("SELECT count(*) FROM kafka.topics")
    store, job = LagStore(control), TurnLagHistory(janitor._site, minutes=5)
    for _ in range(10):
        await write(store, 5)
        await look(job)
    assert await sizes(db) == [5, 5, 0, 5]
    pages = await db.fetchval(
        "SELECT sum(pg_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent = 'kafka.lag_minutes'::regclass"
    )
    assert pages <= 3 * 8192
    await holder.close()


async def test_a_reader_that_stays_stops_no_writer_before_the_table_is_full(
    pg_dsn: str, db: asyncpg.Connection, control: ControlSession, janitor: Janitor
) -> None:
    """Its lock keeps the next table from being emptied. Minutes go on, to twice a table's size; then they are lost."""
    store, job = LagStore(control, table_bytes=64 * 1024), TurnLagHistory(janitor._site, minutes=2)
    await write(store, 2)
    reader = await asyncpg.connect(pg_dsn)
    await reader.execute("BEGIN")
    await reader.fetch("SELECT * FROM kafka.lag_history")
    with pytest.raises(asyncpg.LockNotAvailableError):
        await look(job)
    await write(store, 2)
    assert await sizes(db) == [4, 0, 0, 0]
    many = [Entry(str(n) * 10, str(n * 7919), n, n) for n in range(100_000, 100_500)]
    written = [await store.write_minute(n, many) for n in range(40)]
    assert written[0] and not written[-1]
    await reader.close()
    await look(job)
    await write(store, 1)
    assert (await sizes(db))[1] == 1


async def test_minutes_may_come_twice(db: asyncpg.Connection, control: ControlSession) -> None:
    """The clock was set back: both are kept, and nothing fails."""
    await write(LagStore(control), 2)
    await write(LagStore(control), 1, [Entry("g", "t", 9, 9)])
    rows = await db.fetch("SELECT minute, max(lag) FROM kafka.lag_history GROUP BY minute ORDER BY minute")
    assert [row[1] for row in rows] == [9, 1]


async def test_columns_of_different_lengths_are_refused(db: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await db.execute("INSERT INTO kafka.lag_minutes VALUES (0, now(), '{a}', '{}', '{1}', '{1}')")
