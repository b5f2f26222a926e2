"""Strangers: roles that may connect to the database and do nothing else take advisory locks that are ours."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from tests.postgres import Database, PostgresServer
from tests.storage.leader import leading, stop_beating
from tests.storage.test_membership import Waiting, beaten, joined
from tests.wire_batches import batch, values

from pg_kafka.cluster import membership
from pg_kafka.cluster.incarnation import History
from pg_kafka.errors import FatalError, StorageError
from pg_kafka.storage import locks, migrate, sessions
from pg_kafka.storage.migrate import migrate as migrate_schema

OURS = 1885825894
FOREIGN = "somebody else has an advisory lock of pg-kafka's"


class Stranger:
    """A session of a role with CONNECT and nothing else."""

    def __init__(self, connection: asyncpg.Connection, pid: int) -> None:
        self.connection = connection
        self.pid = pid

    async def share(self, *numbers: int) -> None:
        for number in numbers:
            await self.connection.execute("SELECT pg_advisory_lock_shared($1::int, $2::int)", OURS, number)

    async def hold(self, *numbers: int) -> None:
        for number in numbers:
            await self.connection.execute("SELECT pg_advisory_lock($1::int, $2::int)", OURS, number)


@pytest.fixture
async def stranger(postgres_server: PostgresServer, pg_database: Database) -> AsyncIterator[Stranger]:
    name = f"stranger_{pg_database.name}"
    postgres_server.sql(f"CREATE ROLE {name} LOGIN NOSUPERUSER")
    connection = await asyncpg.connect(
        postgres_server.dsn(pg_database.name, name), server_settings={"application_name": "nosy"}
    )
    yield Stranger(connection, await connection.fetchval("SELECT pg_backend_pid()"))
    connection.terminate()
    postgres_server.sql(
        f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = '{name}'; DROP ROLE {name}"
    )


@pytest.fixture
async def sql(pg_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(pg_dsn)
    await migrate_schema(connection)
    yield connection
    await connection.close()


async def until_waiting(sql: asyncpg.Connection, pid: int) -> None:
    async with asyncio.timeout(20):
        while not await sql.fetchval(  # noqa: ASYNC110 - PostgreSQL tells nobody that a session waits
            "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND NOT granted)", pid
        ):
            await asyncio.sleep(0.01)


def named(caplog: pytest.LogCaptureFixture) -> list[tuple[Any, ...]]:
    return [
        (vars(record)["pid"], vars(record)["role"], vars(record)["application"])
        for record in caplog.records
        if record.getMessage() == FOREIGN
    ]


@pytest.mark.parametrize("postgres_server", ["postgresql-15", "embedded"], indirect=True)
@pytest.mark.parametrize("mode", ["share", "hold"])
async def test_stranger_cannot_block_a_take_over(
    pg_dsn: str, sql: asyncpg.Connection, stranger: Stranger, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = await joined(pg_dsn, History(), [])
    assert first.incarnation is not None
    writer = await first.open_writer("lane 0") if mode == "share" else None
    await stop_beating(first)
    await getattr(stranger, mode)(first.incarnation.lock_id)
    second = Waiting(pg_dsn, eviction_ms=300)
    incarnation = await second.took_over()
    assert incarnation.epoch == first.incarnation.epoch + 1
    role = await stranger.connection.fetchval("SELECT session_user::text")
    assert named(caplog) == [(stranger.pid, role, "nosy")]
    if writer is not None:
        with pytest.raises((*sessions.CONNECTION_ERRORS, asyncpg.PostgresError)):
            await writer.connection.execute("SELECT 1")
        writer.drop()
    assert await stranger.connection.fetchval("SELECT 1") == 1
    (await second.member.open_writer("lane 0")).drop()
    await second.member.leave()
    first.abandon()


async def test_sessions_of_a_fenced_broker_are_ended_though_whoever_marked_it_died(
    pg_dsn: str, sql: asyncpg.Connection
) -> None:
    first = await joined(pg_dsn, History(), [])
    writer = await first.open_writer("lane 0")
    await sql.execute("UPDATE kafka.brokers SET status = 'fenced'")
    second = Waiting(pg_dsn)
    await second.took_over()
    with pytest.raises((*sessions.CONNECTION_ERRORS, asyncpg.PostgresError)):
        await writer.connection.execute("SELECT 1")
    writer.drop()
    await second.member.leave()
    first.abandon()


async def test_holder_that_may_write_is_named_when_it_cannot_be_ended(
    pg_dsn: str, pg_superuser_dsn: str, sql: asyncpg.Connection
) -> None:
    """It may be a session of a broker with another role, so that nobody takes over beside it."""
    first = await joined(pg_dsn, History(), [])
    assert first.incarnation is not None
    admin = await asyncpg.connect(pg_superuser_dsn)
    pid = await admin.fetchval("SELECT pg_backend_pid()")
    await admin.execute("SELECT pg_advisory_lock_shared($1::int, $2::int)", OURS, first.incarnation.lock_id)
    await first.leave()
    second = Waiting(pg_dsn)
    with pytest.raises(StorageError, match=rf"held by process {pid} \(role postgres, application -\)"):
        await second.took_over()
    await admin.close()
    third = Waiting(pg_dsn)
    await third.took_over()
    await third.member.leave()


async def test_member_of_a_role_that_may_write_counts_as_one(
    postgres_server: PostgresServer, pg_database: Database, sql: asyncpg.Connection, stranger: Stranger
) -> None:
    """It may become that role at any time, even when it inherits nothing."""
    await stranger.share(4711)
    assert [user["may_write"] for user in await locks.users(sql, [4711])] == [False]
    role = await stranger.connection.fetchval("SELECT session_user::text")
    postgres_server.sql(f"ALTER ROLE {role} NOINHERIT; GRANT {pg_database.name} TO {role}")
    assert [user["may_write"] for user in await locks.users(sql, [4711])] == [True]


async def test_heartbeat_goes_on_when_a_stranger_has_its_lock(
    pg_dsn: str, sql: asyncpg.Connection, stranger: Stranger, caplog: pytest.LogCaptureFixture
) -> None:
    history, ends = History(), list[str]()
    first = await joined(pg_dsn, history, ends, heartbeat_ms=50)
    assert first.incarnation is not None
    queued = asyncio.create_task(stranger.hold(first.incarnation.heartbeat_lock_id))
    await until_waiting(sql, stranger.pid)
    await sql.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pg_kafka heartbeat'"
        " AND datname = current_database()"
    )
    await asyncio.wait_for(queued, 20)
    await beaten(history, 5)
    assert ends == []
    assert named(caplog)[0][0] == stranger.pid
    second = await Waiting(pg_dsn, eviction_ms=1000).begun()
    await beaten(history, 40)
    assert not second.joining.done()
    await second.end()
    await first.leave()


async def test_numbers_taken_in_advance_are_left_alone(
    pg_dsn: str, sql: asyncpg.Connection, stranger: Stranger
) -> None:
    taken = range(1, 200)
    await stranger.hold(*taken)
    first = await joined(pg_dsn, History(), [])
    assert first.incarnation is not None
    writer = await first.open_writer("lane 0")
    numbers = (first.incarnation.lock_id, first.incarnation.heartbeat_lock_id, writer.lock_id)
    assert not set(numbers) & set(taken)
    assert len(set(numbers)) == 3
    writer.drop()
    await first.leave()


async def test_stranger_that_keeps_sessions_from_their_lock_is_named(
    pg_dsn: str, sql: asyncpg.Connection, stranger: Stranger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "LOCK_TIMEOUT_S", 0.3)
    first = await joined(pg_dsn, History(), [])
    assert first.incarnation is not None
    await stranger.hold(first.incarnation.lock_id)
    with pytest.raises(StorageError, match=rf"its lock is held by process {stranger.pid} \(role stranger_.*nosy\)"):
        await first.open_writer("lane 0")
    await first.leave()


async def test_lane_finds_its_lost_backend_gone_though_a_stranger_has_its_lock(
    pg_dsn: str, sql: asyncpg.Connection, stranger: Stranger
) -> None:
    async with leading(pg_dsn) as leader:
        partition = await leader.partition(await leader.topic("t"))
        numbers = await sql.fetch(
            "SELECT l.objid::bigint::int AS number FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
            " WHERE l.locktype = 'advisory' AND l.mode = 'ExclusiveLock' AND a.application_name LIKE 'pg_kafka lane%'"
            " AND a.datname = current_database()"
        )
        assert numbers
        queued = asyncio.create_task(stranger.share(numbers[0]["number"]))
        await until_waiting(sql, stranger.pid)
        await sql.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'pg_kafka lane%'"
            " AND datname = current_database()"
        )
        await asyncio.wait_for(queued, 20)
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(StorageError):
                    partition = await leader.partition(partition.topic)
                    if not (await leader.append(partition, batch(values(b"a")))).error:
                        break
                await asyncio.sleep(0.05)


async def test_stranger_cannot_block_a_start(
    pg_dsn: str, sql: asyncpg.Connection, stranger: Stranger, caplog: pytest.LogCaptureFixture
) -> None:
    await stranger.share(0)
    await asyncio.wait_for(migrate_schema(sql), 20)
    assert named(caplog)[0][0] == stranger.pid


async def test_stranger_that_blocks_the_first_start_is_named(
    pg_dsn: str, stranger: Stranger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is there yet that says who may write."""
    monkeypatch.setattr(migrate, "LOCK_TIMEOUT_S", 0.3)
    await stranger.share(0)
    connection = await asyncpg.connect(pg_dsn)
    with pytest.raises(FatalError, match=rf"process {stranger.pid} \(role stranger_"):
        await migrate_schema(connection)
    await connection.close()
