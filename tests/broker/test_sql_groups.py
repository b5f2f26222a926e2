"""Groups that SQL drives (kafka.poll), as Kafka's clients see them: they may look, and take no part."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest
from tests.broker.conftest import RunningBroker
from tests.broker.groupclient import (
    OFFSET_DELETE,
    Consumer,
    Member,
    commit,
    delete_group,
    described,
    described_consumers,
    fetched,
    fresh_group,
    listed,
)
from tests.broker.rawclient import RawClient, SomeTopic, only
from tests.broker.test_commit_offsets import alone, connected, told
from tests.wire_batches import batch, values

from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteRequestPartition,
    OffsetDeleteRequestTopic,
)

StartBroker = Callable[..., RunningBroker]
POLL = "SELECT partition_offset FROM kafka.poll($1::text, $2::text, $3)"


@pytest.fixture
async def client(group_broker: Any) -> AsyncIterator[RawClient]:
    async with await RawClient.connect(group_broker) as client:
        yield client


@pytest.fixture
async def db(group_broker: Any) -> AsyncIterator[asyncpg.Connection]:
    async with connected(group_broker) as connection:
        yield connection


async def filled(client: RawClient, records: int = 10) -> SomeTopic:
    topic = await client.create_topic()
    answer = await client.produce(topic, batch(values(*(b"%d" % n for n in range(records)))))
    assert answer.error_code == ErrorCode.NONE
    return topic


async def driven(client: RawClient, db: asyncpg.Connection, records: int = 3) -> tuple[str, SomeTopic]:
    """A group that has polled some records of a topic of ten, and the broker knows it."""
    topic, group = await filled(client), fresh_group()
    assert [row[0] for row in await db.fetch(POLL, group, topic.name, records)] == list(range(records))
    await known(client, group)
    return group, topic


async def known(client: RawClient, group: str) -> None:
    async with asyncio.timeout(30):
        while group not in await listed(client):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.05)


async def test_a_group_that_polls_is_shown_as_one_that_is_in_use(client: RawClient, db: asyncpg.Connection) -> None:
    group, topic = await driven(client, db)
    found = (await listed(client))[group]
    assert (found.group_state, found.group_type, found.protocol_type) == ("Stable", "classic", "consumer")
    answer = await described(client, group)
    assert (answer.group_state, answer.protocol_type, answer.protocol_data) == ("Stable", "consumer", "sql")
    assert not answer.members
    assert (await described_consumers(client, group)).error_code == ErrorCode.GROUP_ID_NOT_FOUND
    for version in (1, 5, 7, 8, 9):
        assert await fetched(client, group, topic, version=max(version, 8)) == {0: 3}
    assert await fetched(client, group, None) == {0: 3}
    await db.fetch(POLL, group, topic.name, 4)
    assert await fetched(client, group, topic) == {0: 7}, "what is committed is told at once"


async def test_what_a_poll_has_not_committed_is_not_told(client: RawClient, db: asyncpg.Connection) -> None:
    group, topic = await driven(client, db)
    async with db.transaction():
        await db.fetch(POLL, group, topic.name, 4)
        assert await told(client, group, topic) == (ErrorCode.NONE, 3)


async def test_members_are_refused(client: RawClient, db: asyncpg.Connection) -> None:
    group, topic = await driven(client, db)
    member = Member(client, group)
    for version in (0, 5, 9):
        assert (await member.join(version)).error_code == ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    member.member_id, member.generation = "was-here", 3
    assert await member.heartbeat() == ErrorCode.UNKNOWN_MEMBER_ID
    assert (await member.sync()).error_code == ErrorCode.UNKNOWN_MEMBER_ID
    for version in (2, 5):
        answer = await member.leave(version)
        code = answer.error_code if version == 2 else only(answer.members).error_code
        assert code == ErrorCode.UNKNOWN_MEMBER_ID
    assert await member.commit(topic, {0: 1}) == {0: ErrorCode.NON_EMPTY_GROUP}
    refused = await Consumer(client, group).heartbeat([topic.name])
    assert refused.error_code == ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert refused.error_message == f"Group {group} is driven by SQL (kafka.poll). Use a group id of your own."
    assert await fetched(client, group, topic) == {0: 3}


async def test_tools_cannot_set_offsets_and_can_delete_the_group(client: RawClient, db: asyncpg.Connection) -> None:
    group, topic = await driven(client, db)
    assert await commit(client, group, topic, {0: 0}) == {0: ErrorCode.NON_EMPTY_GROUP}
    request = OffsetDeleteRequest(
        group_id=group,
        topics=[
            OffsetDeleteRequestTopic(name=topic.name, partitions=[OffsetDeleteRequestPartition(partition_index=0)])
        ],
    )
    answer = await client.call(request, OFFSET_DELETE, 0)
    assert only(only(answer.topics).partitions).error_code == ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC
    async with db.transaction():
        await db.fetch(POLL, group, topic.name, 1)
        assert await delete_group(client, group) == ErrorCode.NON_EMPTY_GROUP
    assert await delete_group(client, group) == ErrorCode.NONE
    assert group not in await listed(client)
    assert await fetched(client, group, topic) == {0: -1}
    assert await db.fetchval("SELECT count(*) FROM kafka.consumer_offsets WHERE group_id = $1", group) == 0
    assert await delete_group(client, group) == ErrorCode.GROUP_ID_NOT_FOUND


async def test_a_group_with_members_refuses_to_poll(client: RawClient, db: asyncpg.Connection) -> None:
    topic = await filled(client)
    member = await alone(client, fresh_group(), topic)
    with pytest.raises(asyncpg.PostgresError, match="driven by Kafka clients") as raised:
        await db.fetch(POLL, member.group, topic.name, 1)
    assert raised.value.sqlstate == "KF010"
    await member.leave()
    assert len(await db.fetch(POLL, member.group, topic.name, 1)) == 1


async def test_sql_goes_on_where_clients_were_and_clients_where_they_were(
    client: RawClient, db: asyncpg.Connection
) -> None:
    topic = await filled(client)
    group = fresh_group()
    await commit(client, group, topic, {0: 4})
    assert [row[0] for row in await db.fetch(POLL, group, topic.name, 2)] == [4, 5]
    async with asyncio.timeout(30):
        while (await described(client, group)).protocol_data != "sql":  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert await fetched(client, group, topic) == {0: 6}
    await db.execute("SELECT kafka.delete_sql_group($1)", group)
    async with asyncio.timeout(30):
        while (await described(client, group)).protocol_data == "sql":  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert await fetched(client, group, topic) == {0: 4}
    await alone(client, group, topic)


async def test_a_member_that_joins_while_sql_claims_its_group_is_told_no_offset(
    client: RawClient, db: asyncpg.Connection
) -> None:
    topic, group = await filled(client), fresh_group()
    async with db.transaction():
        assert len(await db.fetch(POLL, group, topic.name, 3)) == 3
        member = await alone(client, group, topic)  # nobody can know of the transaction
        assert await told(client, group, topic) == (ErrorCode.UNSTABLE_OFFSET_COMMIT, -1)
        assert await told(client, group, topic, is_stable=False) == (ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, -1)
    for is_stable in (True, False):
        code, _ = await told(client, group, topic, is_stable=is_stable)
        assert code == ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
    assert await member.heartbeat() == ErrorCode.UNKNOWN_MEMBER_ID
    member.member_id = ""
    assert (await member.join()).error_code == ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    async with asyncio.timeout(30):
        while await db.fetchval("SELECT count(*) FROM kafka.group_members WHERE group_id = $1", group):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_a_claim_that_is_rolled_back_leaves_the_group_to_its_members(
    client: RawClient, db: asyncpg.Connection
) -> None:
    topic, group = await filled(client), fresh_group()
    transaction = db.transaction()
    await transaction.start()
    await db.fetch(POLL, group, topic.name, 3)
    member = await alone(client, group, topic)
    await transaction.rollback()
    assert await told(client, group, topic) == (ErrorCode.NONE, -1)
    assert await member.heartbeat() == ErrorCode.NONE
    with pytest.raises(asyncpg.PostgresError, match="driven by Kafka clients"):
        await db.fetch(POLL, group, topic.name, 3)


async def test_commit_offsets_is_for_groups_of_clients(client: RawClient, db: asyncpg.Connection) -> None:
    group, topic = await driven(client, db)
    with pytest.raises(asyncpg.PostgresError, match="is driven by SQL") as raised:
        await db.execute(
            "SELECT kafka.commit_offsets($1, '', -1, $2::text::jsonb)", group, json.dumps({topic.name: {"0": 1}})
        )
    assert raised.value.sqlstate == "KF011"


async def test_another_broker_learns_of_it(start_broker: StartBroker, tmp_path: Any) -> None:
    broker = start_broker()
    async with await RawClient.connect(broker) as client, connected(broker) as db:
        group, topic = await driven(client, db)
    broker.process.terminate()
    broker.process.wait(30)
    again = start_broker()
    async with await RawClient.connect(again) as client:
        assert (await Member(client, group).join()).error_code == ErrorCode.INCONSISTENT_GROUP_PROTOCOL
        assert await fetched(client, group, topic) == {0: 3}
