"""The tables of commits take turns while groups poll, also beside held snapshots and open transactions; groups expire."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import subprocess
from collections.abc import AsyncIterator

import asyncpg
import pytest
from tests.postgres import PostgresServer
from tests.storage.janitors import janitor_of, job
from tests.storage.log_rows import add_topic, connect_migrated
from tests.storage.polling import Connect, committed, drained, fill, polled, sessions

from pg_kafka.storage.upkeep.janitor import Janitor
from pg_kafka.storage.upkeep.job import Job

BOTH = pytest.mark.parametrize("postgres_server", ["postgresql-15", "embedded"], indirect=True)
COUNTS = "SELECT " + ", ".join(f"(SELECT count(*) FROM kafka.sql_commits_{n})" for n in range(4))


@pytest.fixture
async def db(pg_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect_migrated(pg_dsn)
    topic = await add_topic(connection, "orders", 2)
    for partition in (0, 1):
        await fill(connection, topic, 200, partition=partition)
    await polled(connection, 0)
    yield connection
    await connection.close()


@pytest.fixture
async def connect(pg_dsn: str) -> AsyncIterator[Connect]:
    """More sessions."""
    async with sessions(pg_dsn) as opened:
        yield opened


@pytest.fixture
async def janitor(pg_dsn: str, db: asyncpg.Connection) -> AsyncIterator[Janitor]:
    """Not started: tests take the steps. Every table has grown, and nobody is given time."""

    class Lanes: ...

    made = janitor_of(pg_dsn, Lanes(), owner=1, journal_bytes=0, snapshot_grace_s=0.0)  # type: ignore[arg-type]
    await made._connect()
    yield made
    made._site.drop()


def turning(janitor: Janitor) -> Job:
    return job(janitor, "turn SQL commits")


async def state(db: asyncpg.Connection) -> tuple[int, list[int], list[int]]:
    """The active table, those that count, and those that wait to be emptied."""
    row = await db.fetchrow("SELECT active, counting, copied_at FROM kafka.sql_commit_state")
    return row["active"], row["counting"], [n for n in range(4) if row["copied_at"][n]]


async def counts(db: asyncpg.Connection) -> list[int]:
    return [int(count) for count in await db.fetchrow(COUNTS)]


async def turn(janitor: Janitor, journal_bytes: int = 0) -> None:
    """The active table has grown, and everything is done that can be done now."""
    options = janitor._site.options
    janitor._site.options = dataclasses.replace(options, journal_bytes=journal_bytes)
    await turning(janitor).step()
    janitor._site.options = dataclasses.replace(options, journal_bytes=1 << 40)
    while await turning(janitor).step():
        pass


@BOTH
async def test_tables_take_turns(db: asyncpg.Connection, janitor: Janitor) -> None:
    found: list[tuple[int, int]] = []
    for active in (1, 0, 1, 0):
        for _ in range(3):
            found += await polled(db, 10)
        before = await committed(db)
        await turn(janitor)
        assert await state(db) == (active, [active], [])
        assert await counts(db) == [2 if n == active else 0 for n in range(4)]
        assert await committed(db) == before
    assert sorted(found + await drained(db)) == [(p, n) for p in (0, 1) for n in range(200)]


async def test_each_step_alone_keeps_the_offsets(db: asyncpg.Connection, janitor: Janitor) -> None:
    """As if the broker ended after any of them."""
    found: list[tuple[int, int]] = []
    for number in range(24):
        found += await polled(db, 4)
        before = await committed(db)
        if number % 3 == 0:
            assert await db.fetchval("SELECT kafka.switch_sql_commits()") is not None
        active, counting, copied = await state(db)
        if number % 3 == 1:
            for table in set(counting) - {active}:
                await db.execute("SELECT kafka.copy_sql_commits($1)", table)
        if number % 3 == 2:
            for table in copied:
                await db.execute("SELECT kafka.empty_sql_commits($1)", table)
        assert await committed(db) == before
    assert sorted(found + await drained(db)) == [(p, n) for p in (0, 1) for n in range(200)]


async def test_open_transaction_keeps_its_own_table(db: asyncpg.Connection, connect: Connect, janitor: Janitor) -> None:
    slow, other = await connect(), await connect()
    transaction = slow.transaction()
    await transaction.start()
    ((mine, _), *_) = got = await polled(slow, 10)
    rest = []
    for _ in range(6):
        rest += await polled(other, 10)
        await turn(janitor)
        async with asyncio.timeout(10):
            assert (await committed(db))[1 - mine] == len(rest)
    active, counting, copied = await state(db)
    # Others have had several turns meanwhile.
    assert counting == [0, active] and copied == [] and active != 0
    assert await db.fetchval("SELECT turn FROM kafka.sql_commit_state") > 10
    await transaction.commit()
    await turn(janitor)
    assert [n > 0 for n in await counts(db)].count(True) == 1
    assert await committed(db) == {mine: 10, 1 - mine: len(rest)}
    found = got + rest + await drained(db)
    assert sorted(found) == [(p, n) for p in (0, 1) for n in range(200)]


async def test_transaction_that_only_looked_on_keeps_a_table_from_being_emptied(
    db: asyncpg.Connection, connect: Connect, janitor: Janitor
) -> None:
    looker = await connect()
    async with looker.transaction(isolation="repeatable_read"):
        before = await committed(looker)
        await polled(db, 10)
        await turn(janitor)
        assert (await state(db))[2] == [0]
        assert await committed(looker) == before
    await turn(janitor, 1 << 40)
    assert (await state(db))[2] == []


@pytest.mark.parametrize("isolation", ["repeatable_read", "serializable"])
@pytest.mark.parametrize("steps", ["switched", "copied", "emptied"])
async def test_older_snapshot_is_refused_after_a_turn(
    db: asyncpg.Connection, connect: Connect, steps: str, isolation: str
) -> None:
    """What it sees of the tables is not what counts: an empty table is no reason to begin anew."""
    assert len(await polled(db, 10)) == 10
    older = await connect()
    with pytest.raises(asyncpg.SerializationError, match="have moved"):
        async with older.transaction(isolation=isolation):
            await older.fetch("SELECT FROM kafka.topics")
            await db.execute("SELECT kafka.switch_sql_commits()")
            if steps != "switched":
                await db.execute("SELECT kafka.copy_sql_commits(0::smallint)")
            if steps == "emptied":
                await db.execute("SELECT kafka.empty_sql_commits(0::smallint)")
            await polled(older, 10)
    async with older.transaction(isolation=isolation):
        assert len(await polled(older, 400)) == 390


async def test_held_snapshot_delays_and_slows_nothing(
    db: asyncpg.Connection, connect: Connect, janitor: Janitor
) -> None:
    holder = await connect()

    async def buffers() -> int:
        rows = await db.fetch("EXPLAIN (ANALYZE, BUFFERS, FORMAT json) SELECT * FROM kafka.poll('g', 'orders', 1)")
        plan = json.loads(rows[0][0])[0]["Plan"]
        return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])

    async with holder.transaction(isolation="repeatable_read"):
        await holder.fetch("SELECT FROM kafka.topics")
        for _ in range(10):
            await polled(db, 1)
        at_first = min([await buffers() for _ in range(5)])
        for _ in range(120):
            await polled(db, 1)
            await db.execute("BEGIN")
            await polled(db, 1)
            await db.execute("ROLLBACK")
        # Blocks that one poll looks at: as many as before, though none of 240 commits can be vacuumed.
        assert min([await buffers() for _ in range(5)]) <= at_first + 10
        # And the tables take turns all the same.
        await turn(janitor)
        assert await state(db) == (1, [1], [])
        assert await counts(db) == [0, 2, 0, 0]
    assert len(await drained(db)) == 400 - 10 - 5 - 120 - 5


async def test_polls_beside_turning_tables(db: asyncpg.Connection, connect: Connect, janitor: Janitor) -> None:
    is_over = asyncio.Event()
    found: list[tuple[int, int]] = []

    async def work() -> None:
        session = await connect()
        while len(found) < 400:
            async with session.transaction():
                got = await polled(session, 3)
                await asyncio.sleep(0)
            found.extend(got)

    async def keep_turning() -> None:
        while not is_over.is_set():
            await turn(janitor)
            await asyncio.sleep(0)

    async with asyncio.timeout(90), asyncio.TaskGroup() as group:
        turner = group.create_task(keep_turning())
        try:
            await asyncio.gather(*(work() for _ in range(4)))
        finally:
            is_over.set()
        await turner
    assert sorted(found) == [(p, n) for p in (0, 1) for n in range(200)]
    assert await db.fetchval("SELECT turn FROM kafka.sql_commit_state") > 6


async def test_turn_that_was_announced_and_lost_is_made_good(db: asyncpg.Connection, janitor: Janitor) -> None:
    await db.execute("SELECT setval('kafka.sql_commit_turns', 77)")  # its transaction did not commit
    assert len(await polled(db, 10)) == 10
    with pytest.raises(asyncpg.SerializationError):
        async with db.transaction(isolation="repeatable_read"):
            await polled(db, 10)
    await turn(janitor, 1 << 40)
    async with db.transaction(isolation="repeatable_read"):
        assert len(await polled(db, 10)) == 10
    assert await db.fetchval("SELECT turn FROM kafka.sql_commit_state") == 78


async def test_what_nobody_needs_is_not_copied(db: asyncpg.Connection, janitor: Janitor) -> None:
    other = await add_topic(db, "gone")
    await fill(db, other, 10)
    await db.fetch("SELECT * FROM kafka.poll('g', 'gone')")
    await polled(db, 10, group="h")
    await db.execute("DELETE FROM kafka.topics WHERE name = 'gone'")
    assert await db.fetchval("SELECT kafka.delete_sql_group('h')") is True
    assert await db.fetchval("SELECT kafka.delete_sql_group('h')") is False
    await turn(janitor)
    assert await counts(db) == [0, 2, 0, 0]
    expire = job(janitor, "expire SQL groups")
    assert await expire.step() is False
    assert await db.fetchval("SELECT count(*) FROM kafka.sql_group_topics") == 1


async def test_group_expires_when_nobody_polls_it(db: asyncpg.Connection, connect: Connect, janitor: Janitor) -> None:
    expire = job(janitor, "expire SQL groups")

    async def look() -> list[str]:
        expire._looks_at = float("-inf")  # type: ignore[attr-defined]
        await expire.step()
        return [row[0] for row in await db.fetch("SELECT group_id FROM kafka.sql_groups ORDER BY 1")]

    await polled(db, 10, group="busy")
    await polled(db, 10, group="open")
    await db.execute(
        "UPDATE kafka.sql_groups SET polled_at = now() - interval '8 days';"
        "UPDATE kafka.sql_commits_0 c SET committed_at = now() - interval '8 days' FROM kafka.sql_groups g "
        "WHERE g.number = c.group_number AND g.group_id <> 'busy'"
    )
    other = await connect()
    async with other.transaction():
        await polled(other, 0, group="open")
        assert await look() == ["busy", "open"]
    # Whoever polls, also in vain, keeps the group.
    assert await look() == ["busy", "open"]
    await db.execute("INSERT INTO kafka.broker_configs VALUES (1, 'offsets.retention.minutes', '1', 'test')")
    await db.execute(
        "UPDATE kafka.sql_groups SET polled_at = now() - interval '12 minutes';"
        "UPDATE kafka.sql_commits_0 SET committed_at = now() - interval '12 minutes'"
    )
    assert await look() == []
    assert await polled(db, 1, group="busy", start="latest") == []


async def test_group_that_is_polled_is_not_deleted(db: asyncpg.Connection, connect: Connect) -> None:
    other = await connect()
    async with other.transaction():
        await polled(other, 1)
        with pytest.raises(asyncpg.ObjectInUseError, match="is polled at the moment"):
            await db.execute("SELECT kafka.delete_sql_group('g')")
    async with other.transaction(isolation="repeatable_read"):
        await other.fetch("SELECT FROM kafka.topics")
        await db.execute("SELECT kafka.delete_sql_group('g')")
        with pytest.raises(asyncpg.SerializationError):
            async with other.transaction():  # a savepoint
                await polled(other, 1)


async def test_dump_and_restore_keep_the_offsets(
    db: asyncpg.Connection, pg_superuser_dsn: str, postgres_server: PostgresServer, janitor: Janitor
) -> None:
    await polled(db, 30)
    await turn(janitor)
    await polled(db, 30)
    before = await committed(db)
    dump = await asyncio.to_thread(
        subprocess.run,
        [postgres_server.binaries / "pg_dump", "--no-owner", "--no-privileges", "--dbname", pg_superuser_dsn],
        check=True,
        capture_output=True,
    )
    database = postgres_server.create_database()
    try:
        await asyncio.to_thread(
            subprocess.run,
            [
                postgres_server.binaries / "psql",
                "-q",
                "-v",
                "ON_ERROR_STOP=1",
                "-X",
                "--dbname",
                database.superuser_dsn,
            ],
            check=True,
            input=dump.stdout,
            capture_output=True,
        )
        restored = await asyncpg.connect(database.superuser_dsn)
        try:
            assert await committed(restored) == before
            async with restored.transaction(isolation="repeatable_read"):
                assert len(await polled(restored, 400)) == 340
        finally:
            await restored.close()
    finally:
        postgres_server.drop_database(database)
