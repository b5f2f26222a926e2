"""Who changed what is in kafka.audit_log: once, with the client's principal by wire and with the role by SQL."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
from tests.broker.groupclient import commit, delete_group, fresh_group
from tests.broker.rawclient import RawClient, batch, only
from tests.broker.test_delete_records import deleted
from tests.postgres import Database, PostgresServer

from pg_kafka.broker.audit import ONE_BY_ONE
from pg_kafka.config.changes import Operation
from pg_kafka.wire.messages.create_partitions import CreatePartitionsRequest, CreatePartitionsTopic
from pg_kafka.wire.messages.incremental_alter_configs import (
    AlterableConfig,
    AlterConfigsResource,
    IncrementalAlterConfigsRequest,
)
from pg_kafka.wire.messages.metadata import MetadataRequest, MetadataRequestTopic
from pg_kafka.wire.messages.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteRequestPartition,
    OffsetDeleteRequestTopic,
)
from pg_kafka.wire.messages.write_txn_markers import (
    WritableTxnMarker,
    WritableTxnMarkerTopic,
    WriteTxnMarkersRequest,
)

METADATA, WRITE_TXN_MARKERS, CREATE_PARTITIONS, INCREMENTAL, OFFSET_DELETE = 3, 27, 37, 44, 47
TOPIC, BROKER, LOGGER, GROUP = 2, 4, 8, 32


@dataclass
class World:
    client: RawClient
    db: asyncpg.Connection
    broker: Any

    async def rows(self, resource: str) -> list[tuple[str, str]]:
        """Event and detail of what is there of a resource, in order."""
        return [
            (row["event"], row["detail"])
            for row in await self.db.fetch(
                "SELECT event, detail FROM kafka.audit_log WHERE resource = $1 ORDER BY entry", resource
            )
        ]

    async def until(self, resource: str, count: int) -> list[tuple[str, str]]:
        """Waits until a resource has so many rows: they are written behind the answers."""
        async with asyncio.timeout(30):
            while len(found := await self.rows(resource)) < count:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.02)
        return found


@pytest.fixture
async def world(broker: Any) -> AsyncIterator[World]:
    db = await asyncpg.connect(broker.dsn, server_settings={"application_name": "deployment"})
    async with await RawClient.connect(broker) as client:
        yield World(client, db, broker)
    await db.close()


async def altered(client: RawClient, kind: int, name: str, **configs: str) -> int:
    wanted = [
        AlterableConfig(name=key.replace("_", "."), config_operation=Operation.SET, value=value)
        for key, value in configs.items()
    ]
    resource = AlterConfigsResource(resource_type=kind, resource_name=name, configs=wanted)
    answer = await client.call(IncrementalAlterConfigsRequest(resources=[resource]), INCREMENTAL, 1)
    code: int = only(answer.responses).error_code
    return code


async def test_life_of_a_topic_by_wire_is_noted_once(world: World) -> None:
    client = world.client
    topic = await client.create_topic(2, retention_ms="5000")
    grown = CreatePartitionsRequest(
        topics=[CreatePartitionsTopic(name=topic.name, count=3, assignments=None)], timeout_ms=10_000
    )
    assert only((await client.call(grown, CREATE_PARTITIONS, 3)).results).error_code == 0
    assert await altered(client, TOPIC, topic.name, retention_ms="6000") == 0
    assert await altered(client, TOPIC, topic.name, retention_ms="no number") != 0
    await client.produce(topic, batch([b"a", b"b"]))
    assert await deleted(client, topic.name, (0, 1)) == [(0, 1, 0)]
    await client.delete_topic(topic)
    assert await world.until(f"topic {topic.name}", 5) == [
        ("topic created", "partitions=2 retention.ms=5000"),
        ("topic changed", "partitions=3"),
        ("topic changed", "set retention.ms=6000"),
        ("records deleted", "partitions: 0 begins at 1"),
        ("topic deleted", ""),
    ]
    row = await world.db.fetchrow("SELECT * FROM kafka.audit_log WHERE resource = $1 LIMIT 1", f"topic {topic.name}")
    assert (row["via"], row["principal"], row["address"]) == ("kafka", "User:ANONYMOUS", "127.0.0.1")
    assert (row["listener"], row["succeeded"], row["times"]) == ("PLAINTEXT", True, 1)


async def test_topic_that_asking_has_created_is_noted(world: World) -> None:
    name = f"asked-{secrets.token_hex(4)}"
    request = MetadataRequest(topics=[MetadataRequestTopic(name=name)], allow_auto_topic_creation=True)
    await world.client.call(request, METADATA, 8)
    assert await world.until(f"topic {name}", 1) == [("topic created", "partitions=1")]


async def test_groups_and_settings_by_wire(world: World) -> None:
    client, group = world.client, fresh_group()
    topic = await client.create_topic(2)
    assert await commit(client, group, topic, {0: 7, 1: 8, 9: 1}) == {0: 0, 1: 0, 9: 3}
    asked = OffsetDeleteRequestTopic(name=topic.name, partitions=[OffsetDeleteRequestPartition(partition_index=0)])
    answer = await client.call(OffsetDeleteRequest(group_id=group, topics=[asked]), OFFSET_DELETE, 0)
    assert answer.error_code == 0
    assert await altered(client, GROUP, group, consumer_session_timeout_ms="46000") == 0
    assert await delete_group(client, group) == 0
    assert await world.until(f"group {group}", 4) == [
        ("offsets set", f"{topic.name}-0=7, {topic.name}-1=8"),
        ("offsets deleted", f"1 partitions of {topic.name}"),
        ("group config changed", "set consumer.session.timeout.ms=46000"),
        ("group deleted", ""),
    ]
    node = await world.db.fetchval("SELECT node_id FROM kafka.brokers WHERE status = 'live'")
    before = await world.rows(f"broker {node}")
    assert await altered(client, BROKER, str(node), message_max_bytes="1048588") == 0
    assert (
        await client.call(
            IncrementalAlterConfigsRequest(
                resources=[
                    AlterConfigsResource(
                        resource_type=LOGGER,
                        resource_name=str(node),
                        configs=[AlterableConfig(name="pg_kafka.groups", config_operation=0, value="WARN")],
                    )
                ]
            ),
            INCREMENTAL,
            1,
        )
    ).responses[0].error_code == 0
    assert (await world.until(f"broker {node}", len(before) + 2))[len(before) :] == [
        ("setting changed", "set message.max.bytes=1048588"),
        ("logger changed", "set pg_kafka.groups=WARN"),
    ]


async def test_marker_that_an_administrator_writes_is_noted(world: World) -> None:
    topic = await world.client.create_topic()
    producer_id = 10**12 + secrets.randbelow(10**9)
    marker = WritableTxnMarker(
        producer_id=producer_id,
        producer_epoch=3,
        transaction_result=False,
        coordinator_epoch=0,
        topics=[WritableTxnMarkerTopic(name=topic.name, partition_indexes=[0])],
    )
    await world.client.call(WriteTxnMarkersRequest(markers=[marker]), WRITE_TXN_MARKERS, 1)
    assert await world.until(f"producer id {producer_id}", 1) == [
        ("transaction aborted", f"epoch 3, markers in {topic.name}-0")
    ]


async def test_changes_by_sql_have_the_role_and_are_noted_in_their_transaction(world: World) -> None:
    name = f"by-sql-{secrets.token_hex(4)}"
    async with world.db.transaction():
        await world.db.execute("INSERT INTO kafka.topics (name, partitions) VALUES ($1, 2)", name)
        await world.db.execute("SELECT kafka.set_topic_config($1, 'retention.ms', '5000')", name)
        assert len(await world.rows(f"topic {name}")) == 2
    await world.db.execute("SELECT kafka.set_config('log.retention.bytes', '123456', 77)")
    await world.db.execute("SELECT * FROM kafka.delete_records($1, now())", name)
    await world.db.execute("DELETE FROM kafka.topics WHERE name = $1", name)
    assert await world.rows(f"topic {name}") == [
        ("topic created", "partitions=2 configs={}"),
        ("topic changed", 'partitions=2 configs={"retention.ms": "5000"}'),
        ("records deleted", ""),
        ("topic deleted", ""),
    ]
    assert await world.rows("setting pg_kafka.log_retention_bytes") == [("setting created", "123456 (node 77)")]
    row = await world.db.fetchrow("SELECT * FROM kafka.audit_log WHERE resource = $1 LIMIT 1", f"topic {name}")
    role = await world.db.fetchval("SELECT session_user")
    assert (row["via"], row["principal"], row["application"]) == ("sql", role, "deployment")
    transaction = world.db.transaction()
    await transaction.start()
    await world.db.execute("INSERT INTO kafka.topics (name, partitions) VALUES ($1, 2)", name + "-not")
    await transaction.rollback()
    assert await world.rows(f"topic {name}-not") == []


async def test_name_of_a_session_hides_nobody_who_may_not_write_the_log(
    world: World, postgres15: PostgresServer
) -> None:
    """Sessions of brokers are left out, as the broker notes for whom it changes something."""
    role, name = f"admin_{secrets.token_hex(4)}", f"hidden-{secrets.token_hex(4)}"
    database = str(await world.db.fetchval("SELECT current_database()"))
    postgres15.sql(
        f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA kafka TO {role}; GRANT INSERT ON kafka.topics TO {role};",
        database,
    )
    try:
        admin = await asyncpg.connect(
            postgres15.dsn(database, role), server_settings={"application_name": "pg_kafka control"}
        )
        await admin.execute("INSERT INTO kafka.topics (name, partitions) VALUES ($1, 1)", name)
        await admin.close()
    finally:
        postgres15.sql(f"DROP OWNED BY {role}; DROP ROLE {role};", database)
    assert (await world.rows(f"topic {name}"))[0][0] == "topic created"


async def test_commits_from_outside_are_counted_when_they_are_many(start_broker: Callable[..., Any]) -> None:
    broker = start_broker()
    async with await RawClient.connect(broker) as client:
        topic, group = await client.create_topic(), fresh_group()
        for offset in range(ONE_BY_ONE + 7):
            await commit(client, group, topic, {0: offset})
    broker.process.terminate()
    await asyncio.to_thread(broker.process.wait, 60)
    db = await asyncpg.connect(broker.dsn)
    rows = await db.fetch(
        "SELECT times, address, detail FROM kafka.audit_log WHERE event = 'offsets set' ORDER BY entry"
    )
    await db.close()
    assert [row["times"] for row in rows] == [1] * ONE_BY_ONE + [7]
    assert rows[-1]["address"] == "127.0.0.1"


async def test_line_of_the_log_says_the_same(start_broker: Callable[..., Any]) -> None:
    broker = start_broker(LOG_LEVEL="info")
    async with await RawClient.connect(broker) as client:
        topic = await client.create_topic()
    (line,) = (one for one in broker.log.read_text().splitlines() if "source=audit" in one)
    assert 'message="topic created"' in line and "principal=User:ANONYMOUS" in line
    assert "address=127.0.0.1" in line and f'resource="topic {topic.name}"' in line


async def test_texts_that_postgresql_cannot_hold_are_noted_all_the_same(world: World) -> None:
    group = f"nul-{secrets.token_hex(4)}-\N{SNOWMAN}"
    topic = await world.client.create_topic()
    assert await commit(world.client, group, topic, {0: 1}) == {0: 0}
    assert await world.until(f"group {group}", 1)


async def test_old_rows_go_and_the_latest_stay(pg_database: Database, start_broker: Callable[..., Any]) -> None:
    start_broker(AUDIT_ROWS="1500").process.terminate()
    db = await asyncpg.connect(pg_database.dsn)
    await db.execute(
        "INSERT INTO kafka.audit_log (event, via, principal) SELECT 'login', 'kafka', n::text FROM generate_series(1, 5000) n"
    )
    for _ in range(10):
        await db.execute("SELECT kafka.trim_audit(1500, -1)")
    first, count = await db.fetchrow("SELECT min(principal::int), count(*) FROM kafka.audit_log")
    assert (first, count) == (3501, 1500)
    await db.execute("UPDATE kafka.audit_log SET happened_at = now() - interval '2 days'")
    for _ in range(10):
        await db.execute("SELECT kafka.trim_audit(1500, 86400000)")
    assert await db.fetchval("SELECT count(*) FROM kafka.audit_log") == 1000
    await db.close()
