"""dedup_id: a repeat within the window does nothing and returns the id of the first call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from tests.storage.janitors import janitor_of, job
from tests.storage.log_rows import add_topic, connect_migrated
from tests.storage.test_produce import BOTH, outbox

PRODUCE = "SELECT kafka.produce($1, $2, dedup_id => $3)"
ROTATE = "SELECT kafka.rotate_deduplication()"
# As if the window had passed since: of what is in the tables, or since a table was emptied.
AGE_CALLS = """
    UPDATE kafka.deduplication_0 SET called_at = called_at - interval '6 minutes';
    UPDATE kafka.deduplication_1 SET called_at = called_at - interval '6 minutes'
"""
AGE_TURN = "UPDATE kafka.deduplication_turn SET emptied_at = emptied_at - interval '6 minutes'"


@pytest.fixture
async def db(pg_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect_migrated(pg_dsn)
    await add_topic(connection, "orders")
    await add_topic(connection, "invoices")
    yield connection
    await connection.close()


@pytest.fixture
async def other(pg_dsn: str, db: asyncpg.Connection) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(pg_dsn)
    yield connection
    await connection.close()


async def produced(db: asyncpg.Connection) -> list[bytes]:
    return [row["values"][0] for row in await outbox(db)]


async def until_waiting(db: asyncpg.Connection, waiting: asyncpg.Connection) -> None:
    pid = waiting.get_server_pid()
    async with asyncio.timeout(30):
        while not await db.fetchval("SELECT cardinality(pg_blocking_pids($1)) > 0", pid):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@BOTH
async def test_a_repeat_returns_the_id_of_the_first(db: asyncpg.Connection, other: asyncpg.Connection) -> None:
    first = await db.fetchval(PRODUCE, "orders", "a", "x")
    assert await other.fetchval(PRODUCE, "orders", "b", "x") == first
    assert await db.fetchval(PRODUCE, "orders", "c", "y") != first
    assert await db.fetchval(PRODUCE, "invoices", "d", "x") != first
    async with db.transaction():
        own = await db.fetchval(PRODUCE, "orders", "e", "z")
        assert await db.fetchval(PRODUCE, "orders", "f", "z") == own
    assert await produced(db) == [b"a", b"c", b"d", b"e"]


async def test_what_was_rolled_back_is_no_first(db: asyncpg.Connection) -> None:
    await db.execute("BEGIN; SELECT kafka.produce('orders', 'a', dedup_id => 'x'); ROLLBACK")
    await db.execute("BEGIN; SAVEPOINT s; SELECT kafka.produce('orders', 'b', dedup_id => 'x'); ROLLBACK TO s")
    await db.execute("SELECT kafka.produce('orders', 'c', dedup_id => 'x'); COMMIT")
    await db.execute(PRODUCE, "orders", "d", "x")
    assert await produced(db) == [b"c"]


@pytest.mark.parametrize("commits", [True, False])
async def test_a_concurrent_repeat_waits(db: asyncpg.Connection, other: asyncpg.Connection, commits: bool) -> None:
    transaction = db.transaction()
    await transaction.start()
    first = await db.fetchval(PRODUCE, "orders", "a", "x")
    repeat = asyncio.create_task(other.fetchval(PRODUCE, "orders", "b", "x"))
    await until_waiting(db, other)
    await (transaction.commit() if commits else transaction.rollback())
    assert (await repeat == first) is commits
    assert await produced(db) == [b"a" if commits else b"b"]


@pytest.mark.parametrize("rotated", [0, 1, 2])
async def test_with_a_snapshot_a_repeat_that_it_does_not_show_is_a_serialization_failure(
    db: asyncpg.Connection, other: asyncpg.Connection, rotated: int
) -> None:
    with pytest.raises(asyncpg.SerializationError):
        async with db.transaction(isolation="repeatable_read"):
            await db.fetch("SELECT FROM kafka.topics")
            await other.execute(PRODUCE, "orders", "a", "x")
            for _ in range(rotated):
                await other.execute(AGE_TURN)
                assert await other.fetchval(ROTATE)
                await other.execute(PRODUCE, "orders", "b", "x")
            await db.execute(PRODUCE, "orders", "c", "x")
    assert await produced(db) == [b"a", *([b"b"] if rotated == 2 else [])]


@BOTH
async def test_after_the_window_it_counts_again(db: asyncpg.Connection) -> None:
    first = await db.fetchval(PRODUCE, "orders", "a", "x")
    await db.execute(AGE_CALLS)
    second = await db.fetchval(PRODUCE, "orders", "b", "x")
    assert second > first
    assert await db.fetchval(PRODUCE, "orders", "c", "x") == second
    await db.execute("SELECT kafka.set_config('pg_kafka.dedup_window_ms', '604800000')")
    await db.execute(AGE_CALLS)
    assert await db.fetchval(PRODUCE, "orders", "d", "x") == second
    assert await produced(db) == [b"a", b"b"]


@BOTH
async def test_rotation_forgets_nothing_within_the_window(db: asyncpg.Connection) -> None:
    first = await db.fetchval(PRODUCE, "orders", "a", "x")
    assert not await db.fetchval(ROTATE)  # the window has just begun
    await db.execute(AGE_TURN)
    assert await db.fetchval(ROTATE)
    assert not await db.fetchval(ROTATE)
    assert await db.fetchval(PRODUCE, "orders", "b", "x") == first
    later = await db.fetchval(PRODUCE, "orders", "c", "y")
    await db.execute(AGE_TURN)
    await db.execute(AGE_CALLS.replace("6 minutes", "1 minute"))
    assert await db.fetchval(ROTATE)
    assert await db.fetchval(PRODUCE, "orders", "d", "y") == later
    counts = "SELECT (SELECT count(*) FROM kafka.deduplication_0), (SELECT count(*) FROM kafka.deduplication_1)"
    await db.execute(AGE_TURN)
    assert await db.fetchval(ROTATE)
    await db.execute(AGE_TURN)
    assert await db.fetchval(ROTATE)
    assert tuple(await db.fetchrow(counts)) == (0, 0)
    assert await produced(db) == [b"a", b"c"]


async def test_rotation_does_not_wait(db: asyncpg.Connection, other: asyncpg.Connection) -> None:
    await db.execute(AGE_TURN)
    async with other.transaction():
        await other.execute(PRODUCE, "orders", "a", "x")
        assert not await db.fetchval(ROTATE)
    assert await db.fetchval(ROTATE)
    assert await db.fetchval(PRODUCE, "orders", "b", "x") == (await outbox(db))[0]["id"]


async def test_the_janitor_rotates(pg_dsn: str, db: asyncpg.Connection) -> None:
    class Lanes: ...

    janitor = janitor_of(pg_dsn, Lanes(), owner=1)  # type: ignore[arg-type]
    await janitor._connect()
    try:
        await db.execute(PRODUCE, "orders", "a", "x")
        await db.execute(AGE_TURN)
        assert await job(janitor, "forget dedup ids").step() is False
        assert await db.fetchval("SELECT emptied_at > now() - interval '1 minute' FROM kafka.deduplication_turn")
        assert await db.fetchval("SELECT count(*) FROM kafka.deduplication_1") == 0
        assert await db.fetchval("SELECT count(*) FROM kafka.deduplication_0") == 1
    finally:
        janitor._site.drop()


@BOTH
async def test_dedup_ids_that_nobody_forgets_have_a_bound(db: asyncpg.Connection) -> None:
    await db.execute("SELECT kafka.set_config('pg_kafka.outbox_max_bytes', '16777216')")
    await db.execute("""
        INSERT INTO kafka.deduplication_0 (topic, dedup_id, id)
        SELECT 0, repeat('x', 500) || n, n FROM generate_series(1, 30000) AS n
    """)
    with pytest.raises(asyncpg.PostgresError) as caught:
        await db.execute("SELECT kafka.produce('orders', repeat('x', 100000))")
    assert caught.value.sqlstate == "KF005"
    await db.execute("TRUNCATE kafka.deduplication_0")
    await db.execute("SELECT kafka.produce('orders', repeat('x', 100000))")
