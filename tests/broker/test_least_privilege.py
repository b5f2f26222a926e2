"""The broker with a role that cannot change the schema: what clients use, once more.

The tests that are imported here run with the `broker` of this module.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.broker.command import Done, run
from tests.broker.conftest import RunningBroker, serving
from tests.broker.rawclient import RawClient, batch
from tests.broker.test_audit import (  # noqa: F401
    test_changes_by_sql_have_the_role_and_are_noted_in_their_transaction,
    test_life_of_a_topic_by_wire_is_noted_once,
    world,
)
from tests.broker.test_groups import (  # noqa: F401
    test_consumers_share_the_partitions,
    test_members_join_and_are_assigned_in_every_version,
)
from tests.broker.test_packed_topics import test_large_batch_is_kept_while_sql_asks_for_its_topic  # noqa: F401
from tests.broker.test_transactions import (  # noqa: F401
    test_committed_is_seen_and_aborted_is_not,
    test_many_partitions_of_several_topics_end_together,
)
from tests.postgres import Database, PostgresServer

SETTINGS = {
    "SERIES_BYTES": "100000",
    "LOG_RETENTION_CHECK_INTERVAL_MS": "200",
    "LOG_INITIAL_TASK_DELAY_MS": "0",
    "LOG_CLEANER_BACKOFF_MS": "200",
    "GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
    "GROUP_MIN_SESSION_TIMEOUT_MS": "100",
}


@dataclass
class Split:
    """A database with an owner and a role for brokers."""

    database: Database
    dsn: str


@pytest.fixture(scope="module")
def split(postgres15: PostgresServer) -> Iterator[Split]:
    """Set up as docs/security.md says."""
    database = postgres15.create_database()
    role = f"broker_{secrets.token_hex(4)}"
    postgres15.sql(f"CREATE ROLE {role} LOGIN PASSWORD '{postgres15.password}'; GRANT {role} TO {database.name};")
    try:
        assert migrated(database, role) == Done(0, "", "")
        yield Split(database, postgres15.dsn(database.name, role))
    finally:
        postgres15.drop_database(database)
        postgres15.sql(f"DROP ROLE IF EXISTS {role};")


def migrated(database: Database, role: str) -> Done:
    return run("migrate", "--database", database.dsn, "--grant-broker", role)


@pytest.fixture(scope="module")
def broker(split: Split, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    with serving(split.dsn, tmp_path_factory.mktemp("least"), SETTINGS) as running:
        # What tests of this module do by SQL, the owner does.
        running.dsn = split.database.dsn
        yield running
    assert "permission denied" not in running.log.read_text()
    assert "must be owner" not in running.log.read_text()


@pytest.fixture(scope="module")
def group_broker(broker: RunningBroker) -> RunningBroker:
    return broker


@pytest.fixture
async def client(broker: RunningBroker) -> AsyncIterator[RawClient]:
    async with await RawClient.connect(broker) as connected:
        yield connected


@pytest.fixture
async def connect(broker: RunningBroker) -> AsyncIterator[Callable[[], Awaitable[RawClient]]]:
    clients: list[RawClient] = []

    async def make() -> RawClient:
        clients.append(await RawClient.connect(broker))
        return clients[-1]

    yield make
    for one in clients:
        await one.close()


@pytest.fixture
async def db(broker: RunningBroker) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(broker.dsn)
    yield connection
    await connection.close()


async def until(db: asyncpg.Connection, question: str, *arguments: Any) -> None:
    async with asyncio.timeout(60):
        while not await db.fetchval(question, *arguments):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)


async def test_topic_with_a_series_of_its_own_comes_and_goes(client: RawClient, db: asyncpg.Connection) -> None:
    topic = await client.create_topic(segment_bytes="1048576")
    topic_id = await db.fetchval("SELECT id FROM kafka.topics WHERE name = $1", topic.name)
    for _ in range(40):
        assert (await client.produce(topic, batch([secrets.token_bytes(1000) for _ in range(60)]))).error_code == 0
    await until(db, "SELECT series = id FROM kafka.topics WHERE id = $1", topic_id)
    for _ in range(40):
        assert (await client.produce(topic, batch([secrets.token_bytes(1000) for _ in range(60)]))).error_code == 0
    await until(db, "SELECT count(*) > 1 FROM kafka.segments WHERE series = $1", topic_id)
    await until(db, "SELECT bool_or(state = 'frozen') FROM kafka.segments WHERE series = $1", topic_id)
    await until(db, "SELECT view_name IS NOT NULL FROM kafka.topics WHERE id = $1", topic_id)
    assert await db.fetchval(f'SELECT count(*) FROM topics."{topic.name}"') == 4800
    owners = await db.fetch(
        "SELECT DISTINCT pg_get_userbyid(relowner) = current_user FROM pg_class WHERE relname LIKE 'log\\_' || $1 || '%'",
        str(topic_id),
    )
    assert [row[0] for row in owners] == [False]
    await client.delete_topic(topic)
    await until(db, "SELECT to_regclass(format('kafka.log_%s', $1::bigint)) IS NULL", topic_id)
    await until(db, "SELECT NOT EXISTS (SELECT FROM kafka.deleted_topics WHERE id = $1)", topic_id)
    assert await db.fetchval("SELECT to_regclass($1)", f'topics."{topic.name}"') is None


async def test_records_that_are_too_old_go(client: RawClient, db: asyncpg.Connection) -> None:
    topic = await client.create_topic(retention_ms="1000")
    assert (await client.produce(topic, batch([b"old"] * 10))).error_code == 0
    question = (
        "SELECT coalesce((SELECT s.log_start_offset = 10 FROM kafka.log_starts s JOIN kafka.topics t ON t.id = s.topic "
        "WHERE t.name = $1), false)"
    )
    await until(db, question, topic.name)


async def test_setting_the_rights_again_disturbs_no_broker(client: RawClient, split: Split) -> None:
    topic = await client.create_topic()
    role = split.dsn.partition("://")[2].partition("@")[0]
    assert await asyncio.to_thread(migrated, split.database, role) == Done(0, "", "")
    assert (await client.produce(topic, batch([b"a"]))).error_code == 0


async def test_killed_broker_is_taken_over_by_the_next(
    postgres15: PostgresServer, pg_database: Database, tmp_path: Path
) -> None:
    role = f"broker_{secrets.token_hex(4)}"
    postgres15.sql(f"CREATE ROLE {role} LOGIN; GRANT {role} TO {pg_database.name};")
    try:
        assert (await asyncio.to_thread(migrated, pg_database, role)).code == 0
        dsn = postgres15.dsn(pg_database.name, role)
        with serving(dsn, tmp_path, {}) as first:
            async with await RawClient.connect(first) as client:
                topic = await client.create_topic()
                assert (await client.produce(topic, batch([b"a", b"b"]))).base_offset == 0
            first.process.send_signal(signal.SIGKILL)
            with serving(dsn, tmp_path, {}) as second:
                async with await RawClient.connect(second) as client:
                    assert (await client.produce(topic, batch([b"c"]))).base_offset == 2
    finally:
        postgres15.sql(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role};", pg_database.name)
